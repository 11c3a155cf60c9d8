package keyindex

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRange(t *testing.T) {
	x := New()
	for i, k := range []string{"/a/1", "/a/2", "/a/2\x00", "/a/3", "/b/1", "/a0"} {
		x.Put(Entry{Key: k, Mod: int64(i + 1)})
	}
	x.Delete("/nowhere")
	tests := []struct {
		name string
		r    Range
		want []string
	}{
		{"prefix", Range{Key: "/a/", End: "/a0"}, []string{"/a/1", "/a/2", "/a/2\x00", "/a/3"}},
		{"continue", Range{Key: "/a/2\x00", End: "/a0"}, []string{"/a/2\x00", "/a/3"}},
		{"from key", Range{Key: "/a/3", Unbounded: true}, []string{"/a/3", "/a0", "/b/1"}},
		{"empty", Range{Key: "/c", End: "/d"}, nil},
		{"backwards", Range{Key: "/b", End: "/a"}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			x.Walk(tt.r, func(e Entry) bool {
				got = append(got, e.Key)
				return true
			})
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
			if n := x.Count(tt.r); n != int64(len(tt.want)) {
				t.Errorf("Count = %d, want %d", n, len(tt.want))
			}
		})
	}
}

// TestAgainstMap compares with a map that is sorted when it is asked.
func TestAgainstMap(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	x, m := New(), map[string]Entry{}
	for i := range 5000 {
		key := fmt.Sprintf("/k/%03d", r.IntN(500))
		if r.IntN(3) == 0 {
			x.Delete(key)
			delete(m, key)
			continue
		}
		e := Entry{Key: key, Create: 1, Mod: int64(i), Lease: int64(i % 2)}
		x.Put(e)
		m[key] = e
		if got, ok := x.Get(key); !ok || got != e {
			t.Fatalf("Get(%s) = %v, %v", key, got, ok)
		}
	}
	var want, got []Entry
	for _, e := range m {
		want = append(want, e)
	}
	slices.SortFunc(want, func(a, b Entry) int { return strings.Compare(a.Key, b.Key) })
	x.Walk(Range{Unbounded: true}, func(e Entry) bool {
		got = append(got, e)
		return true
	})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if x.Len() != len(m) {
		t.Errorf("Len = %d, want %d", x.Len(), len(m))
	}
}
