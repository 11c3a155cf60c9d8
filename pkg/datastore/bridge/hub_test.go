package bridge

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/k3s-io/kine/pkg/server"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

// fakeBackend has rows, and live subscriptions that the test feeds.
type fakeBackend struct {
	server.Backend // what is not needed panics

	mu        sync.Mutex
	rows      []*server.Event
	compacted int64
	subs      map[chan []*server.Event]bool
}

func row(rev int64, key string) *server.Event {
	return &server.Event{Create: true, KV: &server.KeyValue{Key: key, ModRevision: rev, CreateRevision: rev}}
}

func (b *fakeBackend) Get(context.Context, string, int64, bool) (int64, *server.KeyValue, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.rows) == 0 {
		return 0, nil, nil
	}
	return b.rows[len(b.rows)-1].KV.ModRevision, nil, nil
}

func (b *fakeBackend) Watch(ctx context.Context, key, end string, rev int64) server.WatchResult {
	b.mu.Lock()
	defer b.mu.Unlock()
	if rev <= b.compacted {
		return server.WatchResult{CompactRevision: b.compacted}
	}
	var past []*server.Event
	for _, e := range b.rows {
		if e.KV.ModRevision >= rev && e.InRange(key, end) {
			past = append(past, e)
		}
	}
	out := make(chan []*server.Event, 100)
	if len(past) > 0 {
		out <- past
	}
	b.subs[out] = key == ""
	context.AfterFunc(ctx, func() { b.end(out) })
	return server.WatchResult{Events: out, Errorc: make(chan error)}
}

func (b *fakeBackend) end(out chan []*server.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.subs[out]; ok {
		delete(b.subs, out)
		close(out)
	}
}

// commit adds rows; tell says whether the subscribers hear of them.
func (b *fakeBackend) commit(tell bool, rows ...*server.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rows = append(b.rows, rows...)
	for out, all := range b.subs {
		if tell && all {
			out <- rows
		}
	}
}

// drop ends all subscriptions, as kine does to a slow one.
func (b *fakeBackend) drop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for out := range b.subs {
		delete(b.subs, out)
		close(out)
	}
}

// fakeStream is a client's connection.
type fakeStream struct {
	grpc.ServerStream

	live func() context.Context
	recv chan *etcdserverpb.WatchRequest
	sent chan *etcdserverpb.WatchResponse
}

func (s *fakeStream) Context() context.Context { return s.live() }

func (s *fakeStream) Recv() (*etcdserverpb.WatchRequest, error) {
	select {
	case r := <-s.recv:
		return r, nil
	case <-s.Context().Done():
		return nil, s.Context().Err()
	}
}

func (s *fakeStream) Send(r *etcdserverpb.WatchResponse) error {
	select {
	case s.sent <- r:
		return nil
	case <-s.Context().Done():
		return s.Context().Err()
	}
}

func (s *fakeStream) create(key string, rev int64) {
	s.recv <- &etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_CreateRequest{
		CreateRequest: &etcdserverpb.WatchCreateRequest{Key: []byte(key), RangeEnd: []byte(clientv3.GetPrefixRangeEnd(key)), StartRevision: rev, ProgressNotify: true},
	}}
}

func (s *fakeStream) askProgress() {
	s.recv <- &etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_ProgressRequest{ProgressRequest: &etcdserverpb.WatchProgressRequest{}}}
}

// summary is what a test compares of a response.
type summary struct {
	ID, Header int64
	Revisions  []int64
	Compacted  int64
}

func (s *fakeStream) next(t *testing.T) summary {
	t.Helper()
	select {
	case r := <-s.sent:
		got := summary{ID: r.WatchId, Header: r.Header.Revision, Compacted: r.CompactRevision}
		for _, e := range r.Events {
			got.Revisions = append(got.Revisions, e.Kv.ModRevision)
		}
		return got
	case <-time.After(5 * time.Minute):
		t.Fatal("no response in five minutes")
		return summary{}
	}
}

