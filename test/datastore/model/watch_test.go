package model

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"skiff/test/datastore/store"
)

// follower is the watch of everything, which writes the history.
type follower struct {
	mu     sync.Mutex
	events []change
	pos    int64
	err    error
	client *clientv3.Client
}

// follow watches all keys from a revision on for the rest of the phase.
func (r *runner) follow(t *testing.T, s *store.Store, from int64) *follower {
	t.Helper()
	f := &follower{client: s.Client(t), pos: from - 1}
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(t.Context()))
	w := f.client.Watch(ctx, "\x00", clientv3.WithFromKey(), clientv3.WithRev(from), clientv3.WithPrevKV())
	done := make(chan struct{})
	t.Cleanup(func() { cancel(); <-done })
	go func() {
		defer close(done)
		for response := range w {
			f.take(response)
		}
	}()
	return f
}

func (f *follower) take(r clientv3.WatchResponse) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := r.Err(); err != nil && f.err == nil {
		f.err = err
	}
	for _, e := range r.Events {
		f.events = append(f.events, changeOf(e))
	}
	f.pos = max(f.pos, r.Header.Revision)
}

func (f *follower) position() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.pos
}

// upTo waits for the events up to a revision.
func (f *follower) upTo(t *testing.T, revision int64) []change {
	t.Helper()
	limit := time.Now().Add(20 * time.Second)
	for f.position() < revision {
		if time.Now().After(limit) {
			t.Fatalf("the watch of everything is at %d after twenty seconds, want %d", f.position(), revision)
		}
		if err := f.client.RequestProgress(clientv3.WithRequireLeader(t.Context())); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		t.Fatalf("the watch of everything: %v", f.err)
	}
	return f.events
}

// watched is a watch that has ended, and what it got.
type watched struct {
	key, end   string
	from       int64
	upTo       int64 // it has been told that it has everything up to here
	prev       bool
	puts, dels bool
	events     []change
	compacted  bool
}

// watchRandomly makes one watch after the other.
func (r *runner) watchRandomly(ctx context.Context, t *testing.T, c *clientv3.Client, rnd *rand.Rand, seen func() int64) []*watched {
	var all []*watched
	for n := 0; ctx.Err() == nil; n++ {
		w := &watched{key: "/m/", end: "/m0", prev: rnd.IntN(2) == 0, puts: rnd.IntN(5) > 0, dels: rnd.IntN(5) > 0}
		switch k := r.keys; rnd.IntN(4) {
		case 0:
			w.key, w.end = k[rnd.IntN(len(k))], ""
		case 1:
			w.key, w.end = "/m/k/", "/m/k0"
		case 2:
			w.key, w.end = "/m/a", "\x00"
		}
		// The past, now, or the future.
		w.from = max(r.first, seen()-200+int64(rnd.IntN(220)))
		if err := w.run(ctx, c, time.Duration(rnd.IntN(60))*time.Millisecond); err != nil {
			t.Errorf("watch of %q from %d: %v", w.key, w.from, err)
			return all
		}
		if next := max(w.from, w.upTo+1); w.compacted && next > r.compacted.mayBe() {
			t.Errorf("watch that has everything before %d: compacted, but nobody compacted beyond %d", next, r.compacted.mayBe())
		}
		all = append(all, w)
	}
	return all
}

// run watches for a while, and asks at the end how far that was.
func (w *watched) run(ctx context.Context, c *clientv3.Client, d time.Duration) error {
	// A context of its own makes a stream of its own.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	options := []clientv3.OpOption{clientv3.WithRev(w.from), clientv3.WithCreatedNotify()}
	if w.end != "" {
		options = append(options, clientv3.WithRange(w.end))
	}
	if w.prev {
		options = append(options, clientv3.WithPrevKV())
	}
	if !w.puts {
		options = append(options, clientv3.WithFilterPut())
	}
	if !w.dels {
		options = append(options, clientv3.WithFilterDelete())
	}
	responses := c.Watch(ctx, w.key, options...)
	ask := time.NewTimer(d)
	defer ask.Stop()
	limit := time.After(20 * time.Second)
	asked := false
	for {
		select {
		case <-limit:
			return errors.New("no progress for twenty seconds")
		case <-ask.C:
			asked = true
			if err := c.RequestProgress(ctx); err != nil {
				return err
			}
			ask.Reset(200 * time.Millisecond) // The watch may not have been there.
		case r, ok := <-responses:
			if !ok {
				return errors.New("the stream ended")
			}
			if errors.Is(r.Err(), rpctypes.ErrCompacted) {
				// A watch that was behind may have got some events.
				w.compacted = true
				if n := len(w.events); n > 0 {
					w.upTo = w.events[n-1].revision
				}
				return nil
			}
			if err := r.Err(); err != nil {
				return err
			}
			for _, e := range r.Events {
				w.events = append(w.events, changeOf(e))
			}
			if r.IsProgressNotify() && asked {
				w.upTo = r.Header.Revision
				return nil
			}
		}
	}
}

// check compares a watch with the history.
func (w *watched) check(t *testing.T, h *history) {
	t.Helper()
	var want []change
	for _, c := range h.events {
		wanted := c.deleted && w.dels || !c.deleted && w.puts
		if c.revision < w.from || c.revision > w.upTo || !inRange(c.key, w.key, w.end) || !wanted {
			continue
		}
		if !w.prev {
			c.prev = pair{}
		}
		want = append(want, c)
	}
	got := w.events
	for len(got) > 0 && got[len(got)-1].revision > w.upTo {
		got = got[:len(got)-1] // After the answer.
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(change{}, pair{})); diff != "" {
		t.Fatalf("watch of %q to %q from %d up to %d (-want +got):\n%.3000s", w.key, w.end, w.from, w.upTo, diff)
	}
}
