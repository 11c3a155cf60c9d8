// Package model runs concurrent clients with random requests against a
// datastore and compares every answer with a model: the history of all
// changes, from which the state at each revision follows. Histories have to be
// linearizable, lists exact at their revision, and watches without gap,
// repetition or reordering. Start reading at TestModel.
package model

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"skiff/test/datastore/servers"
	"skiff/test/datastore/store"
)

const (
	clients  = 6
	watchers = 4
	phases   = 3
)

// seed repeats a run, as far as the scheduler lets it: go test -args -seed 7.
var seed = flag.Uint64("seed", 0, "seed of the random requests; 0 takes one from the clock")

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(servers.Main(m))
}

// phaseTime is how long the clients work between two restarts.
func phaseTime() time.Duration {
	if os.Getenv("SKIFF_SOAK") == "1" {
		return 2 * time.Minute
	}
	return 1500 * time.Millisecond
}

func TestModel(t *testing.T) {
	tests := []struct {
		name     string
		endpoint func(*testing.T) string
		dense    bool // every revision is a change
		keys     []string
	}{
		{"sqlite", func(*testing.T) string { return "" }, true, keys("/m/a\x00", "/m/ä", "/m/\xff\xfe", "/m/a ", "/m/"+string(make([]byte, 300)))},
		// Kine's tables there hold text: UTF-8 in one, ASCII in which spaces at
		// the end do not count in the other.
		{"postgres", func(t *testing.T) string { return servers.Postgres(t) }, false, keys("/m/ä", "/m/a ")},
		{"mysql", func(t *testing.T) string { return servers.MySQL(t) }, false, keys()},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := *seed
			if s == 0 {
				s = uint64(time.Now().UnixNano())
			}
			t.Logf("seed %d", s)
			r := &runner{seed: s, dir: t.TempDir(), endpoint: tt.endpoint(t), dense: tt.dense, keys: tt.keys}
			for phase := range phases {
				r.phase(t, phase)
				if t.Failed() {
					return
				}
			}
			r.checkLinearizable(t)
			t.Logf("%d requests, %d changes, %d watches, compacted at %d", len(r.ops), len(r.history.events), r.watches, r.compacted.acked())
			if len(r.history.events) < 100 || r.watches < 20 {
				t.Error("that is too little to prove anything")
			}
		})
	}
}

// runner is one run of all phases.
type runner struct {
	seed      uint64
	dir       string
	endpoint  string
	dense     bool
	keys      []string
	history   history
	first     int64 // revision of the first change of ours
	ops       []op  // of all phases
	watches   int
	compacted compaction
}

// phase starts the store, lets the clients work, compares, and stops it.
func (r *runner) phase(t *testing.T, number int) {
	t.Helper()
	s := store.Start(t, r.dir, r.endpoint)
	defer s.Stop(t)
	begin, err := s.Client(t).Get(t.Context(), "/m/")
	if err != nil {
		t.Fatal(err)
	}
	if begin.Header.Revision < r.history.last {
		t.Fatalf("the store is at revision %d, but %d had been reached before the restart", begin.Header.Revision, r.history.last)
	}

	if number == 0 {
		r.begin(t, s)
	}
	ctx, cancel := context.WithTimeout(t.Context(), phaseTime())
	defer cancel()
	all := r.follow(t, s, begin.Header.Revision+1)
	var working sync.WaitGroup
	var mu sync.Mutex
	var ops []op
	var found []*watched
	for i := range clients {
		c := &client{
			id: i, kv: s.Client(t), rand: r.rand(number, i), seen: all.position, compacted: &r.compacted,
			keys: r.keys, known: map[string]int64{}, revisions: []int64{begin.Header.Revision},
		}
		working.Go(func() {
			c.work(ctx, t)
			mu.Lock()
			defer mu.Unlock()
			ops = append(ops, c.ops...)
		})
	}
	for i := range watchers {
		w := s.Client(t)
		rnd := r.rand(number, clients+i)
		working.Go(func() {
			got := r.watchRandomly(ctx, t, w, rnd, all.position)
			mu.Lock()
			defer mu.Unlock()
			found = append(found, got...)
		})
	}
	working.Wait()
	end, err := s.Client(t).Get(t.Context(), "/m/")
	if err != nil {
		t.Fatal(err)
	}
	r.history.add(t, all.upTo(t, end.Header.Revision), r.dense, end.Header.Revision)
	r.ops = append(r.ops, ops...)
	r.watches += len(found)
	if t.Failed() {
		return
	}
	r.checkChanges(t)
	r.checkReads(t, ops)
	r.checkRealTime(t, ops)
	for _, w := range found {
		w.check(t, &r.history)
	}
}

// begin notes what the store has of its own.
func (r *runner) begin(t *testing.T, s *store.Store) {
	t.Helper()
	all, err := s.Client(t).Get(t.Context(), "\x00", clientv3.WithFromKey())
	if err != nil {
		t.Fatal(err)
	}
	r.first, r.history.byKey = all.Header.Revision+1, map[string][]change{}
	for _, kv := range all.Kvs {
		r.history.byKey[string(kv.Key)] = []change{{revision: kv.ModRevision, key: string(kv.Key), now: pairOf(kv)}}
	}
}

func (r *runner) rand(phase, who int) *rand.Rand {
	return rand.New(rand.NewPCG(r.seed, uint64(phase*1000+who)))
}

// compaction knows which compactions have been asked for, and which are done.
type compaction struct {
	mu           sync.Mutex
	asked, ended int64
}

func (c *compaction) ask(rev int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = max(c.asked, rev)
}

func (c *compaction) end(rev int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = max(c.ended, rev)
}

func (c *compaction) mayBe() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.asked
}

func (c *compaction) acked() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended
}

// keys are few, so that clients meet, and nasty.
func keys(more ...string) []string {
	k := append(more, "/m/a", "/m/a/b", "/m/a0", "/m/%", "/m/_", "/m/A", "/m/'", `/m/\\`, "/m/"+strings.Repeat("n", 300))
	for i := range 12 {
		k = append(k, "/m/k/"+strconv.Itoa(i))
	}
	return k
}

// value is one of a kind, whatever its size.
func value(rnd *rand.Rand, client, n int) string {
	v := fmt.Sprintf("%d-%d\x00", client, n)
	switch rnd.IntN(10) {
	case 0:
		return v + string(make([]byte, rnd.IntN(100_000)))
	case 1:
		return v + "\xff\xfe"
	}
	return v
}
