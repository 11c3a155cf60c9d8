package external_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/k3s-io/kine/pkg/drivers"
	"github.com/k3s-io/kine/pkg/drivers/mysql"
	"github.com/k3s-io/kine/pkg/drivers/pgsql"
	"github.com/k3s-io/kine/pkg/server"
	clientv3 "go.etcd.io/etcd/client/v3"

	"skiff/test/datastore/store"
)

// kine opens a database as K3s does, until the function is called.
func kine(t *testing.T, endpoint string) (b server.Backend, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	scheme, dsn, _ := strings.Cut(endpoint, "://")
	open := map[string]drivers.Constructor{"postgres": pgsql.New, "mysql": mysql.New}[scheme]
	_, b, err := open(ctx, &wg, &drivers.Config{
		DataSourceName: dsn, CompactTimeout: 5 * time.Second, CompactMinRetain: 1000, CompactBatchSize: 1000, PollBatchSize: 500,
	})
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	if err := b.Start(ctx); err != nil {
		cancel()
		t.Fatal(err)
	}
	return b, func() { cancel(); wg.Wait() }
}

// TestKineOpensOurDatabase takes a database from skiff to K3s and back.
func TestKineOpensOurDatabase(t *testing.T) {
	both(t, func(t *testing.T, endpoint string) {
		ours := store.Start(t, t.TempDir(), endpoint)
		c := ours.Client(t)
		ctx := within(t, 60*time.Second)
		first := must(create(ctx, c, "/registry/key", "1"))(t)
		second, _, err := update(ctx, c, "/registry/key", "2", first)
		if err != nil {
			t.Fatal(err)
		}
		gone := must(create(ctx, c, "/registry/gone", "x"))(t)
		if _, _, err := remove(ctx, c, "/registry/gone", gone); err != nil {
			t.Fatal(err)
		}
		must(c.Compact(ctx, first))(t)
		ours.Stop(t)

		b, stop := kine(t, endpoint)
		rev, kvs, err := b.List(ctx, "/registry/", "/registry0", 0, 0, false)
		if err != nil {
			t.Fatal(err)
		}
		var list []string
		for _, kv := range kvs {
			list = append(list, fmt.Sprintf("%s=%s@%d/%d", kv.Key, kv.Value, kv.CreateRevision, kv.ModRevision))
		}
		want := fmt.Sprintf("[%s=%s@%%d/%%d /registry/key=2@%d/%d]", server.HealthKey, server.HealthVal, first, second)
		if got := fmt.Sprint(list); len(list) != 2 || list[1] != fmt.Sprintf("/registry/key=2@%d/%d", first, second) {
			t.Errorf("kine lists %s at revision %d, want like %s", got, rev, want)
		}
		past := b.Watch(ctx, "/registry/", "/registry0", second)
		var events []string
		for len(events) < 3 {
			for _, e := range <-past.Events {
				prev := ""
				if e.PrevKV != nil {
					prev = string(e.PrevKV.Value)
				}
				events = append(events, fmt.Sprintf("%s=%s (%s) %v", e.KV.Key, e.KV.Value, prev, e.Delete))
			}
		}
		if got, want := strings.Join(events, ", "), "/registry/key=2 (1) false, /registry/gone=x () false, /registry/gone= (x) true"; got != want {
			t.Errorf("kine's watch says %s, want %s", got, want)
		}
		third, _, ok, err := b.Update(ctx, "/registry/key", []byte("3"), second, 0)
		if err != nil || !ok || third <= second {
			t.Errorf("kine updates: %d, %v, %v", third, ok, err)
		}
		if _, err := b.Create(ctx, "/registry/gone", []byte("back"), 0); err != nil {
			t.Errorf("kine creates: %v", err)
		}
		stop()

		c = open(t, endpoint)
		r := must(c.Get(ctx, "/registry/key"))(t)
		if len(r.Kvs) != 1 || string(r.Kvs[0].Value) != "3" || r.Kvs[0].ModRevision != third || r.Kvs[0].CreateRevision != first {
			t.Errorf("after kine the key is %v", r.Kvs)
		}
		if _, ok, err := update(ctx, c, "/registry/key", "4", third); err != nil || !ok {
			t.Errorf("update after kine: %v, %v", ok, err)
		}
	})
}

// TestKineBesideUs has a server of K3s and one of skiff on one database, as
// while a cluster changes from one to the other.
func TestKineBesideUs(t *testing.T) {
	both(t, func(t *testing.T, endpoint string) {
		c := open(t, endpoint)
		ctx := within(t, 60*time.Second)
		b, stop := kine(t, endpoint)
		defer stop()
		theirs := b.Watch(ctx, "/registry/both/", "/registry/both0", 1)
		w := &reader{watch: c.Watch(ctx, "/registry/both/", clientv3.WithPrefix(), clientv3.WithRev(1))}
		const writes = 60
		var wg sync.WaitGroup
		for i := range writes {
			wg.Go(func() {
				var err error
				if key := fmt.Sprintf("/registry/both/%d", i); i%2 == 0 {
					_, err = b.Create(ctx, key, []byte("v"), 0)
				} else {
					_, err = create(ctx, c, key, "v")
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		var ours []int64
		for range writes {
			ours = append(ours, w.next(ctx, t).Kv.ModRevision)
		}
		var kines []int64
		for len(kines) < writes {
			select {
			case <-ctx.Done():
				t.Fatalf("kine's watch has %d of %d events", len(kines), writes)
			case events := <-theirs.Events:
				for _, e := range events {
					if e != nil {
						kines = append(kines, e.KV.ModRevision)
					}
				}
			}
		}
		if fmt.Sprint(ours) != fmt.Sprint(kines) {
			t.Errorf("skiff's watch has the revisions %v, kine's %v", ours, kines)
		}
	})
}
