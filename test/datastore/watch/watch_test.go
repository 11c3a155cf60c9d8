// Package watch holds the datastore to what etcd promises to those who watch,
// where it takes many watches, large events, slow readers or a restart; the
// short cases are beside the code in pkg/datastore. Start reading at
// TestManyWatches.
package watch

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"skiff/test/datastore/store"
)

// stream is a connection for watches, without the client library's help.
type stream struct {
	etcdserverpb.Watch_WatchClient

	t *testing.T
}

func newStream(ctx context.Context, t *testing.T, c *clientv3.Client) stream {
	t.Helper()
	w, err := etcdserverpb.NewWatchClient(c.ActiveConnection()).Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return stream{w, t}
}

func (s stream) send(r *etcdserverpb.WatchRequest) {
	s.t.Helper()
	if err := s.Send(r); err != nil {
		s.t.Fatal(err)
	}
}

func (s stream) create(r *etcdserverpb.WatchCreateRequest) {
	s.t.Helper()
	s.send(&etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_CreateRequest{CreateRequest: r}})
}

func (s stream) cancel(id int64) {
	s.t.Helper()
	s.send(&etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_CancelRequest{CancelRequest: &etcdserverpb.WatchCancelRequest{WatchId: id}}})
}

func (s stream) requestProgress() {
	s.t.Helper()
	s.send(&etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_ProgressRequest{ProgressRequest: &etcdserverpb.WatchProgressRequest{}}})
}

