package images

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
)

func TestPauseArchiveIsDeterministic(t *testing.T) {
	a, da, err := pauseArchive("skiff.local/pause:1", []byte("elf"))
	if err != nil {
		t.Fatal(err)
	}
	b, db, err := pauseArchive("skiff.local/pause:1", []byte("elf"))
	if err != nil {
		t.Fatal(err)
	}
	ab, _ := io.ReadAll(a)
	bb, _ := io.ReadAll(b)
	if da != db || !bytes.Equal(ab, bb) {
		t.Error("two archives of the same executable differ")
	}
	if _, dc, _ := pauseArchive("skiff.local/pause:1", []byte("other")); dc == da {
		t.Error("the digest does not tell executables apart")
	}
	var names []string
	for r := tar.NewReader(bytes.NewReader(ab)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, filepath.Dir(h.Name))
	}
	if diff := cmp.Diff([]string{".", ".", "blobs/sha256", "blobs/sha256", "blobs/sha256"}, names); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestOpenArchive(t *testing.T) {
	plain, err := tarOf(map[string]file{"a": {data: []byte("b"), mode: 0o644}}, []string{"a"})
	if err != nil {
		t.Fatal(err)
	}
	var gz bytes.Buffer
	w := gzip.NewWriter(&gz)
	if _, err := w.Write(bytes.Repeat([]byte{0}, 1)); err != nil {
		t.Fatal(err)
	}
	gz.Reset()
	w.Reset(&gz)
	// Incompressible enough to be longer than what is peeked at.
	noise := make([]byte, 4096)
	for i := range noise {
		noise[i] = byte(i * i >> 3)
	}
	big, err := tarOf(map[string]file{"a": {data: noise, mode: 0o644}}, []string{"a"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(big); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		data []byte
		want []byte // nil: refused
	}{
		{"plain", plain, plain},
		{"gzip", gz.Bytes(), big},
		{"zstd", enc.EncodeAll(big, nil), big},
		{"text", bytes.Repeat([]byte("no archive "), 100), nil},
		{"short", []byte("x"), nil},
		{"empty", nil, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			// The name must not matter.
			path := filepath.Join(t.TempDir(), "image.tar")
			if err := os.WriteFile(path, tt.data, 0o600); err != nil {
				t.Fatal(err)
			}
			a, err := openArchive(path)
			if tt.want == nil {
				if err == nil {
					t.Error("accepted")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(a)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, tt.want) {
				t.Errorf("read %d bytes that are not the archive's %d", len(got), len(tt.want))
			}
			if err := a.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestFullName(t *testing.T) {
	for name, want := range map[string]string{
		"skiff.test/tool:1":              "skiff.test/tool:1",
		"registry.k8s.io/pause":          "registry.k8s.io/pause:latest",
		"docker.io/library/busybox:1.36": "docker.io/library/busybox:1.36",
		"latest":                         "",
		"busybox:1":                      "",
		"Not A Name":                     "",
	} {
		if got := fullName(name); got != want {
			t.Errorf("fullName(%q) = %q, want %q", name, got, want)
		}
	}
}

func TestState(t *testing.T) {
	dir := t.TempDir()
	path, archive := filepath.Join(dir, "state.json"), filepath.Join(dir, "a.tar")
	if err := os.WriteFile(archive, []byte("1"), 0o600); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(archive)
	if err != nil {
		t.Fatal(err)
	}
	logger := slog.New(slog.DiscardHandler)
	s := loadState(path, logger)
	if s.same(archive, info) {
		t.Error("a new archive is taken for one that was imported")
	}
	if err := s.record(archive, info, []string{"x:1"}); err != nil {
		t.Fatal(err)
	}
	s = loadState(path, logger)
	if !s.same(archive, info) || !cmp.Equal(s.images(archive), []string{"x:1"}) {
		t.Error("an imported archive is not remembered")
	}
	if err := os.Chtimes(archive, time.Time{}, info.ModTime().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if info, err = os.Stat(archive); err != nil || s.same(archive, info) {
		t.Errorf("a changed archive is taken for the same (%v)", err)
	}
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if s := loadState(path, logger); len(s.Files) != 0 {
		t.Error("a broken state file was used")
	}
}

// TestWatchWaitsForTheWriter checks that a file is handed out once, and not
// before it has held still.
func TestWatchWaitsForTheWriter(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.tar")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		w := &watch{pending: map[string]*candidate{}}
		write("1")
		w.touch(path, false)
		w.touch(filepath.Join(filepath.Dir(path), ".hidden"), false)
		if got, wait := w.first(time.Now()); got != path || wait != settle {
			t.Errorf("first = %s in %s, want %s in %s", got, wait, path, settle)
		}
		time.Sleep(settle)
		if got, wait := w.first(time.Now()); got != path || wait > 0 {
			t.Errorf("first = %s in %s, want it to be due", got, wait)
		}
		if len(w.pending) != 1 {
			t.Errorf("%d files wait, want 1: hidden ones are temporary", len(w.pending))
		}
	})
}
