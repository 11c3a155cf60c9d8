package datastore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/metadata"
)

// put writes a key that exists, as the API server does.
func put(t *testing.T, c *clientv3.Client, key, value string) {
	t.Helper()
	g, err := c.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	r, err := c.Txn(t.Context()).If(clientv3.Compare(clientv3.ModRevision(key), "=", g.Kvs[0].ModRevision)).
		Then(clientv3.OpPut(key, value)).Else(clientv3.OpGet(key)).Commit()
	if err != nil || !r.Succeeded {
		t.Fatalf("put %s: %v, %v", key, r, err)
	}
}

func remove(t *testing.T, c *clientv3.Client, key string) int64 {
	t.Helper()
	g, err := c.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	r, err := c.Txn(t.Context()).If(clientv3.Compare(clientv3.ModRevision(key), "=", g.Kvs[0].ModRevision)).
		Then(clientv3.OpDelete(key)).Else(clientv3.OpGet(key)).Commit()
	if err != nil || !r.Succeeded {
		t.Fatalf("delete %s: %v, %v", key, r, err)
	}
	return r.Header.Revision
}

// take reads n events as "PUT key=value" or "DELETE key", with " was x" if the
// previous value came along.
func take(t *testing.T, w clientv3.WatchChan, n int) []string {
	t.Helper()
	var got []string
	limit := time.After(10 * time.Second)
	for len(got) < n {
		select {
		case r := <-w:
			if err := r.Err(); err != nil {
				t.Fatalf("watch: %v after %q", err, got)
			}
			for _, e := range r.Events {
				s := fmt.Sprintf("%s %s", e.Type, e.Kv.Key)
				if e.Type == clientv3.EventTypePut {
					s += "=" + string(e.Kv.Value)
				}
				if e.PrevKv != nil {
					s += " was " + string(e.PrevKv.Value)
				}
				got = append(got, s)
			}
		case <-limit:
			t.Fatalf("%d events after ten seconds, want %d: %q", len(got), n, got)
		}
	}
	return got
}

