// Package sqlite keeps the cluster's state in one SQLite database in write-
// ahead mode, every commit synced to disk. It builds on kine's SQL layer and
// keeps kine's table, so that databases of K3s open as they are, but opens and
// checks the file itself: kine would compact it at each start, sync less, and
// retry for five minutes on a file that is no database. Start reading at New,
// then open.go (the file) and dialect.go (what is told to kine).
package sqlite

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"

	"github.com/k3s-io/kine/pkg/drivers/generic"
	"github.com/k3s-io/kine/pkg/logstructured"
	"github.com/k3s-io/kine/pkg/logstructured/sqllog"
	"github.com/k3s-io/kine/pkg/server"

	"skiff/pkg/datastore/bridge"
)

// fileName is the database's name in Options.Dir; the same as in K3s.
const fileName = "state.db"

// Options is what New needs.
type Options struct {
	Dir    string // created with mode 0700 if missing
	File   string // the database, when it is not Dir/state.db
	Socket string // unix socket to serve on
	Logger *slog.Logger
}

// New returns a component that serves the database on o.Socket.
func New(o Options) *bridge.Bridge {
	f := file{path: o.File, logger: o.Logger}
	if f.path == "" {
		f.path = filepath.Join(o.Dir, fileName)
	}
	return &bridge.Bridge{Label: "datastore", Socket: o.Socket, Logger: o.Logger, Open: f.backend}
}

// backend opens the database and puts kine's log on it.
func (f file) backend(ctx context.Context, wg *sync.WaitGroup) (server.Backend, func(context.Context) error, error) {
	if err := f.prepare(ctx); err != nil {
		return nil, nil, err
	}
	pool := generic.ConnectionPoolConfig{MaxIdle: connections, MaxOpen: connections}
	g, err := generic.OpenDB(ctx, wg, "sqlite3", newConnector(f.dsn(dsnServe)), pool, "?", false, nil)
	if err != nil {
		return nil, nil, fmt.Errorf("open database %s: %w", f.path, err)
	}
	adapt(g)
	l := sqllog.New(g, bridge.CompactInterval, 0, bridge.CompactTimeout, bridge.CompactMinRetain, bridge.CompactBatchSize, bridge.PollBatchSize)
	stop := func(ctx context.Context) error { return f.checkpoint(ctx, g.DB) }
	return logstructured.New(&history{SQLLog: l, rows: g}), stop, nil
}