// withHub runs fn in a bubble with a hub on a backend that has rows, and one
// stream.
func withHub(t *testing.T, rows []*server.Event, fn func(*testing.T, *fakeBackend, *fakeStream)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &fakeBackend{rows: rows, subs: map[chan []*server.Event]bool{}}
		ctx, cancel := context.WithCancel(t.Context())
		h, err := newHub(ctx, b, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() { h.run(ctx) })
		ws := &watchServer{hub: h, stopped: ctx.Done()}
		s := &fakeStream{live: func() context.Context { return ctx }, recv: make(chan *etcdserverpb.WatchRequest), sent: make(chan *etcdserverpb.WatchResponse)}
		wg.Go(func() {
			if err := ws.Watch(s); err == nil || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Watch = %v, want an error that says that it was stopped", err)
			}
		})
		synctest.Wait()
		fn(t, b, s)
		cancel()
		wg.Wait()
		ws.running.Wait()
		if len(h.live) != 0 || len(h.streams) != 0 {
			t.Errorf("%d watches and %d streams are left", len(h.live), len(h.streams))
		}
	})
}

func expect(t *testing.T, s *fakeStream, want summary) {
	t.Helper()
	if diff := cmp.Diff(want, s.next(t)); diff != "" {
		t.Errorf("response (-want +got):\n%s", diff)
	}
}

func TestProgressPassesGaps(t *testing.T) {
	withHub(t, []*server.Event{row(1, "/a")}, func(t *testing.T, b *fakeBackend, s *fakeStream) {
		s.create("/a", 0)
		expect(t, s, summary{ID: 1, Header: 1})
		// Kine tells nobody of the rows that fill a gap.
		b.commit(false, row(2, "gap-2"), row(3, "gap-3"))
		s.askProgress()
		expect(t, s, summary{ID: -1, Header: 3})
		// A row that nobody hears of yet is waited for.
		b.commit(false, row(4, "/a"))
		s.askProgress()
		synctest.Wait()
		select {
		case r := <-s.sent:
			t.Errorf("%+v was sent before event 4", r)
		case <-time.After(3 * time.Second):
		}
		b.commit(false, row(5, "/b"))
		b.drop() // The hub reads 4 and 5 when it subscribes again.
		expect(t, s, summary{ID: 1, Header: 4, Revisions: []int64{4}})
		expect(t, s, summary{ID: -1, Header: 5})
	})
}

func TestDroppedSubscription(t *testing.T) {
	withHub(t, []*server.Event{row(1, "/a")}, func(t *testing.T, b *fakeBackend, s *fakeStream) {
		s.create("/a", 0)
		expect(t, s, summary{ID: 1, Header: 1})
		b.drop()
		b.commit(false, row(2, "/a"), row(3, "/b"), row(4, "/a"))
		expect(t, s, summary{ID: 1, Header: 4, Revisions: []int64{2, 4}})
	})
}

func TestCompactedSubscription(t *testing.T) {
	withHub(t, []*server.Event{row(1, "/a"), row(2, "/a")}, func(t *testing.T, b *fakeBackend, s *fakeStream) {
		s.create("/a", 0)
		expect(t, s, summary{ID: 1, Header: 2})
		s.create("/b", 9)
		expect(t, s, summary{ID: 2, Header: 2})
		b.mu.Lock()
		b.rows, b.compacted = []*server.Event{row(7, "/a"), row(8, "/a")}, 6
		b.mu.Unlock()
		b.drop()
		// The first watch has missed something, the second has not.
		expect(t, s, summary{ID: 1, Header: 8, Compacted: 6})
		b.commit(true, row(9, "/b"))
		expect(t, s, summary{ID: 2, Header: 9, Revisions: []int64{9}})
	})
}

func TestQuietWatchHearsOfProgress(t *testing.T) {
	withHub(t, []*server.Event{row(1, "/a")}, func(t *testing.T, b *fakeBackend, s *fakeStream) {
		s.create("/a", 0)
		expect(t, s, summary{ID: 1, Header: 1})
		begin := time.Now()
		b.commit(true, row(2, "/b"))
		expect(t, s, summary{ID: 1, Header: 2})
		if d := time.Since(begin); d > notifyBeats*heartbeat {
			t.Errorf("after %s", d)
		}
		b.commit(true, row(3, "/a"))
		expect(t, s, summary{ID: 1, Header: 3, Revisions: []int64{3}})
		begin = time.Now()
		// It has heard enough in this minute.
		expect(t, s, summary{ID: 1, Header: 3})
		if d := time.Since(begin); d <= notifyBeats*heartbeat {
			t.Errorf("another notification after %s", d)
		}
	})
}
