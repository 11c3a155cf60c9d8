package external_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/k3s-io/kine/pkg/server"
	clientv3 "go.etcd.io/etcd/client/v3"

	"skiff/pkg/datastore/shared"
	"skiff/test/datastore/servers"
	"skiff/test/datastore/store"
)

// TestKilledUnderLoad kills the database while two servers write.
func TestKilledUnderLoad(t *testing.T) {
	for name, start := range map[string]func(testing.TB) *servers.Server{"postgres": servers.NewPostgres, "mysql": servers.NewMySQL} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t)
			endpoint := s.Database(t)
			clients := []*clientv3.Client{open(t, endpoint), open(t, endpoint)}
			ctx := within(t, 80*time.Second)
			w := clients[0].Watch(ctx, "/registry/", clientv3.WithPrefix(), clientv3.WithRev(1))

			acknowledged := map[string]int64{} // key and value to revision
			var mu sync.Mutex
			writing, stop := context.WithCancel(ctx)
			var wg sync.WaitGroup
			for i := range 8 {
				wg.Go(func() {
					write(writing, clients[i%2], i, func(key string, rev int64) { mu.Lock(); acknowledged[key] = rev; mu.Unlock() })
				})
			}
			for range 3 {
				time.Sleep(700 * time.Millisecond)
				s.Kill(t)
				time.Sleep(100 * time.Millisecond)
				s.Start(t)
			}
			time.Sleep(time.Second)
			stop()
			wg.Wait()

			end := must(create(ctx, clients[1], "/registry/end", "v"))(t)
			seen := map[string]int64{}
			for last := int64(0); last < end; {
				r, ok := <-w
				if !ok || r.Err() != nil {
					t.Fatalf("the watch ended: %v", r.Err())
				}
				for _, e := range r.Events {
					if e.Kv.ModRevision <= last {
						t.Fatalf("an event of revision %d came after one of %d", e.Kv.ModRevision, last)
					}
					last = e.Kv.ModRevision
					seen[fmt.Sprintf("%s=%s", e.Kv.Key, e.Kv.Value)] = last
				}
			}
			for key, rev := range acknowledged {
				if seen[key] != rev {
					t.Errorf("%s was acknowledged at revision %d, the watch says %d", key, rev, seen[key])
				}
			}
			t.Logf("%d writes were acknowledged, %d happened", len(acknowledged), len(seen)-1)
			if len(acknowledged) < 100 {
				t.Error("that is too few to say anything")
			}
		})
	}
}

// write updates a key of its own, as often as it can.
func write(ctx context.Context, c *clientv3.Client, writer int, acknowledge func(string, int64)) {
	key := fmt.Sprintf("/registry/%d", writer)
	var rev int64
	for n := 0; ctx.Err() == nil; n++ {
		value := fmt.Sprint(n)
		attempt, cancel := context.WithTimeout(ctx, 3*time.Second)
		next, ok, err := update(attempt, c, key, value, rev)
		cancel()
		switch {
		case err == nil && ok:
			acknowledge(key+"="+value, next)
			rev = next
		case err == nil:
			rev = next // An earlier attempt has happened without being acknowledged.
		default:
			time.Sleep(20 * time.Millisecond)
		}
	}
}

