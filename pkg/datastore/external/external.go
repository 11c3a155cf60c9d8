// Package external is for datastores that run elsewhere: Postgres and MySQL
// through kine, and etcd itself. It must not know where skiff keeps its files.
// Start reading at NewPostgres and NewEtcd.
package external

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"sync"

	"github.com/k3s-io/kine/pkg/drivers"
	"github.com/k3s-io/kine/pkg/drivers/mysql"
	"github.com/k3s-io/kine/pkg/drivers/pgsql"
	"github.com/k3s-io/kine/pkg/server"
	"github.com/k3s-io/kine/pkg/tls"

	"skiff/pkg/datastore/bridge"
)

// TLS names the files for encrypted connections to the server.
type TLS struct{ CAFile, CertFile, KeyFile string }

// NewPostgres serves the Postgres database at dsn ("user:password@host/db",
// without scheme) on socket.
func NewPostgres(dsn string, files TLS, socket string, logger *slog.Logger) *bridge.Bridge {
	return newSQL("postgres", "postgres://"+dsn, pgsql.New, files, socket, logger)
}

// NewMySQL serves the MySQL or MariaDB database at dsn
// ("user:password@tcp(host:3306)/db", without scheme) on socket.
func NewMySQL(dsn string, files TLS, socket string, logger *slog.Logger) *bridge.Bridge {
	return newSQL("mysql", dsn, mysql.New, files, socket, logger)
}

func newSQL(name, dsn string, open drivers.Constructor, files TLS, socket string, logger *slog.Logger) *bridge.Bridge {
	return &bridge.Bridge{
		Label:  "datastore",
		Socket: socket,
		Logger: logger,
		Open: func(ctx context.Context, wg *sync.WaitGroup) (server.Backend, func(context.Context) error, error) {
			cfg := bridge.DriverConfig(dsn)
			cfg.Scheme = name
			cfg.BackendTLSConfig = tls.Config{CAFile: files.CAFile, CertFile: files.CertFile, KeyFile: files.KeyFile}
			_, backend, err := open(ctx, wg, cfg)
			if err != nil {
				return nil, nil, fmt.Errorf("open the %s database of --datastore-endpoint: %w", name, err)
			}
			return backend, nil, nil
		},
	}
}

// Etcd is an etcd cluster that somebody else runs.
type Etcd struct{ servers []string }

// NewEtcd returns the etcd cluster with these client URLs.
func NewEtcd(servers []string) *Etcd { return &Etcd{servers: servers} }

// Name implements component.Component.
func (e *Etcd) Name() string { return "datastore" }

// Run implements component.Component; there is nothing to run.
func (e *Etcd) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Ready implements component.Readier: one member has to accept connections.
// Whether it has quorum is then reported by the API server.
func (e *Etcd) Ready(ctx context.Context) error {
	var errs []error
	for _, s := range e.servers {
		u, err := url.Parse(s)
		if err != nil {
			return fmt.Errorf("parse etcd server: %w", err)
		}
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", u.Host)
		if err == nil {
			return conn.Close()
		}
		errs = append(errs, fmt.Errorf("connect to etcd: %w", err))
	}
	return errors.Join(errs...)
}
