package repair_test

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/k3s-io/kine/pkg/drivers"
	"github.com/k3s-io/kine/pkg/drivers/generic"
	kinesqlite "github.com/k3s-io/kine/pkg/drivers/sqlite"
	"github.com/k3s-io/kine/pkg/server"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"skiff/pkg/datastore"
	"skiff/pkg/datastore/repair"
)

const by = 1_000_000

// stock opens a database with kine's own driver, as K3s does.
func stock(t *testing.T, path string) (b server.Backend, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	_, b, err := kinesqlite.New(ctx, &wg, &drivers.Config{
		DataSourceName: path + "?_journal_mode=WAL&_busy_timeout=30000&_txlock=immediate",
		CompactTimeout: 5 * time.Second, CompactBatchSize: 1000, CompactMinRetain: 1000, PollBatchSize: 500,
		ConnectionPoolConfig: generic.ConnectionPoolConfig{MaxIdle: 2, MaxOpen: 4},
	})
	if err == nil {
		err = b.Start(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	return b, sync.OnceFunc(func() { cancel(); wg.Wait() })
}

func TestBumpSeenByStockKine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	b, stop := stock(t, path)
	defer stop()
	create := func(b server.Backend, key string) int64 {
		t.Helper()
		revision, err := b.Create(t.Context(), key, []byte(key), 0)
		if err != nil {
			t.Fatal(err)
		}
		return revision
	}
	a := create(b, "/registry/a")
	gone := create(b, "/registry/gone")
	before, _, _, err := b.Update(t.Context(), "/registry/a", []byte("new"), a, 0)
	if err != nil {
		t.Fatal(err)
	}
	deleted, _, ok, err := b.Delete(t.Context(), "/registry/gone", gone)
	if err != nil || !ok {
		t.Fatalf("delete: %v, %v", ok, err)
	}
	stop()

	revision, err := repair.Bump(t.Context(), path, by)
	if err != nil {
		t.Fatal(err)
	}
	if revision < deleted+by {
		t.Errorf("revision is %d after %d", revision, deleted)
	}

	b, stop = stock(t, path)
	defer stop()
	current, kv, err := b.Get(t.Context(), "/registry/a", 0, false)
	if err != nil || kv == nil || string(kv.Value) != "new" || kv.ModRevision != before || current < revision {
		t.Errorf("read at %d: %+v, %v; want the last value, of revision %d, read at %d or later", current, kv, err, before, revision)
	}
	if _, kv, err := b.Get(t.Context(), "/registry/gone", 0, false); err != nil || kv != nil {
		t.Errorf("the deleted key: %+v, %v", kv, err)
	}
	watch := b.Watch(t.Context(), "/registry/", "/registry0", deleted)
	if _, open := <-watch.Events; open || watch.CompactRevision < deleted {
		t.Errorf("a watch from %d goes on (compacted %d), want it to be told of the compaction", deleted, watch.CompactRevision)
	}
	if next := create(b, "/registry/next"); next <= revision {
		t.Errorf("the next revision is %d, want more than %d", next, revision)
	}
}

func TestBumpSeenByOurs(t *testing.T) {
	dir := t.TempDir()
	c, stop := ours(t, dir)
	var last int64
	for _, value := range []string{"1", "2", "3"} {
		r, err := c.Txn(t.Context()).If(clientv3.Compare(clientv3.ModRevision("/registry/a"), "=", last)).
			Then(clientv3.OpPut("/registry/a", value)).Else(clientv3.OpGet("/registry/a")).Commit()
		if err != nil || !r.Succeeded {
			t.Fatalf("write: %v, %v", r, err)
		}
		last = r.Header.Revision
	}
	stop()

	revision, err := repair.Bump(t.Context(), filepath.Join(dir, "db", "state.db"), by)
	if err != nil {
		t.Fatal(err)
	}
	c, stop = ours(t, dir)
	defer stop()
	got, err := c.Get(t.Context(), "/registry/a")
	if err != nil || len(got.Kvs) != 1 || string(got.Kvs[0].Value) != "3" || got.Header.Revision < revision {
		t.Errorf("read: %v, %v, want 3 at %d or later", got, err, revision)
	}
	if _, err := c.Get(t.Context(), "/registry/", clientv3.WithPrefix(), clientv3.WithRev(last)); !errors.Is(err, rpctypes.ErrCompacted) {
		t.Errorf("list at %d: %v, want that it has been compacted", last, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if w := <-c.Watch(ctx, "/registry/", clientv3.WithPrefix(), clientv3.WithRev(last)); !errors.Is(w.Err(), rpctypes.ErrCompacted) {
		t.Errorf("watch from %d: %v, want that it has been compacted", last, w)
	}
	r, err := c.Txn(t.Context()).If(clientv3.Compare(clientv3.ModRevision("/registry/b"), "=", 0)).Then(clientv3.OpPut("/registry/b", "1")).Commit()
	if err != nil || !r.Succeeded || r.Header.Revision <= revision {
		t.Errorf("next write: %v, %v, want a revision above %d", r, err, revision)
	}
}

// ours runs our datastore.
func ours(t *testing.T, dir string) (*clientv3.Client, func()) {
	t.Helper()
	ds, err := datastore.Open(datastore.Options{Dir: filepath.Join(dir, "db"), Socket: filepath.Join(dir, "s.sock"), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- ds.Run(ctx) }()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for ds.Ready(ctx) != nil {
		select {
		case err := <-done:
			t.Fatalf("datastore stopped: %v", err)
		case <-tick.C:
		}
	}
	c, err := clientv3.New(clientv3.Config{
		Endpoints:   ds.Endpoint().Servers,
		DialOptions: []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())},
	})
	if err != nil {
		t.Fatal(err)
	}
	return c, sync.OnceFunc(func() {
		_ = c.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
