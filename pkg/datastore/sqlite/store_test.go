package sqlite

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/k3s-io/kine/pkg/server"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// options are those of a store that a test opens more than once.
func options(dir string) Options {
	return Options{Dir: dir, Durability: Full, BootID: "first", Logger: slog.New(slog.DiscardHandler)}
}

func openAt(t *testing.T, o Options) *store {
	t.Helper()
	s, err := open(t.Context(), o, newMetrics("test"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func closeStore(t *testing.T, s *store) {
	t.Helper()
	if err := s.close(t.Context()); err != nil {
		t.Error(err)
	}
}

// crash copies the files of an open store to another directory: what a killed
// process leaves.
func crash(t *testing.T, s *store) (dir string) {
	t.Helper()
	dir = t.TempDir()
	files, err := filepath.Glob(s.file.path + "*")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if strings.HasSuffix(f, ".reserve") {
			continue
		}
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(f)), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestOneWins lets many update the same version of a key, create the same key,
// and delete the same version: of each, one succeeds, and the others are told
// what is there.
func TestOneWins(t *testing.T) {
	s := openNew(t)
	const clients = 40
	for round := range 20 {
		key := fmt.Sprintf("/registry/k/%d", round)
		var wins [3]int
		var mu sync.Mutex
		all := func(do func(i int) (bool, error), step int) {
			var wg sync.WaitGroup
			for i := range clients {
				wg.Go(func() {
					ok, err := do(i)
					mu.Lock()
					defer mu.Unlock()
					if err != nil {
						t.Error(err)
					}
					wins[step] += b2i(ok)
				})
			}
			wg.Wait()
		}
		all(func(i int) (bool, error) {
			_, err := s.Create(t.Context(), key, fmt.Append(nil, i), 0)
			if errors.Is(err, server.ErrKeyExists) {
				return false, nil
			}
			return err == nil, err
		}, 0)
		_, kv, err := s.Get(t.Context(), key, 0, false)
		if err != nil {
			t.Fatal(err)
		}
		all(func(i int) (bool, error) {
			at, now, ok, err := s.Update(t.Context(), key, fmt.Append(nil, "u", i), kv.ModRevision, 0)
			if err == nil && !ok && (now == nil || now.ModRevision <= kv.ModRevision || at < now.ModRevision) {
				t.Errorf("a lost update was answered with %+v at %d", now, at)
			}
			return ok, err
		}, 1)
		if _, kv, err = s.Get(t.Context(), key, 0, false); err != nil {
			t.Fatal(err)
		}
		all(func(int) (bool, error) {
			_, _, ok, err := s.Delete(t.Context(), key, kv.ModRevision)
			return ok, err
		}, 2)
		if diff := cmp.Diff([3]int{1, 1, 1}, wins); diff != "" {
			t.Fatalf("successful creates, updates, deletes: %s", diff)
		}
	}
}

// TestHistory reads every revision of a short history, with the index and
// without it, and again after a restart and a compaction.
func TestHistory(t *testing.T) {
	for _, limit := range []int{maxKeys, 1} {
		t.Run(fmt.Sprintf("keys in memory at most %d", limit), func(t *testing.T) {
			dir := t.TempDir()
			s := openAt(t, options(dir))
			s.maxKeys = limit
			model := map[int64]map[string]string{}
			now := map[string]string{}
			note := func(rev int64, err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
				model[rev] = maps.Clone(now)
			}
			put := func(key, value string) {
				_, kv, err := s.Get(t.Context(), key, 0, true)
				if err != nil {
					t.Fatal(err)
				}
				now[key] = value
				if kv == nil {
					note(s.Create(t.Context(), key, []byte(value), 0))
					return
				}
				rev, _, ok, err := s.Update(t.Context(), key, []byte(value), kv.ModRevision, 0)
				if !ok {
					t.Fatalf("update of %s failed", key)
				}
				note(rev, err)
			}
			remove := func(key string) {
				delete(now, key)
				rev, kv, ok, err := s.Delete(t.Context(), key, 0)
				if !ok || kv == nil {
					t.Fatalf("delete of %s: %v, %v", key, ok, kv)
				}
				note(rev, err)
			}
			for i := range 30 {
				put("/a/1", fmt.Sprint("one", i))
				put("/a/2", fmt.Sprint("two", i))
				put("/b/1", fmt.Sprint("other", i))
				remove("/a/1")
				if i%3 == 0 {
					remove("/a/2")
				}
			}
			check := func(s *store, from int64) {
				t.Helper()
				for rev, want := range model {
					if rev < from {
						if _, _, err := s.List(t.Context(), "/a/", "/a0", 0, rev, false); !errors.Is(err, server.ErrCompacted) {
							t.Fatalf("List at %d = %v, want compacted", rev, err)
						}
						continue
					}
					for _, r := range [][2]string{{"/a/", "/a0"}, {"/a/2", "\x00"}, {"/a/1", ""}} {
						_, kvs, err := s.List(t.Context(), r[0], r[1], 0, rev, false)
						if err != nil {
							t.Fatal(err)
						}
						got := map[string]string{}
						for _, kv := range kvs {
							got[kv.Key] = string(kv.Value)
						}
						expect := map[string]string{}
						for k, v := range want {
							if k >= r[0] && (r[1] == "\x00" || r[1] == "" && k == r[0] || k < r[1]) {
								expect[k] = v
							}
						}
						if diff := cmp.Diff(expect, got); diff != "" {
							t.Fatalf("%q at %d: %s", r, rev, diff)
						}
						_, n, err := s.Count(t.Context(), r[0], r[1], rev)
						if err != nil || n != int64(len(expect)) {
							t.Fatalf("Count of %q at %d = %d, %v, want %d", r, rev, n, err, len(expect))
						}
					}
				}
			}
			check(s, 0)
			closeStore(t, s)
			s = openAt(t, options(dir))
			check(s, 0)
			at, err := s.CurrentRevision(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Compact(t.Context(), at-20); err != nil {
				t.Fatal(err)
			}
			check(s, at-20)
			if _, err := s.Compact(t.Context(), at); err != nil {
				t.Fatal(err)
			}
			closeStore(t, s)
			s = openAt(t, options(dir))
			check(s, at)
			if next, err := s.Create(t.Context(), "/a/1", nil, 0); err != nil || next != at+1 {
				t.Errorf("the next revision is %d, %v, want %d", next, err, at+1)
			}
			closeStore(t, s)
		})
	}
}

// TestRevisionsAfterACrash: those of the same boot continue, those of another
// one jump, and old ones cannot be read any more.
func TestRevisionsAfterACrash(t *testing.T) {
	s := openNew(t)
	rev := create(t, s, "/registry/a")
	dir := crash(t, s)

	o := options(dir)
	o.BootID = s.file.boot
	again := openAt(t, o)
	if next := create(t, again, "/registry/b"); next != rev+1 {
		t.Errorf("after a killed process the next revision is %d, want %d", next, rev+1)
	}
	dir = crash(t, again)
	closeStore(t, again)

	o = options(dir)
	o.BootID = "another boot"
	third := openAt(t, o)
	defer closeStore(t, third)
	if next := create(t, third, "/registry/c"); next <= rev+jump {
		t.Errorf("after a power cut the next revision is %d, want more than %d", next, rev+jump)
	}
	if _, _, err := third.Get(t.Context(), "/registry/a", rev, false); !errors.Is(err, server.ErrCompacted) {
		t.Errorf("read of an old revision: %v, want compacted", err)
	}
	if _, kv, err := third.Get(t.Context(), "/registry/b", 0, false); err != nil || kv == nil || kv.ModRevision != rev+1 {
		t.Errorf("what was written before is %v, %v, want it at %d", kv, err, rev+1)
	}
	w := third.Watch(t.Context(), "/registry/", "/registry0", rev)
	if _, open := <-w.Events; open || w.CompactRevision <= rev {
		t.Errorf("a watch from before goes on: compacted %d", w.CompactRevision)
	}
}

func TestOneProcessAtATime(t *testing.T) {
	dir := t.TempDir()
	s := openAt(t, options(dir))
	defer closeStore(t, s)
	if _, err := open(context.Background(), options(dir), newMetrics("test")); err == nil || !strings.Contains(err.Error(), "in use by another skiff") {
		t.Errorf("second open = %v, want that it is in use", err)
	}
}

// TestBadChangeAlone commits a batch with one change that cannot be written;
// the others are.
func TestBadChangeAlone(t *testing.T) {
	s := openNew(t)
	if err := s.task(t.Context(), func(w *writer) error {
		return w.db.script(`CREATE TEMP TRIGGER bad BEFORE INSERT ON main.kine WHEN NEW.name = '/bad' BEGIN SELECT RAISE(ABORT, 'bad key'); END`)
	}); err != nil {
		t.Fatal(err)
	}
	var batch []*change
	for _, key := range []string{"/good/1", "/bad", "/good/2", "/good/1"} {
		batch = append(batch, &change{kind: createKey, key: key, value: []byte("v"), done: make(chan outcome, 1)})
	}
	if err := s.task(t.Context(), func(w *writer) error {
		w.commit(batch)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range batch {
		o := <-c.done
		got = append(got, fmt.Sprint(c.key, " ", o.applied, " ", o.err != nil))
	}
	want := []string{"/good/1 true false", "/bad false true", "/good/2 true false", "/good/1 false false"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if _, n, err := s.Count(t.Context(), "/good/", "/good0", 0); err != nil || n != 2 {
		t.Errorf("Count = %d, %v, want 2", n, err)
	}
}

func TestClosedStoreSaysSo(t *testing.T) {
	s := openAt(t, options(t.TempDir()))
	closeStore(t, s)
	if _, err := s.Create(context.Background(), "/a", nil, 0); status.Code(err) != codes.Unavailable {
		t.Errorf("Create = %v, want unavailable", err)
	}
}

func TestModes(t *testing.T) {
	lease, other := &change{key: "/registry/leases/kube-node-lease/a"}, &change{key: "/registry/pods/a/b"}
	tests := []struct {
		name       string
		durability Durability
		settled    bool
		batch      []*change
		want       syncMode
	}{
		{"full", Full, true, []*change{other}, syncFull},
		{"leases only", Full, true, []*change{lease, lease}, syncNormal},
		{"leases and others", Full, true, []*change{lease, other}, syncFull},
		{"first start", Full, false, []*change{other}, syncNormal},
		{"balanced", Balanced, true, []*change{other}, syncNormal},
		{"relaxed", Relaxed, true, []*change{other}, syncNormal},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := &store{durability: tt.durability}
			s.settled.Store(tt.settled)
			if got := s.mode(tt.batch); got != tt.want {
				t.Errorf("mode = %s, want %s", got, tt.want)
			}
		})
	}
}
