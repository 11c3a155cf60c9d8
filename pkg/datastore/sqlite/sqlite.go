// Package sqlite keeps the cluster's state in one SQLite database: kine's
// table, written by one goroutine that commits and syncs many changes at once,
// with the keys in memory. It offers kine's server.Backend and knows nothing
// about Kubernetes but which keys are written again within seconds. Start
// reading at DESIGN.md, then store, writer.go and read.go.
package sqlite

import (
	"context"
	"log/slog"
	"path/filepath"
	"sync"

	"github.com/k3s-io/kine/pkg/server"
	"github.com/prometheus/client_golang/prometheus"

	"skiff/pkg/datastore/bridge"
	"skiff/pkg/status"
)

// fileName is the database's name in Options.Dir; the same as in K3s.
const fileName = "state.db"

// Options is what New needs.
type Options struct {
	Label      string     // component name
	Dir        string     // created with mode 0700 if missing
	File       string     // the database, when it is not Dir/state.db
	Socket     string     // unix socket to serve on
	Durability Durability // not ""
	// Bootstrap says that the owner calls Settle once a new cluster is
	// complete. Until then nothing waits for the disk: a cluster that a power
	// cut ends while it is being made has nothing to lose.
	Bootstrap bool
	// Disposable makes a damaged database give way to an empty one.
	Disposable bool
	// Snapshot writes the newest sound snapshot of the database to a path, and
	// says which one it is and how many revisions may have been given out
	// since. It may be nil.
	Snapshot func(ctx context.Context, to string) (name string, jump int64, err error)
	Notes    status.Notes // told what was done to a damaged database; may be nil
	BootID   string       // identity of the running boot; "" asks the kernel
	Logger   *slog.Logger
}

func (o Options) path() string {
	if o.File != "" {
		return o.File
	}
	return filepath.Join(o.Dir, fileName)
}

func (o Options) readers() int {
	if o.Disposable {
		return 1
	}
	return readers
}

// Component serves a database on a socket.
type Component struct {
	*bridge.Bridge

	metrics *metrics
}

// New returns a component that serves the database on o.Socket.
func New(o Options) *Component {
	c := &Component{metrics: newMetrics(o.Label)}
	c.Bridge = &bridge.Bridge{Label: o.Label, Socket: o.Socket, Logger: o.Logger, Open: c.opener(o)}
	return c
}

// Settle says that the first start of a cluster is complete. It returns when
// everything that was written is on the disk, and does nothing at later
// starts.
func (c *Component) Settle(ctx context.Context) error {
	s := c.metrics.store.Load()
	if s == nil {
		return errClosed
	}
	return s.settle(ctx)
}

// Metrics returns the figures of the store and of its watches.
func (c *Component) Metrics() []prometheus.Collector {
	return []prometheus.Collector{c.metrics, c.Bridge.Metrics()}
}

func (c *Component) opener(o Options) bridge.Opener {
	return func(ctx context.Context, _ *sync.WaitGroup) (server.Backend, func(context.Context) error, error) {
		s, err := open(ctx, o, c.metrics)
		if err != nil {
			return nil, nil, err
		}
		return s, func(ctx context.Context) error {
			c.metrics.store.Store(nil)
			return s.close(ctx)
		}, nil
	}
}