func TestWatchEvents(t *testing.T) {
	c := start(t, t.TempDir()).client(t)
	create(t, c, "/a/0", "before")
	r, err := c.Get(t.Context(), "/a/0")
	if err != nil {
		t.Fatal(err)
	}
	first := r.Header.Revision
	watch := func(key string, o ...clientv3.OpOption) clientv3.WatchChan {
		return c.Watch(t.Context(), key, append(o, clientv3.WithCreatedNotify())...)
	}
	watches := []struct {
		name string
		w    clientv3.WatchChan
		want []string
	}{
		{"prefix from now", watch("/a/", clientv3.WithPrefix()), []string{"PUT /a/1=x", "PUT /a/1=y", "DELETE /a/1"}},
		{"prefix from a revision, with previous values", watch("/a/", clientv3.WithPrefix(), clientv3.WithRev(first), clientv3.WithPrevKV()), []string{"PUT /a/0=before", "PUT /a/1=x", "PUT /a/1=y was x", "DELETE /a/1 was y"}},
		{"one key", watch("/a/1"), []string{"PUT /a/1=x", "PUT /a/1=y", "DELETE /a/1"}},
		{"range", watch("/a/1", clientv3.WithRange("/b/1")), []string{"PUT /a/1=x", "PUT /a/1=y", "PUT /b/0=z", "DELETE /a/1"}},
		{"from a key on", watch("/b", clientv3.WithFromKey(), clientv3.WithRev(first)), []string{"PUT /b/0=z", "PUT /c=end"}},
		{"without writes", watch("/", clientv3.WithPrefix(), clientv3.WithFilterPut()), []string{"DELETE /a/1"}},
		{"without removals", watch("/a/1", clientv3.WithFilterDelete()), []string{"PUT /a/1=x", "PUT /a/1=y"}},
		{"from a revision to come", watch("/a/", clientv3.WithPrefix(), clientv3.WithRev(first+2)), []string{"PUT /a/1=y", "DELETE /a/1"}},
	}
	for _, tt := range watches {
		if r := <-tt.w; !r.Created || r.Header.Revision < first {
			t.Fatalf("%s: first response %+v", tt.name, r)
		}
	}
	create(t, c, "/a/1", "x")
	put(t, c, "/a/1", "y")
	create(t, c, "/b/0", "z")
	remove(t, c, "/a/1")
	create(t, c, "/c", "end")
	for _, tt := range watches {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, take(t, tt.w, len(tt.want))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestWatchRefused(t *testing.T) {
	ds := start(t, t.TempDir())
	c := ds.client(t)
	create(t, c, "/busy", "0")
	for i := range 1100 { // kine keeps the newest thousand
		put(t, c, "/busy", fmt.Sprint(i))
	}
	compact(t, c, 60)
	r := <-c.Watch(t.Context(), "/busy", clientv3.WithRev(5))
	if !r.Canceled || !errors.Is(r.Err(), rpctypes.ErrCompacted) || r.CompactRevision != 60 {
		t.Errorf("watch of a compacted revision: %+v, want canceled, compacted at 60", r)
	}
	// What the client library would not let through.
	ws, err := etcdserverpb.NewWatchClient(c.ActiveConnection()).Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ask := func(r *etcdserverpb.WatchCreateRequest) *etcdserverpb.WatchResponse {
		t.Helper()
		if err := ws.Send(&etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_CreateRequest{CreateRequest: r}}); err != nil {
			t.Fatal(err)
		}
		got, err := ws.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if got := ask(&etcdserverpb.WatchCreateRequest{Key: []byte("a"), WatchId: 7}); got.Canceled || got.WatchId != 7 {
		t.Errorf("watch with an id of the client's: %+v", got)
	}
	for name, r := range map[string]*etcdserverpb.WatchCreateRequest{
		"id in use":         {Key: []byte("a"), WatchId: 7},
		"empty range":       {Key: []byte("b"), RangeEnd: []byte("a")},
		"negative revision": {Key: []byte("a"), StartRevision: -1},
	} {
		if got := ask(r); !got.Canceled || !got.Created || got.WatchId != clientv3.InvalidWatchID || got.CancelReason == "" {
			t.Errorf("%s: %+v, want refused with a reason", name, got)
		}
	}
	if err := ws.Send(&etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_CancelRequest{CancelRequest: &etcdserverpb.WatchCancelRequest{WatchId: 7}}}); err != nil {
		t.Fatal(err)
	}
	if got, err := ws.Recv(); err != nil || !got.Canceled || got.WatchId != 7 || got.CancelReason != "" {
		t.Errorf("cancel: %+v, %v", got, err)
	}
}

// TestWatchOrder starts watches in the middle of concurrent writes. All have to
// see every event, once, in the order of the revisions.
func TestWatchOrder(t *testing.T) {
	ds := start(t, t.TempDir())
	c := ds.client(t)
	const writers, each, watchers = 8, 60, 200
	create(t, c, "/w/start", "")
	r, err := c.Get(t.Context(), "/w/start")
	if err != nil {
		t.Fatal(err)
	}
	begin := r.Header.Revision
	var writing, watching sync.WaitGroup
	for i := range writers {
		writing.Go(func() {
			for n := range each {
				create(t, c, fmt.Sprintf("/w/%d-%d", i, n), strings.Repeat("v", 100))
			}
		})
	}
	clients := []*clientv3.Client{c, ds.client(t), ds.client(t)}
	for i := range watchers {
		watching.Go(func() {
			// A stream for itself, as each resource of the API server has it: the
			// client opens one for each set of metadata.
			ctx := metadata.AppendToOutgoingContext(clientv3.WithRequireLeader(t.Context()), "watcher", fmt.Sprint(i))
			w := clients[i%len(clients)].Watch(ctx, "/w/", clientv3.WithPrefix(), clientv3.WithRev(begin))
			last, seen := begin-1, 0
			for r := range w {
				if err := r.Err(); err != nil {
					t.Errorf("watch %d: %v", i, err)
					return
				}
				for _, e := range r.Events {
					if e.Kv.ModRevision != last+1 {
						t.Errorf("watch %d: revision %d after %d", i, e.Kv.ModRevision, last)
						return
					}
					last, seen = e.Kv.ModRevision, seen+1
				}
				if seen == 1+writers*each {
					return
				}
			}
			t.Errorf("watch %d ended after %d events", i, seen)
		})
	}
	writing.Wait()
	watching.Wait()
}

// TestProgressFollowsEvents asks for progress while there are writes. Whoever
// hears "up to 7" must have seen 7.
func TestProgressFollowsEvents(t *testing.T) {
	ds := start(t, t.TempDir())
	c, other := ds.client(t), ds.client(t)
	ctx, stop := context.WithCancel(t.Context())
	var writing sync.WaitGroup
	writing.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			create(t, other, fmt.Sprintf("/other/%d", i), "")
		}
	})
	defer writing.Wait()
	defer stop()
	w := c.Watch(t.Context(), "/mine/", clientv3.WithPrefix(), clientv3.WithCreatedNotify(), clientv3.WithProgressNotify())
	<-w
	for i := range 100 {
		r, err := c.Txn(t.Context()).If(clientv3.Compare(clientv3.ModRevision(fmt.Sprintf("/mine/%d", i)), "=", 0)).
			Then(clientv3.OpPut(fmt.Sprintf("/mine/%d", i), "")).Commit()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.RequestProgress(t.Context()); err != nil {
			t.Fatal(err)
		}
		for seen := false; ; {
			got := <-w
			if len(got.Events) > 0 {
				seen = got.Events[len(got.Events)-1].Kv.ModRevision >= r.Header.Revision
				continue
			}
			if got.Header.Revision < r.Header.Revision {
				t.Fatalf("progress up to %d was reported after %d had been acknowledged", got.Header.Revision, r.Header.Revision)
			}
			if !seen {
				t.Fatalf("progress up to %d was reported before event %d", got.Header.Revision, r.Header.Revision)
			}
			break
		}
	}
}

