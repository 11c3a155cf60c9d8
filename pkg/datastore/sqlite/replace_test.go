package sqlite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"skiff/pkg/datastore/repair"
)

// TestReplaceBySnapshot loses the whole file: the snapshot takes its place,
// with revisions that nobody has seen.
func TestReplaceBySnapshot(t *testing.T) {
	dir, saved := t.TempDir(), filepath.Join(t.TempDir(), "saved.db")
	s := openAt(t, options(dir))
	for i := range 20 {
		create(t, s, fmt.Sprintf("/registry/k/%d", i))
	}
	if err := repair.Backup(t.Context(), s.file.path, saved); err != nil {
		t.Fatal(err)
	}
	last := create(t, s, "/registry/after")
	closeStore(t, s)
	o := options(dir)
	if err := os.WriteFile(o.path(), []byte(strings.Repeat("x", 9000)), 0o600); err != nil {
		t.Fatal(err)
	}
	const jump = 5 * leap
	o.Snapshot = func(_ context.Context, to string) (string, int64, error) {
		data, err := os.ReadFile(saved)
		return "yesterday", jump, errors.Join(err, os.WriteFile(to, data, 0o600))
	}
	s = openAt(t, o)
	defer closeStore(t, s)
	if _, n, err := s.Count(t.Context(), "/registry/k/", "/registry/k0", 0); err != nil || n != 20 {
		t.Errorf("Count = %d, %v, want 20", n, err)
	}
	if next := create(t, s, "/registry/new"); next <= last+jump-100 {
		t.Errorf("the next revision is %d, want more than %d", next, last+jump-100)
	}
}

// TestExchangeIsFinished stops between the decision and its end.
func TestExchangeIsFinished(t *testing.T) {
	dir := t.TempDir()
	s := openAt(t, options(dir))
	create(t, s, "/registry/good")
	closeStore(t, s)
	path := s.file.path
	if err := os.Rename(path, s.file.replacement()); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{path: "damaged", path + "-wal": "a log of the damaged one"} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s = openAt(t, options(dir))
	defer closeStore(t, s)
	if _, kv, err := s.Get(t.Context(), "/registry/good", 0, false); err != nil || kv == nil {
		t.Errorf("Get = %v, %v, want the key of the replacement", kv, err)
	}
}

// TestDisposableBeginsAnew makes a store of events unreadable, twice.
func TestDisposableBeginsAnew(t *testing.T) {
	o := options(t.TempDir())
	o.Disposable = true
	last := int64(0)
	for range 3 {
		s := openAt(t, o)
		for i := range 5 {
			rev, err := s.Create(t.Context(), fmt.Sprintf("/registry/events/a/%d", i), []byte("e"), 0)
			if err != nil || rev <= last {
				t.Fatalf("Create = %d, %v, want a revision above %d", rev, err, last)
			}
			last = rev
		}
		closeStore(t, s)
		if err := os.WriteFile(o.path(), []byte(strings.Repeat("x", 9000)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
