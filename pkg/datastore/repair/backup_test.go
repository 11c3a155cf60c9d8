package repair

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// TestBackupWhileWritten copies a database that somebody writes to: each copy
// is whole, and is a beginning of what was written.
func TestBackupWhileWritten(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state.db")
	fill(t, path, shapes()[0], 1000, 1)
	base := content(t, path)
	db := open(path, "mode=rw&_synchronous=OFF&_busy_timeout=30000")
	defer db.Close()
	stop := make(chan struct{})
	var writer sync.WaitGroup
	defer writer.Wait()
	defer close(stop)
	writer.Go(func() {
		for id := 1000000; ; id++ {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := db.Exec(`INSERT INTO kine (id, name, created, deleted, create_revision, prev_revision, lease, value) VALUES (?, ?, 1, 0, 0, 0, 0, 'v')`, id, fmt.Sprintf("/registry/live/%d", id)); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for i := range 5 {
		to := filepath.Join(dir, fmt.Sprintf("copy-%d.db", i))
		if err := Backup(t.Context(), path, to); err != nil {
			t.Fatal(err)
		}
		if fi, err := os.Stat(to); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("the copy: %v, %v, want mode 600", fi.Mode(), err)
		}
		got := content(t, to)
		live := 0
		for id := range got {
			if id >= 1000000 {
				live++
			}
		}
		for id := 1000000; id < 1000000+live; id++ {
			if _, ok := got[int64(id)]; !ok {
				t.Errorf("the copy has %d of the rows, but not %d", live, id)
			}
			delete(got, int64(id))
		}
		if diff := cmp.Diff(base, got); diff != "" {
			t.Errorf("copy %d (-want +got):\n%.500s", i, diff)
		}
	}
}

func TestBackupOfDamaged(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state.db")
	fill(t, path, shapes()[0], 1000, 1)
	pages := pagesOf(t, path)
	for id, p := range pages {
		if id%10 == 0 {
			damage(t, path, int64(p[len(p)-1]-1)*1024, 1024, rand.New(rand.NewPCG(0, 0)))
		}
	}
	to := filepath.Join(t.TempDir(), "copy.db")
	if err := Backup(t.Context(), path, to); !isDamaged(err) {
		t.Errorf("got %v, want damage", err)
	}
	alone(t, to)
}

func TestBackupMissing(t *testing.T) {
	to := filepath.Join(t.TempDir(), "copy.db")
	if err := Backup(t.Context(), filepath.Join(t.TempDir(), "none.db"), to); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want a missing file", err)
	}
	alone(t, to)
}

// TestBackupToFullDisk needs root, for a small file system of its own.
func TestBackupToFullDisk(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	path := filepath.Join(t.TempDir(), "state.db")
	fill(t, path, shapes()[0], 2000, 1)
	small := t.TempDir()
	if err := unix.Mount("tmpfs", small, "tmpfs", 0, "size=512k"); err != nil {
		t.Skipf("mount a small file system: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(small, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	to := filepath.Join(small, "copy.db")
	err := Backup(t.Context(), path, to)
	if !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "no space left in "+small) {
		t.Errorf("got %v, want one that names %s", err, small)
	}
	alone(t, to)
}

func TestCheck(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	fill(t, path, shapes()[0], 1000, 1)
	if err := Check(t.Context(), path); err != nil {
		t.Error(err)
	}
	damage(t, path, 0, 1024, rand.New(rand.NewPCG(0, 1)))
	if err := Check(t.Context(), path); !isDamaged(err) {
		t.Errorf("got %v, want damage", err)
	}
}