// TestSlowWatcher lets a client not read for a while. It must not hold up
// others, and must find everything when it reads again.
func TestSlowWatcher(t *testing.T) {
	ds := start(t, t.TempDir())
	c := ds.client(t)
	ws, err := etcdserverpb.NewWatchClient(ds.client(t).ActiveConnection()).Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := ws.Send(&etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_CreateRequest{
		CreateRequest: &etcdserverpb.WatchCreateRequest{Key: []byte("/s/"), RangeEnd: []byte("/s0")},
	}}); err != nil {
		t.Fatal(err)
	}
	if r, err := ws.Recv(); err != nil || !r.Created {
		t.Fatalf("create: %+v, %v", r, err)
	}
	quick := c.Watch(t.Context(), "/s/", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	<-quick
	// More than gRPC's windows, the stream's queue and the hub's memory take.
	const events, size = 120, 100 << 10
	value := strings.Repeat("v", size)
	for i := range events {
		key := fmt.Sprintf("/s/%03d", i)
		create(t, c, key, value)
		if got := take(t, quick, 1); got[0] != "PUT "+key+"="+value {
			t.Fatalf("the quick watch got %.40s…, want %s", got[0], key)
		}
	}
	for i := 0; i < events; {
		r, err := ws.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if r.Canceled {
			t.Fatalf("the slow watch ended after %d events: %s", i, r.CancelReason)
		}
		for _, e := range r.Events {
			if got, want := string(e.Kv.Key), fmt.Sprintf("/s/%03d", i); got != want {
				t.Fatalf("the slow watch got %s, want %s", got, want)
			}
			i++
		}
	}
}