// TestCompactionHoldsUpNobody compacts 20,000 revisions while somebody writes.
func TestCompactionHoldsUpNobody(t *testing.T) {
	both(t, func(t *testing.T, endpoint string) {
		c := open(t, endpoint)
		ctx := within(t, 80*time.Second)
		db := connect(t, endpoint)
		const live = 20_000
		var first int64
		if err := db.QueryRowContext(ctx, `SELECT MAX(id) FROM kine`).Scan(&first); err != nil {
			t.Fatal(err)
		}
		for version := range 2 {
			for from := 0; from < live; from += 1000 {
				var rows []string
				for i := from; i < from+1000; i++ {
					row := fmt.Sprintf("('/registry/many/%05d', 1, 0, 0, 0, 0, '%400d', NULL)", i, i)
					if version == 1 {
						row = fmt.Sprintf("('/registry/many/%05d', 0, 0, %d, %d, 0, '%400d', NULL)", i, first+1+int64(i), first+1+int64(i), i)
					}
					rows = append(rows, row)
				}
				must(db.ExecContext(ctx, `INSERT INTO kine (name, created, deleted, create_revision, prev_revision, lease, value, old_value) VALUES `+strings.Join(rows, ",")))(t)
			}
		}
		rev := must(create(ctx, c, "/registry/writer", "0"))(t)
		target := rev
		done := make(chan error, 1)
		begin := time.Now()
		go func() {
			_, err := c.Compact(ctx, target)
			done <- err
		}()
		var took []time.Duration
		for compacting := true; compacting; {
			select {
			case err := <-done:
				if err != nil {
					t.Fatal(err)
				}
				compacting = false
			default:
			}
			began := time.Now()
			next, ok, err := update(ctx, c, "/registry/writer", "v", rev)
			if err != nil || !ok {
				t.Fatal(ok, err)
			}
			rev = next
			took = append(took, time.Since(began))
		}
		slices.Sort(took)
		t.Logf("%d revisions compacted in %v; %d writes meanwhile, median %v, longest %v",
			2*live, time.Since(begin).Round(time.Millisecond), len(took), took[len(took)/2], took[len(took)-1])
		if longest := took[len(took)-1]; longest > time.Second {
			t.Errorf("a write took %v", longest)
		}
		var rows int
		if err := db.QueryRowContext(ctx, `SELECT COUNT(*) FROM kine WHERE name LIKE '/registry/many/%'`).Scan(&rows); err != nil || rows != live {
			t.Errorf("%d rows are left (%v), want %d", rows, err, live)
		}
		if n := must(c.Get(ctx, "/registry/many/", clientv3.WithPrefix(), clientv3.WithCountOnly()))(t).Count; n != live {
			t.Errorf("%d keys are left, want %d", n, live)
		}
	})
}

// TestWithoutReturning uses MariaDB as if it were MySQL, which cannot return
// the row that an INSERT has written.
func TestWithoutReturning(t *testing.T) {
	endpoint := servers.MySQL(t)
	store.Start(t, t.TempDir(), endpoint).Stop(t) // Makes the table.
	config := must(mysql.ParseDSN(strings.TrimPrefix(endpoint, "mysql://")))(t)
	db := sql.OpenDB(must(mysql.NewConnector(config))(t))
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	b := shared.New(shared.Options{DB: db, Dialect: shared.MySQL(false), Logger: slog.New(slog.DiscardHandler), Working: &wg})
	defer func() { cancel(); wg.Wait(); _ = db.Close() }()
	if err := b.Start(ctx); err != nil {
		t.Fatal(err)
	}
	first := must(b.Create(ctx, "/key", []byte("1"), 0))(t)
	if _, err := b.Create(ctx, "/key", []byte("x"), 0); !errors.Is(err, server.ErrKeyExists) {
		t.Errorf("created twice: %v", err)
	}
	second, kv, ok, err := b.Update(ctx, "/key", []byte("2"), first, 0)
	if err != nil || !ok || kv.CreateRevision != first || kv.ModRevision != second {
		t.Errorf("update: %+v, %v, %v", kv, ok, err)
	}
	if _, kv, ok, err := b.Update(ctx, "/key", []byte("x"), first, 0); err != nil || ok || kv.ModRevision != second {
		t.Errorf("an update at an old revision: %+v, %v, %v", kv, ok, err)
	}
	gone, kv, ok, err := b.Delete(ctx, "/key", second)
	if err != nil || !ok || gone <= second || string(kv.Value) != "2" || kv.CreateRevision != first {
		t.Errorf("delete: %+v, %v, %v", kv, ok, err)
	}
	if again := must(b.Create(ctx, "/key", []byte("3"), 0))(t); again <= gone {
		t.Errorf("created again at revision %d, after %d", again, gone)
	}
}
