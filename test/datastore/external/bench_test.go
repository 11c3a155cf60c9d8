package external_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/k3s-io/kine/pkg/drivers"
	"github.com/k3s-io/kine/pkg/drivers/mysql"
	"github.com/k3s-io/kine/pkg/drivers/pgsql"
	kineserver "github.com/k3s-io/kine/pkg/server"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"skiff/test/datastore/servers"
	"skiff/test/datastore/store"
)

const benchKeys = 10_000

// fillDatabase writes keys with three versions each, past skiff.
func fillDatabase(b *testing.B, endpoint string) {
	db := connect(b, endpoint)
	value := strings.Repeat("x", 1500)
	var maxID int64
	if err := db.QueryRow(`SELECT MAX(id) FROM kine`).Scan(&maxID); err != nil {
		b.Fatal(err)
	}
	id := maxID + 1
	for version := range 3 {
		for first := 0; first < benchKeys; first += 500 {
			var rows []string
			for i := first; i < first+500; i++ {
				created, create, prev := 1, int64(0), int64(0)
				if version > 0 {
					created, create, prev = 0, maxID+1+int64(i), id-benchKeys
				}
				rows = append(rows, fmt.Sprintf("('/registry/bench/%05d', %d, 0, %d, %d, 0, '%s', NULL)", i, created, create, prev, value))
				id++
			}
			if _, err := db.Exec(`INSERT INTO kine (name, created, deleted, create_revision, prev_revision, lease, value, old_value) VALUES ` + strings.Join(rows, ",")); err != nil {
				b.Fatal(err)
			}
		}
	}
	if strings.HasPrefix(endpoint, "postgres") {
		_, _ = db.Exec(`ANALYZE kine`)
	} else {
		_, _ = db.Exec(`ANALYZE TABLE kine`)
	}
}

func BenchmarkStore(b *testing.B) {
	for name, start := range map[string]func(testing.TB) string{"postgres": servers.Postgres, "mysql": servers.MySQL} {
		b.Run(name, func(b *testing.B) {
			endpoint := start(b)
			c := store.Start(b, b.TempDir(), endpoint).Client(b)
			time.Sleep(time.Second)
			fillDatabase(b, endpoint)
			if _, err := c.Get(b.Context(), "/registry/bench/", clientv3.WithPrefix(), clientv3.WithCountOnly()); err != nil {
				b.Fatal(err)
			}
			get := func(key string, opts ...clientv3.OpOption) func(b *testing.B) {
				return func(b *testing.B) {
					for b.Loop() {
						if _, err := c.Get(b.Context(), key, opts...); err != nil {
							b.Fatal(err)
						}
					}
				}
			}
			b.Run("get", get("/registry/bench/00100"))
			b.Run("limit1", get("/registry/bench/", clientv3.WithPrefix(), clientv3.WithLimit(1)))
			b.Run("page500", get("/registry/bench/05000", clientv3.WithRange("/registry/bench0"), clientv3.WithLimit(500)))
			b.Run("list", get("/registry/bench/", clientv3.WithPrefix()))
			b.Run("count", get("/registry/bench/", clientv3.WithPrefix(), clientv3.WithCountOnly()))
			b.Run("create1", func(b *testing.B) { creates(b, 1, clientCreate(c)) })
			b.Run("create32", func(b *testing.B) { creates(b, 32, clientCreate(c)) })
		})
	}
}

// BenchmarkKine is the same on kine's own backend, without gRPC.
func BenchmarkKine(b *testing.B) {
	for name, start := range map[string]func(testing.TB) string{"postgres": servers.Postgres, "mysql": servers.MySQL} {
		b.Run(name, func(b *testing.B) {
			endpoint := start(b)
			ctx, cancel := context.WithCancel(b.Context())
			defer cancel()
			scheme, dsn, _ := strings.Cut(endpoint, "://")
			var wg sync.WaitGroup
			_, backend, err := map[string]drivers.Constructor{"postgres": pgsql.New, "mysql": mysql.New}[scheme](ctx, &wg, &drivers.Config{
				DataSourceName: dsn, CompactTimeout: 5 * time.Second, CompactMinRetain: 1000, CompactBatchSize: 1000, PollBatchSize: 500,
			})
			if err != nil {
				b.Fatal(err)
			}
			if err := backend.Start(ctx); err != nil {
				b.Fatal(err)
			}
			backend.Watch(ctx, "/", "0", 0)
			fillDatabase(b, endpoint)
			k := kineserver.New(backend, "unix", 0, "3.6.13")
			get := func(r *etcdserverpb.RangeRequest) func(b *testing.B) {
				return func(b *testing.B) {
					for b.Loop() {
						if _, err := k.Range(b.Context(), r); err != nil {
							b.Fatal(err)
						}
					}
				}
			}
			all, end := []byte("/registry/bench/"), []byte("/registry/bench0")
			b.Run("get", get(&etcdserverpb.RangeRequest{Key: []byte("/registry/bench/00100")}))
			b.Run("limit1", get(&etcdserverpb.RangeRequest{Key: all, RangeEnd: end, Limit: 1}))
			b.Run("page500", get(&etcdserverpb.RangeRequest{Key: []byte("/registry/bench/05000"), RangeEnd: end, Limit: 500}))
			b.Run("list", get(&etcdserverpb.RangeRequest{Key: all, RangeEnd: end}))
			b.Run("count", get(&etcdserverpb.RangeRequest{Key: all, RangeEnd: end, CountOnly: true}))
			create := func(ctx context.Context, key, value string) error {
				_, err := backend.Create(ctx, key, []byte(value), 0)
				return err
			}
			b.Run("create1", func(b *testing.B) { creates(b, 1, create) })
			b.Run("create32", func(b *testing.B) { creates(b, 32, create) })
		})
	}
}

func clientCreate(c *clientv3.Client) func(ctx context.Context, key, value string) error {
	return func(ctx context.Context, key, value string) error {
		_, err := create(ctx, c, key, value)
		return err
	}
}

var created atomic.Int64

func creates(b *testing.B, writers int, create func(ctx context.Context, key, value string) error) {
	value := strings.Repeat("v", 400)
	b.SetParallelism(max(1, writers/2)) // of two processors
	work := func(next func() bool) {
		for next() {
			if err := create(b.Context(), fmt.Sprintf("/registry/created/%d", created.Add(1)), value); err != nil {
				b.Error(err)
				return
			}
		}
	}
	if writers == 1 {
		work(b.Loop)
		return
	}
	b.RunParallel(func(pb *testing.PB) { work(pb.Next) })
}