func (s stream) next() *etcdserverpb.WatchResponse {
	s.t.Helper()
	r, err := s.Recv()
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

// prefix is a watch of all keys that begin with p, which ends in a slash.
func prefix(p string, from int64) *etcdserverpb.WatchCreateRequest {
	return &etcdserverpb.WatchCreateRequest{Key: []byte(p), RangeEnd: []byte(p[:len(p)-1] + "0"), StartRevision: from}
}

// limited is a context that turns a hang into a failure.
func limited(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func put(t *testing.T, c *clientv3.Client, key, value string) int64 {
	t.Helper()
	r, err := c.Put(t.Context(), key, value)
	if err != nil {
		t.Fatal(err)
	}
	return r.Header.Revision
}

// previous is the value before an event, if it came along.
func previous(e *mvccpb.Event) string {
	if e.PrevKv == nil {
		return ""
	}
	return string(e.PrevKv.Value)
}

// TestManyWatches has a hundred streams with a hundred watches each. One half
// is there before the events, the other begins in the middle of them, in the
// past. Each has to see all events of its range, once and in order.
func TestManyWatches(t *testing.T) {
	const streams, each, groups, rounds = 100, 100, 50, 20
	s := store.Start(t, t.TempDir(), "")
	c := s.Client(t)
	first := put(t, c, "/begin", "") + 1
	ctx := limited(t)
	half := make(chan struct{}) // closed when half of the events have been made
	var ready, watching sync.WaitGroup
	clients := []*clientv3.Client{s.Client(t), s.Client(t), s.Client(t), s.Client(t)}
	for _, c := range clients {
		put(t, c, "/begin", "") // Connects.
	}
	for i := range streams {
		early := i%2 == 0
		if early {
			ready.Add(1)
		}
		watching.Go(func() {
			if !early {
				<-half
			}
			w := newStream(ctx, t, clients[i%len(clients)])
			for n := range each {
				r := prefix(fmt.Sprintf("/many/%02d/", n%groups), first)
				r.WatchId, r.PrevKv = int64(n+1), n%2 == 0
				w.create(r)
			}
			got, created := make([]int, each), 0
			for missing := each * rounds; missing > 0; {
				r := w.next()
				if r.Canceled {
					t.Errorf("stream %d: watch %d was canceled: %s", i, r.WatchId, r.CancelReason)
					return
				}
				if r.Created {
					if created++; created == each && early {
						ready.Done()
					}
				}
				n := int(r.WatchId - 1)
				for _, e := range r.Events {
					if want := fmt.Sprintf("/many/%02d/%d", n%groups, got[n]); string(e.Kv.Key) != want {
						t.Errorf("stream %d: watch %d got %s, want %s", i, r.WatchId, e.Kv.Key, want)
						return
					}
					got[n]++
					missing--
				}
			}
			if err := w.CloseSend(); err != nil {
				t.Error(err)
			}
		})
	}
	ready.Wait()
	var writing sync.WaitGroup
	for round := range rounds {
		for g := range groups {
			writing.Go(func() { put(t, c, fmt.Sprintf("/many/%02d/%d", g, round), "v") })
		}
		writing.Wait() // The order within a group is that of the rounds.
		if round == rounds/2 {
			close(half)
		}
	}
	watching.Wait()
}

// TestProgressCoversTheStream asks for progress while some watches of the
// stream are still reading the past: it may only be reported when all of them
// have what it covers.
func TestProgressCoversTheStream(t *testing.T) {
	const keys, versions, watches = 20, 60, 20
	s := store.Start(t, t.TempDir(), "")
	c := s.Client(t)
	first := put(t, c, "/begin", "") + 1
	var last int64
	for range versions {
		for k := range keys {
			last = put(t, c, fmt.Sprintf("/p/%02d/k", k), strings.Repeat("v", 5000))
		}
	}
	w := newStream(limited(t), t, c)
	for n := range watches {
		r := prefix(fmt.Sprintf("/p/%02d/", n%keys), first)
		r.WatchId = int64(n + 1)
		w.create(r)
	}
	// One that begins in the future holds nothing up.
	future := prefix("/p/", last+1000)
	future.WatchId = watches + 1
	w.create(future)
	w.requestProgress()
	got := map[int64]int{}
	for {
		r := w.next()
		got[r.WatchId] += len(r.Events)
		if !r.Created && len(r.Events) == 0 {
			if r.WatchId != clientv3.InvalidWatchID || r.Header.Revision < last {
				t.Fatalf("progress = %v, want for all watches, up to %d", r, last)
			}
			break
		}
	}
	for n := range watches {
		if got[int64(n+1)] != versions {
			t.Errorf("watch %d had %d events when progress was reported, want %d", n+1, got[int64(n+1)], versions)
		}
	}
	if got[future.WatchId] != 0 {
		t.Errorf("the watch from revision %d got %d events up to %d", future.StartRevision, got[future.WatchId], last)
	}
}

// TestFutureRevision watches from a revision that is not there yet.
func TestFutureRevision(t *testing.T) {
	s := store.Start(t, t.TempDir(), "")
	c := s.Client(t)
	at := put(t, c, "/f/0", "")
	w := newStream(limited(t), t, c)
	w.create(prefix("/f/", at+5))
	if r := w.next(); !r.Created {
		t.Fatalf("first response %v", r)
	}
	for i := range 8 {
		put(t, c, fmt.Sprintf("/f/%d", i+1), "")
	}
	want := at + 5
	for want <= at+8 {
		for _, e := range w.next().Events {
			if e.Kv.ModRevision != want {
				t.Fatalf("got the event of %d, want %d", e.Kv.ModRevision, want)
			}
			want++
		}
	}
}

// TestCompacted begins watches around the revision of a compaction, while all
// events are still fresh.
func TestCompacted(t *testing.T) {
	s := store.Start(t, t.TempDir(), "")
	c := s.Client(t)
	var revisions []int64
	for i := range 10 {
		revisions = append(revisions, put(t, c, "/c/k", fmt.Sprint(i)))
	}
	compacted := revisions[5]
	if _, err := c.Compact(t.Context(), compacted); err != nil {
		t.Fatal(err)
	}
	w := newStream(limited(t), t, c)
	for i, from := range revisions {
		r := prefix("/c/", from)
		r.WatchId, r.PrevKv = int64(i+1), true
		w.create(r)
	}
	got := map[int64][]*mvccpb.Event{}
	ended := map[int64]int64{}
	for done := 0; done < len(revisions); {
		r := w.next()
		switch {
		case r.Canceled:
			ended[r.WatchId] = r.CompactRevision
			done++
		case len(r.Events) > 0:
			got[r.WatchId] = append(got[r.WatchId], r.Events...)
			if r.Events[len(r.Events)-1].Kv.ModRevision == revisions[9] {
				done++
			}
		}
	}
	for i, from := range revisions {
		id := int64(i + 1)
		if from <= compacted {
			if ended[id] != compacted || len(got[id]) > 0 {
				t.Errorf("watch from %d got %d events and ended at %d, want compacted at %d", from, len(got[id]), ended[id], compacted)
			}
			continue
		}
		if _, ok := ended[id]; ok || len(got[id]) != 10-i {
			t.Errorf("watch from %d got %d events, want %d; ended: %v", from, len(got[id]), 10-i, ok)
			continue
		}
		for n, e := range got[id] {
			if want := fmt.Sprint(i + n - 1); previous(e) != want {
				t.Errorf("the previous value at %d is %q, want %q", e.Kv.ModRevision, previous(e), want)
			}
		}
	}
}

// TestSlowReaderAndCompaction lets a client not read until what it lacks has
// been compacted. It gets what was on its way, and then is told; a gap without
// a word would leave a cache wrong for ever.
func TestSlowReaderAndCompaction(t *testing.T) {
	s := store.Start(t, t.TempDir(), "")
	c := s.Client(t)
	slow := newStream(limited(t), t, s.Client(t))
	slow.create(prefix("/s/", 0))
	if r := slow.next(); !r.Created {
		t.Fatalf("first response %v", r)
	}
	value := strings.Repeat("v", 100<<10)
	const events = 150 // More than the queues and windows hold.
	var last int64
	for i := range events {
		last = put(t, c, fmt.Sprintf("/s/%03d", i), value)
	}
	if _, err := c.Compact(t.Context(), last); err != nil {
		t.Fatal(err)
	}
	put(t, c, "/s/after", "")
	for next := 0; ; {
		r := slow.next()
		for _, e := range r.Events {
			if want := fmt.Sprintf("/s/%03d", next); string(e.Kv.Key) != want {
				t.Fatalf("got %s, want %s or the end", e.Kv.Key, want)
			}
			next++
		}
		if r.Canceled {
			if r.CompactRevision != last {
				t.Errorf("the watch ended with %v, want compacted at %d", r, last)
			}
			if next == 0 || next >= events {
				t.Errorf("the watch got %d events before it ended", next)
			}
			return
		}
	}
}

// TestLargeEvents reads a past of large events, with and without the wish for
// small responses.
func TestLargeEvents(t *testing.T) {
	s := store.Start(t, t.TempDir(), "")
	c := s.Client(t)
	first := put(t, c, "/l/begin", "") + 1
	const events, size = 12, 1 << 20
	for i := range events {
		put(t, c, "/l/k", fmt.Sprintf("%02d%s", i, strings.Repeat("v", size)))
	}
	for _, fragment := range []bool{false, true} {
		t.Run(fmt.Sprintf("fragment %v", fragment), func(t *testing.T) {
			w := newStream(limited(t), t, c)
			r := prefix("/l/", first)
			r.Fragment, r.PrevKv = fragment, true
			w.create(r)
			for next := 0; next < events; {
				r := w.next()
				// etcd's limit for a client without settings, which the API server
				// raises, is 2 MiB for requests and none for responses.
				if fragment && r.Size() > 3*size {
					t.Errorf("a response has %d bytes", r.Size())
				}
				for _, e := range r.Events {
					if want := fmt.Sprintf("%02d", next); !strings.HasPrefix(string(e.Kv.Value), want) || len(e.Kv.Value) != size+2 {
						t.Fatalf("event %d has %d bytes and begins with %.2q", next, len(e.Kv.Value), e.Kv.Value)
					}
					if next > 0 && len(previous(e)) != size+2 {
						t.Fatalf("event %d has a previous value of %d bytes", next, len(previous(e)))
					}
					next++
				}
			}
		})
	}
}

// TestCancelOneOfMany ends every other watch of a stream while events come in.
func TestCancelOneOfMany(t *testing.T) {
	const watches, events = 50, 200
	s := store.Start(t, t.TempDir(), "")
	c := s.Client(t)
	first := put(t, c, "/begin", "") + 1
	w := newStream(limited(t), t, c)
	for n := range watches {
		r := prefix("/x/", first)
		r.WatchId = int64(n + 1)
		w.create(r)
	}
	var writing sync.WaitGroup
	writing.Go(func() {
		for i := range events {
			put(t, c, fmt.Sprintf("/x/%03d", i), "")
		}
	})
	defer writing.Wait()
	got, canceled := make([]int, watches+1), make([]bool, watches+1)
	asked := false
	for left := watches; left > 0; {
		r := w.next()
		id := r.WatchId
		if canceled[id] {
			t.Fatalf("watch %d got %v after its end", id, r)
		}
		if r.Canceled {
			canceled[id] = true
			left--
			continue
		}
		for _, e := range r.Events {
			if want := fmt.Sprintf("/x/%03d", got[id]); string(e.Kv.Key) != want {
				t.Fatalf("watch %d got %s, want %s", id, e.Kv.Key, want)
			}
			got[id]++
		}
		if !asked && got[id] > 0 {
			asked = true
			for n := 1; n <= watches; n += 2 {
				w.cancel(int64(n))
			}
		}
		if id%2 == 0 && len(r.Events) > 0 && got[id] == events {
			left--
		}
	}
	for n := 2; n <= watches; n += 2 {
		if canceled[n] {
			t.Errorf("watch %d was canceled with the others", n)
		}
	}
}

// TestResumeAfterRestart continues a watch on a store that has been stopped and
// started, from the last revision that it saw.
func TestResumeAfterRestart(t *testing.T) {
	dir := t.TempDir()
	s := store.Start(t, dir, "")
	c := s.Client(t)
	first := put(t, c, "/begin", "") + 1
	for i := range 300 {
		put(t, c, "/r/k", fmt.Sprint(i))
	}
	seen := 0
	read := func(c *clientv3.Client, upTo int) {
		t.Helper()
		w := newStream(limited(t), t, c)
		r := prefix("/r/", first+int64(seen))
		r.PrevKv = true
		w.create(r)
		for seen < upTo {
			for _, e := range w.next().Events {
				if seen == upTo {
					return // The rest after the restart.
				}
				if string(e.Kv.Value) != fmt.Sprint(seen) || (seen > 0 && previous(e) != fmt.Sprint(seen-1)) {
					t.Fatalf("event %d is %v", seen, e)
				}
				seen++
			}
		}
	}
	read(c, 100)
	s.Stop(t)
	again := store.Start(t, dir, "")
	c = again.Client(t)
	for i := range 50 {
		put(t, c, "/r/k", fmt.Sprint(300+i))
	}
	read(c, 350)
}
