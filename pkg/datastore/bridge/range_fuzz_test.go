package bridge

import (
	"bytes"
	"testing"
)

// FuzzKeyRange compares ranges with etcd's definition of them, byte by byte.
func FuzzKeyRange(f *testing.F) {
	for _, key := range []string{"", "\x00", "a", "a\x00", "a\x00b", "\xff", "\xff\xff", "ä", compactKey, compactRow, "gap-1"} {
		for _, end := range []string{"", "\x00", "b", "a\x00", "\xff", "a", compactKey} {
			f.Add([]byte(key), []byte(end), []byte("a"))
			f.Add([]byte(key), []byte(end), []byte(key))
			f.Add([]byte(key), []byte(end), []byte(end))
		}
	}
	f.Fuzz(func(t *testing.T, key, end, probe []byte) {
		r := newRange(key, end)
		if string(key) == compactKey && len(end) == 0 {
			key = []byte(compactRow)
		}
		if r.key != string(key) || r.end != string(end) {
			t.Fatalf("newRange(%q, %q) = %+v", key, end, r)
		}
		single, rest := len(end) == 0, string(end) == "\x00"
		want := bytes.Equal(probe, key)
		if !single {
			want = bytes.Compare(probe, key) >= 0 && (rest || bytes.Compare(probe, end) < 0)
		}
		if got := r.contains(string(probe)); got != want {
			t.Errorf("%+v contains %q = %v, want %v", r, probe, got, want)
		}
		empty := !single && !rest && bytes.Compare(key, end) >= 0
		if r.empty() != empty {
			t.Errorf("%+v is empty = %v, want %v", r, r.empty(), empty)
		}
		if empty && r.contains(string(probe)) {
			t.Errorf("the empty range %+v contains %q", r, probe)
		}
		// A query may ask for more, which contains sorts out, but for no less.
		from, to := r.query()
		if all := from == "" && to == ""; !all && (from != r.key || to != r.end) {
			t.Errorf("query of %+v = %q, %q", r, from, to)
		} else if all && !rest && (r.key != "" || r.end != "") {
			t.Errorf("query of %+v asks for everything", r)
		}
	})
}
