package external_test

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func TestAPI(t *testing.T) {
	both(t, func(t *testing.T, endpoint string) {
		c := open(t, endpoint)
		ctx := within(t, 30*time.Second)
		w := c.Watch(ctx, "/registry/", clientv3.WithPrefix(), clientv3.WithPrevKV())

		first := must(create(ctx, c, "/registry/a", "1"))(t)
		if again := must(create(ctx, c, "/registry/a", "x"))(t); again != 0 {
			t.Error("a key was created twice")
		}
		second, ok, err := update(ctx, c, "/registry/a", "2", first)
		if err != nil || !ok {
			t.Fatalf("update: %v, %v", ok, err)
		}
		if now, ok, err := update(ctx, c, "/registry/a", "x", first); err != nil || ok || now != second {
			t.Errorf("an update at an old revision: now %d, %v, %v; want %d, false", now, ok, err, second)
		}
		if _, ok, err := remove(ctx, c, "/registry/a", first); err != nil || ok {
			t.Errorf("a removal at an old revision: %v, %v", ok, err)
		}
		if _, ok, err := remove(ctx, c, "/registry/a", second); err != nil || !ok {
			t.Errorf("remove: %v, %v", ok, err)
		}
		if _, ok, err := update(ctx, c, "/registry/a", "x", second); err != nil || ok {
			t.Errorf("an update of a key that is gone: %v, %v", ok, err)
		}
		third := must(create(ctx, c, "/registry/a", "3"))(t)
		if third <= second {
			t.Errorf("created again at revision %d, after %d", third, second)
		}
		if must(create(ctx, c, "/registry/A", "large"))(t) == 0 {
			t.Error("keys that differ by case are the same")
		}
		expect(t, w, "PUT /registry/a=1", "PUT /registry/a=2 (1)", "DELETE /registry/a (2)", "PUT /registry/a=3", "PUT /registry/A=large")

		past := must(c.Get(ctx, "/registry/a", clientv3.WithRev(second)))(t)
		if len(past.Kvs) != 1 || string(past.Kvs[0].Value) != "2" || past.Kvs[0].CreateRevision != first {
			t.Errorf("the past: %v", past.Kvs)
		}
		if _, err := c.Get(ctx, "/registry/a", clientv3.WithRev(third+1000)); !errors.Is(err, rpctypes.ErrFutureRev) {
			t.Errorf("the future: %v", err)
		}
		again := c.Watch(ctx, "/registry/a", clientv3.WithRev(second), clientv3.WithPrevKV())
		expect(t, again, "PUT /registry/a=2 (1)", "DELETE /registry/a (2)", "PUT /registry/a=3")
	})
}

func TestPages(t *testing.T) {
	both(t, func(t *testing.T, endpoint string) {
		c := open(t, endpoint)
		ctx := within(t, 30*time.Second)
		var want []string
		for i := range 25 {
			key := fmt.Sprintf("/registry/pods/%02d", i)
			want = append(want, key)
			must(create(ctx, c, key, "v"))(t)
		}
		// Names that begin with another, and what sorts beside the separator.
		for _, key := range []string{"/registry/pods/00-a", "/registry/pods/00.a", "/registry/pods/000"} {
			want = append(want, key)
			must(create(ctx, c, key, "v"))(t)
		}
		slices.Sort(want)
		var got []string
		var revision int64
		for key := "/registry/pods/"; ; {
			r := must(c.Get(ctx, key, clientv3.WithRange("/registry/pods0"), clientv3.WithLimit(4), clientv3.WithRev(revision)))(t)
			if revision == 0 {
				revision = r.Header.Revision
				// The pages are of the first one's revision.
				must(create(ctx, c, "/registry/pods/01-later", "v"))(t)
			}
			if int(r.Count) != len(want)-len(got) {
				t.Errorf("%d keys are left from %q on, want %d", r.Count, key, len(want)-len(got))
			}
			for _, kv := range r.Kvs {
				got = append(got, string(kv.Key))
			}
			if !r.More {
				break
			}
			key = got[len(got)-1] + "\x00"
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("keys (-want +got):\n%s", d)
		}
		if n := must(c.Get(ctx, "/registry/pods/", clientv3.WithPrefix(), clientv3.WithCountOnly()))(t).Count; int(n) != len(want)+1 {
			t.Errorf("%d keys counted, want %d", n, len(want)+1)
		}
		if n := must(c.Get(ctx, "/registry/none/", clientv3.WithPrefix()))(t); n.Header.Revision < revision || len(n.Kvs) != 0 {
			t.Errorf("an empty range is of revision %d, the store of %d", n.Header.Revision, revision)
		}
	})
}

