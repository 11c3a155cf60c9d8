package external_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"skiff/test/datastore/servers"
)

// TestPeers has two skiff servers on one database.
func TestPeers(t *testing.T) {
	both(t, func(t *testing.T, endpoint string) {
		a, b := open(t, endpoint), open(t, endpoint)
		ctx := within(t, 80*time.Second)
		w := &reader{watch: b.Watch(ctx, "/registry/", clientv3.WithPrefix(), clientv3.WithCreatedNotify())}
		<-w.watch
		// Rare writes, as of a cluster at rest.
		var took []time.Duration
		for i := range 12 {
			time.Sleep(time.Duration(100+37*i) * time.Millisecond)
			begin := time.Now()
			rev := must(create(ctx, a, fmt.Sprintf("/registry/rare/%d", i), "v"))(t)
			if e := w.next(ctx, t); e.Kv.ModRevision != rev {
				t.Fatalf("the event is of revision %d, want %d", e.Kv.ModRevision, rev)
			}
			took = append(took, time.Since(begin))
		}
		slices.Sort(took)
		t.Logf("a write on one server was an event on the other after %v (median), %v (longest)", took[len(took)/2], took[len(took)-1])
		limit := 500 * time.Millisecond
		if strings.HasPrefix(endpoint, "postgres") {
			limit = 250 * time.Millisecond
		}
		if took[len(took)/2] > limit {
			t.Errorf("want a median of at most %v", limit)
		}

		// A read on one server sees what the other has acknowledged.
		for i := range 100 {
			key := fmt.Sprintf("/registry/seen/%d", i)
			rev := must(create(ctx, a, key, "v"))(t)
			if r := must(b.Get(ctx, key))(t); len(r.Kvs) != 1 || r.Header.Revision < rev {
				t.Fatalf("%s is not there at revision %d, written at %d", key, r.Header.Revision, rev)
			}
			w.next(ctx, t)
		}
		progressIsPrompt(ctx, t, a, b)
	})
}

// progressIsPrompt measures what a consistent list of the API server waits for.
func progressIsPrompt(ctx context.Context, t *testing.T, a, b *clientv3.Client) {
	t.Helper()
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	quiet := b.Watch(ctx, "/nothing/", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	<-quiet
	var took []time.Duration
	for i := range 20 {
		rev := must(create(ctx, a, fmt.Sprintf("/registry/progress/%d", i), "v"))(t)
		took = append(took, progress(ctx, t, b, quiet, rev))
	}
	slices.Sort(took)
	t.Logf("progress after a write on the other server: %v (median), %v (longest)", took[len(took)/2], took[len(took)-1])
	if took[len(took)/2] > 100*time.Millisecond {
		t.Error("want a median of at most 100ms")
	}
}

// TestOpenTransaction has somebody take a revision and not say for a while
// whether it will be.
func TestOpenTransaction(t *testing.T) {
	both(t, func(t *testing.T, endpoint string) {
		c := open(t, endpoint)
		ctx := within(t, 60*time.Second)
		db := connect(t, endpoint)
		w := &reader{watch: c.Watch(ctx, "/registry/", clientv3.WithPrefix(), clientv3.WithCreatedNotify())}
		<-w.watch
		for _, commit := range []bool{true, false, true} {
			tx := must(db.BeginTx(ctx, nil))(t)
			slow, fast := fmt.Sprintf("/registry/slow-%d", time.Now().UnixNano()), fmt.Sprintf("/registry/fast-%d", time.Now().UnixNano())
			must(tx.ExecContext(ctx, `INSERT INTO kine (name, created, deleted, create_revision, prev_revision, lease) VALUES ('`+slow+`', 1, 0, 0, 0, 0)`))(t)
			rev := must(create(ctx, c, fast, "v"))(t)

			// The later one is there, but nobody may say yet what is before.
			impatient, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
			if r, err := c.Get(impatient, "/registry/", clientv3.WithPrefix()); err == nil {
				t.Errorf("a list is of revision %d although %d may still come", r.Header.Revision, rev-1)
			}
			cancel()
			select {
			case r := <-w.watch:
				t.Fatalf("an event came before the one that may be before it: %v", r.Events)
			default:
			}
			begin := time.Now()
			if commit {
				if err := tx.Commit(); err != nil {
					t.Fatal(err)
				}
				if e := w.next(ctx, t); string(e.Kv.Key) != slow {
					t.Fatalf("the first event is of %s, want %s", e.Kv.Key, slow)
				}
			} else if err := tx.Rollback(); err != nil {
				t.Fatal(err)
			}
			if e := w.next(ctx, t); string(e.Kv.Key) != fast || e.Kv.ModRevision != rev {
				t.Fatalf("the next event is of %s, want %s", e.Kv.Key, fast)
			}
			if took := time.Since(begin); took > 2*time.Second {
				t.Errorf("the event came %v after the transaction had ended", took)
			}
			if r := must(c.Get(ctx, fast))(t); len(r.Kvs) != 1 || r.Header.Revision < rev {
				t.Errorf("a read afterwards: %v", r)
			}
		}
	})
}

// TestCreateWhileTombstoneGoes has a compaction remove the row of a key's
// removal while the key is created again.
func TestCreateWhileTombstoneGoes(t *testing.T) {
	both(t, func(t *testing.T, endpoint string) {
		c := open(t, endpoint)
		ctx := within(t, 60*time.Second)
		db := connect(t, endpoint)
		for _, commit := range []bool{true, false} {
			rev := must(create(ctx, c, "/registry/key", "1"))(t)
			gone, ok, err := remove(ctx, c, "/registry/key", rev)
			if err != nil || !ok {
				t.Fatal(ok, err)
			}
			tx := must(db.BeginTx(ctx, nil))(t)
			must(tx.ExecContext(ctx, `DELETE FROM kine WHERE name = '/registry/key'`))(t)
			created := make(chan error, 1)
			go func() {
				rev, err := create(ctx, c, "/registry/key", "2")
				if rev == 0 && err == nil {
					err = errors.New("the key is said to exist")
				}
				created <- err
			}()
			select {
			case err := <-created:
				t.Fatalf("the key was created before it was clear behind what: %v", err)
			case <-time.After(300 * time.Millisecond):
			}
			end := tx.Rollback
			if commit {
				end = tx.Commit
			}
			if err := end(); err != nil {
				t.Fatal(err)
			}
			if err := <-created; err != nil {
				t.Fatal(err)
			}
			var prev int64
			if err := db.QueryRowContext(ctx, `SELECT prev_revision FROM kine WHERE name = '/registry/key' ORDER BY id DESC LIMIT 1`).Scan(&prev); err != nil {
				t.Fatal(err)
			}
			want := gone
			if commit {
				want = 0
			}
			if prev != want {
				t.Errorf("the new row is behind %d, want %d", prev, want)
			}
			kv := must(c.Get(ctx, "/registry/key"))(t).Kvs[0]
			if _, ok, err := remove(ctx, c, "/registry/key", kv.ModRevision); err != nil || !ok {
				t.Fatal(ok, err)
			}
		}
	})
}

// TestStandbyIsLeft has a server that refuses to write, as one does that was
// the primary before a failover, until it is connected to again.
func TestStandbyIsLeft(t *testing.T) {
	endpoint := servers.Postgres(t)
	c := open(t, endpoint)
	ctx := within(t, 60*time.Second)
	db := connect(t, endpoint)
	name := endpoint[strings.LastIndex(endpoint, "/")+1:]
	for _, sql := range []string{
		"ALTER DATABASE " + name + " SET default_transaction_read_only = on",
		"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()",
	} {
		must(db.ExecContext(ctx, sql))(t)
	}
	eventually(t, 10*time.Second, func() error {
		_, err := create(ctx, c, fmt.Sprintf("/registry/%d", time.Now().UnixNano()), "v")
		if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "read-only") {
			return fmt.Errorf("a write to a server that only reads: %w", err)
		}
		return nil
	})
	must(db.ExecContext(ctx, "SET default_transaction_read_only = off; ALTER DATABASE "+name+" SET default_transaction_read_only = off"))(t)
	took := eventually(t, 5*time.Second, func() error {
		_, err := create(ctx, c, "/registry/back", "v")
		return err
	})
	t.Logf("written again after %v", took)
}

