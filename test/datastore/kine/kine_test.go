// Package kine carries databases between stock kine, as K3s embeds it, and
// skiff's datastore: each has to read, watch, change and compact what the
// other has written. Stock kine is built from the module that skiff uses.
// Start reading at TestRoundTrip.
package kine

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/k3s-io/kine/pkg/drivers"
	"github.com/k3s-io/kine/pkg/drivers/sqlite"
	kineserver "github.com/k3s-io/kine/pkg/server"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"skiff/test/datastore/store"
)

// opener serves the database in dir until stop is called, and no longer than
// the test.
type opener struct {
	name string
	open func(t *testing.T, dir string) (c *clientv3.Client, stop func())
}

var (
	skiff = opener{"skiff", ours}
	kine  = opener{"kine", stock}
)

func ours(t *testing.T, dir string) (*clientv3.Client, func()) {
	t.Helper()
	s := store.Start(t, dir, "")
	return s.Client(t), func() { s.Stop(t) }
}

// stock is kine with K3s' settings.
func stock(t *testing.T, dir string) (*clientv3.Client, func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	_, backend, err := sqlite.New(ctx, &wg, &drivers.Config{
		DataSourceName: store.File(dir) + "?" + sqlite.DefaultParams,
		CompactTimeout: 5 * time.Second, CompactMinRetain: 1000, CompactBatchSize: 1000, PollBatchSize: 500,
	})
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	if err := backend.Start(ctx); err != nil {
		cancel()
		t.Fatal(err)
	}
	sock, err := os.MkdirTemp("", "kine") //nolint:usetesting // A socket's path must be short.
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	l, err := new(net.ListenConfig).Listen(ctx, "unix", filepath.Join(sock, "s"))
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	kineserver.New(backend, "unix", 5*time.Second, "3.6.13").Register(srv)
	wg.Go(func() { _ = srv.Serve(l) })
	c, err := clientv3.New(clientv3.Config{
		Endpoints:   []string{"unix://" + l.Addr().String()},
		DialOptions: []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())},
	})
	if err != nil {
		t.Fatal(err)
	}
	stop := sync.OnceFunc(func() {
		_ = c.Close()
		srv.Stop()
		cancel()
		wg.Wait()
		_ = os.RemoveAll(sock)
	})
	t.Cleanup(stop)
	return c, stop
}

func TestRoundTrip(t *testing.T) {
	tests := []struct {
		name  string
		order []opener
	}{
		{"made by stock kine", []opener{kine, skiff, kine, skiff, skiff, kine}},
		{"made by skiff", []opener{skiff, kine, skiff, kine, kine, skiff}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := &book{dir: t.TempDir(), now: map[string]version{}, at: map[int64]map[string]version{}}
			for i, side := range tt.order {
				c, stop := side.open(t, b.dir)
				b.client, b.turn, b.side = c, i, side.name
				b.compare(t)
				b.write(t)
				b.compact(t)
				b.compare(t)
				stop()
				fold(t, b.dir)
				if t.Failed() {
					t.Fatalf("after %d turns", i+1)
				}
			}
		})
	}
}