func TestCompaction(t *testing.T) {
	both(t, func(t *testing.T, endpoint string) {
		c := open(t, endpoint)
		ctx := within(t, 60*time.Second)
		kept := must(create(ctx, c, "/registry/kept", "1"))(t)
		rev := must(create(ctx, c, "/registry/key", "0"))(t)
		for i := range 50 {
			next, ok, err := update(ctx, c, "/registry/key", fmt.Sprint(i+1), rev)
			if err != nil || !ok {
				t.Fatal(ok, err)
			}
			rev = next
		}
		middle := rev - 10
		must(c.Compact(ctx, middle))(t)
		if _, err := c.Compact(ctx, middle); !errors.Is(err, rpctypes.ErrCompacted) {
			t.Errorf("compacted twice: %v", err)
		}
		if _, err := c.Compact(ctx, rev+100); !errors.Is(err, rpctypes.ErrFutureRev) {
			t.Errorf("the future was compacted: %v", err)
		}
		if _, err := c.Get(ctx, "/registry/key", clientv3.WithRev(middle-1)); !errors.Is(err, rpctypes.ErrCompacted) {
			t.Errorf("the past is there: %v", err)
		}
		if r := must(c.Get(ctx, "/registry/key", clientv3.WithRev(middle)))(t); len(r.Kvs) != 1 || string(r.Kvs[0].Value) != "40" {
			t.Errorf("at the compacted revision: %v", r.Kvs)
		}
		old := <-c.Watch(ctx, "/registry/key", clientv3.WithRev(kept))
		if !errors.Is(old.Err(), rpctypes.ErrCompacted) || old.CompactRevision != middle {
			t.Errorf("a watch of the past: %v, compacted %d", old.Err(), old.CompactRevision)
		}
		// A removal that is the newest row of all is what the revision is known
		// by: it must not go.
		gone, ok, err := remove(ctx, c, "/registry/key", rev)
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		must(c.Compact(ctx, gone))(t)
		if now := must(c.Get(ctx, "/registry/kept"))(t); now.Header.Revision < gone || len(now.Kvs) != 1 {
			t.Errorf("after the compaction of all the revision is %d, want %d", now.Header.Revision, gone)
		}
		if next := must(create(ctx, c, "/registry/key", "again"))(t); next <= gone {
			t.Errorf("revision %d was given out again after %d", next, gone)
		}
	})
}

func TestLeases(t *testing.T) {
	both(t, func(t *testing.T, endpoint string) {
		a, b := open(t, endpoint), open(t, endpoint)
		ctx := within(t, 30*time.Second)
		w := b.Watch(ctx, "/registry/events/", clientv3.WithPrefix())
		lease := must(a.Grant(ctx, 2))(t)
		begin := time.Now()
		must(create(ctx, a, "/registry/events/a", "v", clientv3.WithLease(lease.ID)))(t)
		must(create(ctx, a, "/registry/events/b", "v"))(t)
		expect(t, w, "PUT /registry/events/a=v", "PUT /registry/events/b=v", "DELETE /registry/events/a")
		if took := time.Since(begin); took < 2*time.Second || took > 5*time.Second {
			t.Errorf("a lease of 2s ended after %v", took)
		}
		if r := must(a.Get(ctx, "/registry/events/b"))(t); len(r.Kvs) != 1 {
			t.Error("a key without a lease is gone")
		}
	})
}

// TestContention has many writers increase one number, on two servers.
func TestContention(t *testing.T) {
	both(t, func(t *testing.T, endpoint string) {
		clients := []*clientv3.Client{open(t, endpoint), open(t, endpoint)}
		ctx := within(t, 60*time.Second)
		const writers, times = 8, 15
		must(create(ctx, clients[0], "/registry/n", ""))(t)
		w := clients[1].Watch(ctx, "/registry/n", clientv3.WithRev(1))
		var wg sync.WaitGroup
		for i := range writers {
			wg.Go(func() {
				c := clients[i%2]
				for done := 0; done < times; {
					r, err := c.Get(ctx, "/registry/n")
					if err != nil {
						t.Error(err)
						return
					}
					_, ok, err := update(ctx, c, "/registry/n", string(r.Kvs[0].Value)+"x", r.Kvs[0].ModRevision)
					if err != nil {
						t.Error(err)
						return
					}
					if ok {
						done++
					}
				}
			})
		}
		wg.Wait()
		last := must(clients[0].Get(ctx, "/registry/n"))(t).Kvs[0].Value
		if len(last) != writers*times {
			t.Errorf("%d of %d increments are there", len(last), writers*times)
		}
		seen := 0
		for seen <= writers*times {
			r, ok := <-w
			if !ok || r.Err() != nil {
				t.Fatalf("the watch ended: %v", r.Err())
			}
			for _, e := range r.Events {
				if len(e.Kv.Value) != seen {
					t.Fatalf("event %d has value %d", seen, len(e.Kv.Value))
				}
				seen++
			}
		}
	})
}
