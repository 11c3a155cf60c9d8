package repair_test

import (
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"skiff/pkg/datastore/repair"
)

// TestTransfer copies a database of kine's past a filter, and has kine read it.
func TestTransfer(t *testing.T) {
	dir := t.TempDir()
	from := filepath.Join(dir, "state.db")
	b, stop := stock(t, from)
	defer stop()
	revisions := make(map[string]int64)
	for _, key := range []string{"/registry/kept", "/registry/changed", "/registry/dropped", "/registry/gone"} {
		revision, err := b.Create(t.Context(), key, []byte("first"), 0)
		if err != nil {
			t.Fatal(err)
		}
		if revisions[key], _, _, err = b.Update(t.Context(), key, []byte("value of "+key), revision, 0); err != nil {
			t.Fatal(err)
		}
	}
	last, _, ok, err := b.Delete(t.Context(), "/registry/gone", revisions["/registry/gone"])
	if err != nil || !ok {
		t.Fatalf("delete: %v, %v", ok, err)
	}
	stop()

	c, err := repair.Borrow(t.Context(), from, filepath.Join(dir, "copy.db"))
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(dir, "new.db")
	keys, err := c.WriteTo(t.Context(), to, by, func(key string, value []byte) ([]byte, bool) {
		switch key {
		case "/registry/changed":
			return []byte("another"), true
		case "/registry/kept":
			return value, true
		}
		return nil, false
	})
	if err != nil || keys != 2 {
		t.Fatalf("%d keys, %v", keys, err)
	}
	if err := c.Remove(); err != nil {
		t.Error(err)
	}
	if revision, err := repair.Revision(t.Context(), to); err != nil || revision < last+by {
		t.Errorf("revision %d after %d, %v", revision, last, err)
	}
	again, end := stock(t, to)
	defer end()
	_, list, err := again.List(t.Context(), "/registry/", "/registry0", 0, 0, false)
	if err != nil {
		t.Fatal(err)
	}
	type kv struct {
		Key, Value string
		Revision   int64
	}
	var got []kv
	for _, item := range list {
		if item.Key != "/registry/health" { // Kine's own.
			got = append(got, kv{item.Key, string(item.Value), item.ModRevision})
		}
	}
	want := []kv{{"/registry/changed", "another", revisions["/registry/changed"]}, {"/registry/kept", "value of /registry/kept", revisions["/registry/kept"]}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