// TestManyWriters compares what a watch says with what was acknowledged.
func TestManyWriters(t *testing.T) {
	both(t, func(t *testing.T, endpoint string) {
		clients := []*clientv3.Client{open(t, endpoint), open(t, endpoint)}
		ctx := within(t, 80*time.Second)
		const writers, each = 16, 60
		w := &reader{watch: clients[1].Watch(ctx, "/registry/w/", clientv3.WithPrefix(), clientv3.WithRev(1))}
		var mu sync.Mutex
		acknowledged := map[int64]string{}
		var wg sync.WaitGroup
		begin := time.Now()
		for i := range writers {
			wg.Go(func() {
				for j := range each {
					key := fmt.Sprintf("/registry/w/%d/%d", i, j)
					rev, err := create(ctx, clients[i%2], key, strings.Repeat("z", 400))
					if err != nil {
						t.Errorf("create %s: %v", key, err)
						return
					}
					mu.Lock()
					acknowledged[rev] = key
					mu.Unlock()
				}
			})
		}
		// Meanwhile every list has to be of its revision: what a watch from
		// there on does not say is in it.
		lists := map[int64]int64{}
		for range 20 {
			r := must(clients[0].Get(ctx, "/registry/w/", clientv3.WithPrefix(), clientv3.WithCountOnly()))(t)
			lists[r.Header.Revision] = r.Count
		}
		wg.Wait()
		t.Logf("%.0f creates a second by %d writers on two servers", float64(writers*each)/time.Since(begin).Seconds(), writers)
		var last int64
		revisions := []int64{}
		for range writers * each {
			e := w.next(ctx, t)
			if e.Kv.ModRevision <= last {
				t.Fatalf("an event of revision %d came after one of %d", e.Kv.ModRevision, last)
			}
			last = e.Kv.ModRevision
			revisions = append(revisions, last)
			if acknowledged[last] != string(e.Kv.Key) {
				t.Fatalf("revision %d is of %s, acknowledged for %q", last, e.Kv.Key, acknowledged[last])
			}
		}
		for rev, count := range lists {
			at, _ := slices.BinarySearch(revisions, rev+1)
			if int64(at) != count {
				t.Errorf("a list at revision %d has %d keys, the watch %d events", rev, count, at)
			}
		}
	})
}

// connect opens a database past skiff.
func connect(t testing.TB, endpoint string) *sql.DB {
	t.Helper()
	var db *sql.DB
	if dsn, ok := strings.CutPrefix(endpoint, "mysql://"); ok {
		config, err := mysql.ParseDSN(dsn)
		if err != nil {
			t.Fatal(err)
		}
		connector, err := mysql.NewConnector(config)
		if err != nil {
			t.Fatal(err)
		}
		db = sql.OpenDB(connector)
	} else {
		config, err := pgx.ParseConfig(endpoint)
		if err != nil {
			t.Fatal(err)
		}
		db = stdlib.OpenDB(*config)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}
