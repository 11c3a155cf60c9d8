package external_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"skiff/test/datastore/servers"
)

// TestCutResultIsAnError breaks the connections in the middle of results. Kine
// takes the rows before for all there are.
func TestCutResultIsAnError(t *testing.T) {
	both(t, func(t *testing.T, endpoint string) {
		p, proxied := between(t, endpoint)
		c := open(t, proxied)
		ctx := within(t, 80*time.Second)
		const keys, size = 200, 4000
		for i := range keys {
			must(create(ctx, c, fmt.Sprintf("/registry/big/%03d", i), strings.Repeat("x", size)))(t)
		}
		// This way the client does not try again by itself.
		kv := etcdserverpb.NewKVClient(c.ActiveConnection())
		request := &etcdserverpb.RangeRequest{Key: []byte("/registry/big/"), RangeEnd: []byte("/registry/big0")}
		failed, whole := 0, 0
		for range 40 {
			p.left.Store(rand.Int64N(keys * size * 2))
			r, err := kv.Range(ctx, request)
			switch {
			case err != nil:
				failed++
				if code := status.Code(err); code != codes.Unavailable {
					t.Fatalf("a cut connection is %v: %v", code, err)
				}
			case len(r.Kvs) != keys || r.Count != keys:
				t.Fatalf("%d of %d keys were returned without an error", len(r.Kvs), keys)
			default:
				whole++
			}
		}
		p.left.Store(-1)
		t.Logf("%d lists failed, %d were whole, %d cuts", failed, whole, p.cuts.Load())
		if failed == 0 || p.cuts.Load() == 0 {
			t.Error("no list was cut")
		}
	})
}

// TestCutWatchMissesNothing has one server behind connections that break, and
// another that writes.
func TestCutWatchMissesNothing(t *testing.T) {
	both(t, func(t *testing.T, endpoint string) {
		p, proxied := between(t, endpoint)
		behind, writer := open(t, proxied), open(t, endpoint)
		ctx := within(t, 80*time.Second)
		const writes = 400
		w := &reader{watch: behind.Watch(ctx, "/registry/n/", clientv3.WithPrefix(), clientv3.WithRev(1))}
		go func() {
			for i := range writes {
				if _, err := create(ctx, writer, fmt.Sprintf("/registry/n/%04d", i), strings.Repeat("y", 2000)); err != nil {
					t.Error(err)
					return
				}
				if i%20 == 10 {
					p.left.Store(rand.Int64N(10_000))
				}
				time.Sleep(5 * time.Millisecond)
			}
		}()
		for i := range writes {
			e := w.next(ctx, t)
			if want := fmt.Sprintf("/registry/n/%04d", i); string(e.Kv.Key) != want {
				t.Fatalf("the watch says %s, want %s", e.Kv.Key, want)
			}
		}
		t.Logf("%d cuts", p.cuts.Load())
		if p.cuts.Load() < 5 {
			t.Errorf("the connections were cut %d times only", p.cuts.Load())
		}
	})
}

// TestServerRestarts stops and kills the database under a running server.
func TestServerRestarts(t *testing.T) {
	for name, start := range map[string]func(testing.TB) *servers.Server{"postgres": servers.NewPostgres, "mysql": servers.NewMySQL} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t)
			c := open(t, s.Database(t))
			ctx := within(t, 80*time.Second)
			w := c.Watch(ctx, "/registry/", clientv3.WithPrefix())
			var last int64
			for i, end := range []func(testing.TB){s.Stop, s.Kill, s.Kill} {
				key := fmt.Sprintf("/registry/%d", i)
				rev := must(create(ctx, c, key+"/before", "v"))(t)
				if rev <= last {
					t.Errorf("revision %d was given out after %d", rev, last)
				}
				end(t)
				if _, err := create(ctx, c, key+"/down", "v"); status.Code(err) != codes.Unavailable {
					t.Errorf("a write without a database: %v", err)
				}
				s.Start(t)
				up := time.Now()
				took := eventually(t, 10*time.Second, func() (err error) {
					last, err = create(ctx, c, key+"/after", "v")
					return err
				})
				expect(t, w, "PUT "+key+"/before=v", "PUT "+key+"/after=v")
				t.Logf("a write after %v, its event after %v", took, time.Since(up))
				if seen := time.Since(up); seen > 5*time.Second {
					t.Errorf("the watch went on after %v, want at most 5s", seen)
				}
			}
		})
	}
}

// reader takes the events of a watch one by one.
type reader struct {
	watch   clientv3.WatchChan
	pending []*clientv3.Event
}

func (r *reader) next(ctx context.Context, t *testing.T) *clientv3.Event {
	t.Helper()
	for len(r.pending) == 0 {
		select {
		case <-ctx.Done():
			t.Fatal("no more events came")
		case response, ok := <-r.watch:
			if !ok || response.Err() != nil {
				t.Fatalf("the watch ended: %v", response.Err())
			}
			r.pending = response.Events
		}
	}
	e := r.pending[0]
	r.pending = r.pending[1:]
	return e
}
