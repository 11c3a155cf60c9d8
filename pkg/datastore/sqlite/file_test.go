package sqlite

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"skiff/pkg/datastore/repair"
)

// TestLogStaysSmall writes many times what the log may hold, with readers.
func TestLogStaysSmall(t *testing.T) {
	s := openNew(t)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, _, err := s.List(t.Context(), "/registry/k/", "/registry/k0", 100, 0, false); err != nil {
					t.Error(err)
				}
			}
		})
	}
	value := []byte(strings.Repeat("v", 20_000))
	var largest int64
	var writers sync.WaitGroup
	for w := range 16 {
		writers.Go(func() {
			for i := range 150 {
				if _, err := s.Create(t.Context(), fmt.Sprintf("/registry/k/%d-%d", w, i), value, 0); err != nil {
					t.Error(err)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() {
		writers.Wait()
		close(done)
	}()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		size, err := sizeOf(s.file.path + "-wal")
		if err != nil {
			t.Fatal(err)
		}
		largest = max(largest, size)
	}
	close(stop)
	wg.Wait()
	if largest > 16<<20 {
		t.Errorf("the log grew to %d bytes, want at most 16 MiB", largest)
	}
}

// TestFileBecomesSmaller removes most of what was in a database.
func TestFileBecomesSmaller(t *testing.T) {
	s := openAt(t, options(t.TempDir()))
	for i := range 600 {
		if _, err := s.Create(t.Context(), fmt.Sprintf("/k/%d", i), []byte(strings.Repeat("v", 20_000)), 0); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 550 {
		if _, _, ok, err := s.Delete(t.Context(), fmt.Sprintf("/k/%d", i), 0); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	at, err := s.CurrentRevision(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Compact(t.Context(), at); err != nil {
		t.Fatal(err)
	}
	closeStore(t, s)
	size, err := sizeOf(s.file.path)
	if err != nil || size > 7_000_000 {
		t.Errorf("the file has %d bytes, %v, want less than the 12 MB that were in it", size, err)
	}
}

// TestBackupWhileOpen copies a database in use, from the same process.
func TestBackupWhileOpen(t *testing.T) {
	s := openNew(t)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 200 {
				if _, err := s.Create(t.Context(), fmt.Sprintf("/k/%d-%d", w, i), []byte("v"), 0); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range 5 {
		before, err := s.CurrentRevision(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(t.TempDir(), fmt.Sprintf("copy%d.db", i))
		if err := repair.Backup(t.Context(), s.file.path, to); err != nil {
			t.Fatal(err)
		}
		c, err := connect(to, "_query_only=1")
		if err != nil {
			t.Fatal(err)
		}
		if got, err := c.number(newestSQL); err != nil || got < before {
			t.Errorf("the copy ends at revision %d, %v, want at least %d", got, err, before)
		}
		if err := c.close(); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
	if _, n, err := s.Count(t.Context(), "/k/", "/k0", 0); err != nil || n != 800 {
		t.Errorf("Count = %d, %v, want 800", n, err)
	}
}