// fold does what the last connection does that is closed in good order: it
// leaves no log beside the database. K3s often ends without.
func fold(t *testing.T, dir string) {
	t.Helper()
	db, err := sql.Open("sqlite3", store.File(dir))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(t.Context(), `PRAGMA wal_checkpoint(TRUNCATE)`); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestLogLeftBehind opens a database that stock kine has not closed. It synced
// less than it acknowledged, so what is there may be less than what clients
// know of: all is kept, and history begins anew.
func TestLogLeftBehind(t *testing.T) {
	b := &book{dir: t.TempDir(), now: map[string]version{}, at: map[int64]map[string]version{}}
	c, stop := stock(t, b.dir)
	b.client, b.side = c, kine.name
	b.write(t)
	crashed := t.TempDir()
	for _, suffix := range []string{"", "-wal"} {
		data, err := os.ReadFile(store.File(b.dir) + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(store.File(crashed)+suffix, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	stop()

	b.client, _ = ours(t, crashed)
	b.side = skiff.name
	if diff := cmp.Diff(b.now, b.list(t, 0), exact); diff != "" {
		t.Errorf("now (-want +got):\n%.2000s", diff)
	}
	if got := b.list(t, b.revision); got != nil {
		t.Errorf("the state at %d can be read, want it to be compacted", b.revision)
	}
	old := b.revision
	b.put(t, "/registry/new", "", 0)
	if b.revision < old+100_000 {
		t.Errorf("the next revision is %d, which clients of the crashed kine may have seen", b.revision)
	}
}

// version is what a key is at a revision.
type version struct {
	value       string
	mod, create int64
	lease       int64
}

// event is a change, as a watch tells it.
type event struct {
	key     string
	deleted bool
	now     version
	prev    version
	by      string // the side that made it
}

// book is what has to be in the database.
type book struct {
	dir       string
	turn      int
	side      string
	client    *clientv3.Client
	now       map[string]version
	at        map[int64]map[string]version // some past states
	events    []event
	revision  int64
	compacted int64
}

// put writes a key as the API server does, whether it exists or not.
func (b *book) put(t *testing.T, key, value string, lease int64) {
	t.Helper()
	before := b.now[key]
	r, err := b.client.Txn(t.Context()).If(clientv3.Compare(clientv3.ModRevision(key), "=", before.mod)).
		Then(clientv3.OpPut(key, value, clientv3.WithLease(clientv3.LeaseID(lease)))).Else(clientv3.OpGet(key)).Commit()
	if err != nil || !r.Succeeded {
		t.Fatalf("turn %d (%s): put %s of version %d: %v, %v", b.turn, b.side, key, before.mod, r, err)
	}
	v := version{value: value, mod: r.Header.Revision, create: before.create, lease: lease}
	if before.mod == 0 {
		v.create = v.mod
	}
	b.now[key] = v
	b.note(t, event{key: key, now: v, prev: before})
}

func (b *book) remove(t *testing.T, key string) {
	t.Helper()
	before := b.now[key]
	r, err := b.client.Txn(t.Context()).If(clientv3.Compare(clientv3.ModRevision(key), "=", before.mod)).
		Then(clientv3.OpDelete(key)).Else(clientv3.OpGet(key)).Commit()
	if err != nil || !r.Succeeded {
		t.Fatalf("turn %d (%s): delete %s of version %d: %v, %v", b.turn, b.side, key, before.mod, r, err)
	}
	delete(b.now, key)
	b.note(t, event{key: key, deleted: true, now: version{mod: r.Header.Revision}, prev: before})
}

func (b *book) note(t *testing.T, e event) {
	t.Helper()
	if e.now.mod <= b.revision {
		t.Fatalf("turn %d (%s): %s got revision %d, but %d had been used", b.turn, b.side, e.key, e.now.mod, b.revision)
	}
	e.by = b.side
	b.revision = e.now.mod
	b.events = append(b.events, e)
}

// write makes all kinds of changes: to what is new, to what the other side has
// written, and to what it has removed.
func (b *book) write(t *testing.T) {
	t.Helper()
	const lease = 3600
	for i := range 40 {
		b.put(t, fmt.Sprintf("/registry/pods/ns/pod-%02d", i), fmt.Sprintf("%d by turn %d", i, b.turn), 0)
		b.put(t, fmt.Sprintf("/registry/events/ns/event-%d-%02d", b.turn, i), "event", lease)
	}
	for i := 0; i < 40; i += 4 {
		b.remove(t, fmt.Sprintf("/registry/pods/ns/pod-%02d", i))
	}
	b.put(t, "/registry/pods/ns/pod-00", "again", 0) // Over its own tombstone.
	for i := range 30 {
		b.put(t, "/registry/leases/node", fmt.Sprint("renewed ", i), 0)
	}
	b.put(t, "/registry/secrets/empty", "", 0)
	b.put(t, "/registry/secrets/binary", "\x00\xff\xfe\n", 0)
	b.put(t, "/registry/configmaps/large", string(bytes.Repeat([]byte{byte(b.turn)}, 300_000)), 0)
	b.snapshot()
	// What one side removes last, the other creates again, or not.
	b.put(t, "/registry/services/odd", "here", 0)
	if b.turn%2 == 1 {
		b.remove(t, "/registry/services/odd")
	}
	// Stock kine keeps the newest thousand revisions, whatever is asked for.
	for i := range 1050 {
		b.put(t, "/registry/busy", fmt.Sprint(i), 0)
		if i == 500 {
			b.snapshot()
		}
	}
	// The newest row of all is a tombstone in most turns.
	if b.turn%3 != 2 {
		b.put(t, "/registry/last", "soon gone", 0)
		b.remove(t, "/registry/last")
	}
}

func (b *book) snapshot() {
	b.at[b.revision] = maps.Clone(b.now)
}

// compact compacts, as the API server does, in some turns at the newest
// revision.
func (b *book) compact(t *testing.T) {
	t.Helper()
	target := b.revision
	if b.turn%2 == 1 {
		target -= 1020
	}
	const key = "compact_rev_key"
	done := false
	for asked := int64(0); !done; {
		r, err := b.client.Txn(t.Context()).If(clientv3.Compare(clientv3.Version(key), "=", asked)).
			Then(clientv3.OpPut(key, fmt.Sprint(target))).Else(clientv3.OpGet(key)).Commit()
		if err != nil {
			t.Fatal(err)
		}
		b.revision = max(b.revision, r.Header.Revision)
		if done = r.Succeeded; !done {
			asked = r.Responses[0].GetResponseRange().Kvs[0].Version
		}
	}
	if _, err := b.client.Compact(t.Context(), target); err != nil {
		t.Fatalf("turn %d (%s): compact at %d: %v", b.turn, b.side, target, err)
	}
	b.compacted = max(b.compacted, target)
}
