// Package datastore gives the API server its storage: something that speaks
// etcd's gRPC protocol at a known address. Which database is behind it is
// chosen by one endpoint string. The package and its drivers know nothing
// about Kubernetes objects, and nobody outside may know about kine or SQLite.
// Start reading at Open; sqlite is the default driver.
package datastore

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"skiff/pkg/component"
	"skiff/pkg/datastore/external"
	"skiff/pkg/datastore/sqlite"
	"skiff/pkg/status"
)

// Datastore is a storage backend. Run serves it (or, for an etcd that runs
// elsewhere, only waits), Ready answers nil once reads succeed. Endpoint is
// valid before Run.
type Datastore interface {
	component.Component
	component.Readier
	Endpoint() Endpoint
	// Settle says that a new cluster is complete: what has been written is on
	// the disk when it returns, and every later write before it is
	// acknowledged. See Options.Bootstrap.
	Settle(ctx context.Context) error
	// Metrics are the figures of the store, valid before Run; none for etcd,
	// which has its own.
	Metrics() []prometheus.Collector
}

// Endpoint says how the API server reaches the store.
type Endpoint struct {
	// Servers are etcd client URLs: unix:///path, http://… or https://….
	Servers []string
	// TLS holds the client's files for https servers; empty otherwise.
	TLS TLS
	// Shared is true when other servers may be using the same store, so that
	// leases must decide who is alive.
	Shared bool
}

// TLS names the files that authenticate client and server to each other. The
// zero value means the host's trusted roots and no client certificate.
type TLS struct{ CAFile, CertFile, KeyFile string }

// Options is what Open needs.
type Options struct {
	Name string // of the component; "" is "datastore"
	// Endpoint selects the driver: "" or "sqlite" keep a SQLite database in
	// Dir, "sqlite:///path/state.db" keeps it in that file;
	// "postgres://user:password@host:port/db" and
	// "mysql://user:password@tcp(host:port)/db" use those servers;
	// "https://host:2379,https://…" is an etcd cluster.
	Endpoint string
	Dir      string // of the SQLite database; created with mode 0700
	Socket   string // unix socket for the drivers that speak etcd in this process
	TLS      TLS    // for external servers
	// Durability says when a write to the SQLite database is on the disk:
	// full (or "": before it is acknowledged), balanced (within 100 ms) or
	// relaxed (when the operating system thinks fit). Other databases have
	// settings of their own.
	Durability string
	// Bootstrap promises a call of Settle. Until then a new SQLite database is
	// written without waiting for the disk.
	Bootstrap bool
	// Disposable is for content that nobody would restore: little memory is
	// used for it, and a damaged SQLite database makes way for an empty one.
	Disposable bool
	// Snapshot writes the newest sound snapshot of the SQLite database to a
	// path, and says which one it is and how many revisions may have been given
	// out since; it is asked when the database is damaged. It may be nil.
	Snapshot func(ctx context.Context, to string) (name string, jump int64, err error)
	Notes    status.Notes // told what was done to a damaged database; may be nil
	// BootID identifies the running boot of the kernel, after whose end
	// unsynced writes are gone; "" asks the kernel.
	BootID string
	Logger *slog.Logger
}

// Open returns the datastore that o.Endpoint names. It only looks at the
// string: files and connections are opened by Run. The error names the flag,
// and never repeats a password.
func Open(o Options) (Datastore, error) {
	scheme, rest, ok := strings.Cut(o.Endpoint, "://")
	if !ok && o.Endpoint != "" && o.Endpoint != "sqlite" {
		return nil, fmt.Errorf("invalid --datastore-endpoint %q: want sqlite, or a URL such as postgres://user:password@host:5432/db or https://host:2379", o.Endpoint)
	}
	local := Endpoint{Servers: []string{"unix://" + o.Socket}}
	tls := external.TLS(o.TLS)
	switch scheme {
	case "", "sqlite":
		durability, err := sqlite.ParseDurability(o.Durability)
		if err != nil {
			return nil, err
		}
		return store{sqlite.New(sqlite.Options{
			Label: cmp.Or(o.Name, "datastore"), Disposable: o.Disposable, Dir: o.Dir, File: rest, Socket: o.Socket,
			Durability: durability, Bootstrap: o.Bootstrap, Snapshot: o.Snapshot, Notes: o.Notes, BootID: o.BootID, Logger: o.Logger,
		}), local}, nil
	case "postgres", "postgresql":
		local.Shared = true
		return store{external.NewPostgres(rest, tls, o.Socket, o.Logger), local}, nil
	case "mysql":
		local.Shared = true
		return store{external.NewMySQL(rest, tls, o.Socket, o.Logger), local}, nil
	case "http", "https":
		servers, err := etcdServers(o.Endpoint)
		if err != nil {
			return nil, err
		}
		return store{external.NewEtcd(servers), Endpoint{Servers: servers, TLS: o.TLS, Shared: true}}, nil
	}
	return nil, fmt.Errorf("invalid --datastore-endpoint: unknown scheme %q; known are sqlite, postgres, mysql, http and https", scheme)
}

// etcdServers splits and checks a comma-separated list of etcd client URLs.
func etcdServers(list string) ([]string, error) {
	var servers []string
	for s := range strings.SplitSeq(list, ",") {
		u, err := url.Parse(s)
		if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
			return nil, fmt.Errorf("invalid --datastore-endpoint: server %d of the etcd list is not an http or https URL", len(servers)+1)
		}
		servers = append(servers, s)
	}
	return servers, nil
}

// driver is what every driver implements.
type driver interface {
	component.Component
	component.Readier
}

// store is a driver and where it is reached.
type store struct {
	driver

	endpoint Endpoint
}

var _ Datastore = store{}

// settler is a driver that is told when a new cluster is complete.
type settler interface{ Settle(context.Context) error }

// Settle implements Datastore.
func (s store) Settle(ctx context.Context) error {
	if d, ok := s.driver.(settler); ok {
		return d.Settle(ctx)
	}
	return nil
}

// Metrics implements Datastore.
func (s store) Metrics() []prometheus.Collector {
	if d, ok := s.driver.(interface{ Metrics() []prometheus.Collector }); ok {
		return d.Metrics()
	}
	return nil
}

// Endpoint implements Datastore.
func (s store) Endpoint() Endpoint { return s.endpoint }
