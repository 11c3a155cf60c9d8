package atomicfile

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestWrite(t *testing.T) {
	long := time.Unix(1e9, 0)
	tests := []struct {
		name        string
		before      func(t *testing.T, path string)
		wantWritten bool
	}{
		{name: "new", before: func(*testing.T, string) {}, wantWritten: true},
		{name: "same", before: put("content", 0o640), wantWritten: false},
		{name: "same but mode", before: put("content", 0o600), wantWritten: false},
		{name: "same length", before: put("CONTENT", 0o640), wantWritten: true},
		{name: "longer", before: put("content and more", 0o640), wantWritten: true},
		{name: "symbolic link", before: func(t *testing.T, path string) {
			target := filepath.Join(t.TempDir(), "target")
			put("content", 0o640)(t, target)
			if err := os.Symlink(target, path); err != nil {
				t.Fatal(err)
			}
		}, wantWritten: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "file")
			tt.before(t, path)
			_ = os.Chtimes(path, long, long)
			if err := Write(path, []byte("content"), 0o640); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(path)
			if err != nil || string(got) != "content" {
				t.Errorf("content %q, error %v", got, err)
			}
			info, err := os.Lstat(path)
			if err != nil {
				t.Fatal(err)
			}
			if info.Mode() != 0o640 {
				t.Errorf("mode %v, want a regular file of 0640", info.Mode())
			}
			if written := !info.ModTime().Equal(long); written != tt.wantWritten {
				t.Errorf("written: %v, want %v", written, tt.wantWritten)
			}
			wantAlone(t, path)
		})
	}
}

// TestWriteFails checks that a failure at the last step leaves no litter.
func TestWriteFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.MkdirAll(filepath.Join(path, "in the way"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Write(path, []byte("x"), 0o600); err == nil {
		t.Error("a directory was replaced by a file")
	}
	wantAlone(t, path)
	if err := Write(filepath.Join(t.TempDir(), "missing", "file"), nil, 0o600); err == nil {
		t.Error("a missing directory is no error")
	}
}

func put(content string, mode fs.FileMode) func(*testing.T, string) {
	return func(t *testing.T, path string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
	}
}

func wantAlone(t *testing.T, path string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 {
		t.Errorf("directory holds %v, want only the file", entries)
	}
}
