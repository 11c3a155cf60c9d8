// Package external is for datastores that run elsewhere: Postgres and MySQL,
// and etcd itself. For the databases it connects, makes kine's table if there
// is none, and hands both to package shared; it must not know where skiff
// keeps its files. Start reading at NewPostgres, newSQL and NewEtcd.
package external

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/k3s-io/kine/pkg/drivers"
	"github.com/k3s-io/kine/pkg/server"
	kinetls "github.com/k3s-io/kine/pkg/tls"
	"golang.org/x/sys/unix"

	"skiff/pkg/datastore/bridge"
	"skiff/pkg/datastore/shared"
)

// TLS names the files for encrypted connections to the server.
type TLS struct{ CAFile, CertFile, KeyFile string }

const (
	// connections bounds the pool. Postgres allows 100 in all by default, and
	// there may be several servers.
	connections  = 20
	idleTime     = 5 * time.Minute
	lifetime     = time.Hour // A failover or a proxy may want them to move.
	dialTimeout  = 10 * time.Second
	retryPause   = 500 * time.Millisecond
	reminder     = 15 * time.Second
	silenceLimit = 15 * time.Second
)

// database is a brand of database server, as opened for one endpoint.
type database interface {
	// open returns a pool; it does not connect yet.
	open() (*sql.DB, error)
	// where names the server and database, without the password.
	where() string
	// explain says what is wrong and what to do, and whether waiting could
	// help.
	explain(err error) problem
	// create makes the database.
	create(ctx context.Context) error
	// schema is kine's code that makes the table.
	schema(ctx context.Context, wg *sync.WaitGroup, cfg *drivers.Config) error
	// options completes what package shared is told.
	options(ctx context.Context, db *sql.DB, fresh bool, o *shared.Options) error
}

// problem is a judgement on an error of opening a database.
type problem struct {
	advice  string // for a person; empty if the error says enough
	missing bool   // the server is there, the database is not
	fatal   bool   // it stays like this until somebody does something
}

// newSQL makes a component of a database. Every error is passed through
// redact, since drivers may quote what they were given.
func newSQL(db database, files TLS, dsn string, socket string, logger *slog.Logger, redact func(error) error) *bridge.Bridge {
	return &bridge.Bridge{
		Label:  "datastore",
		Socket: socket,
		Logger: logger,
		Open: func(ctx context.Context, wg *sync.WaitGroup) (server.Backend, func(context.Context) error, error) {
			o := opener{db: db, logger: logger}
			backend, err := o.run(ctx, wg, files, dsn)
			if err != nil {
				return nil, nil, redact(fmt.Errorf("open %s of --datastore-endpoint: %w", db.where(), err))
			}
			return backend, nil, nil
		},
	}
}

// opener opens one database.
type opener struct {
	db     database
	logger *slog.Logger
}

func (o opener) run(ctx context.Context, wg *sync.WaitGroup, files TLS, dsn string) (server.Backend, error) {
	pool, err := o.db.open()
	if err != nil {
		return nil, err
	}
	pool.SetMaxOpenConns(connections)
	pool.SetMaxIdleConns(connections)
	pool.SetConnMaxIdleTime(idleTime)
	pool.SetConnMaxLifetime(lifetime)
	wg.Go(func() {
		<-ctx.Done()
		_ = pool.Close() // Nothing is lost by it.
	})
	if err := o.connect(ctx, pool); err != nil {
		return nil, err
	}
	fresh, err := o.table(ctx, pool, files, dsn)
	if err != nil {
		return nil, err
	}
	options := shared.Options{DB: pool, Logger: o.logger, Working: wg}
	if err := o.db.options(ctx, pool, fresh, &options); err != nil {
		return nil, err
	}
	return shared.New(options), nil
}

// connect waits until the server answers, and makes the database if there is
// none of that name.
func (o opener) connect(ctx context.Context, pool *sql.DB) error {
	created := false
	var said time.Time
	for {
		attempt, cancel := context.WithTimeout(ctx, dialTimeout)
		err := pool.PingContext(attempt)
		cancel()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		p := o.db.explain(err)
		switch {
		case p.missing && !created:
			if err = o.db.create(ctx); err == nil {
				o.logger.Info("the database has been created", "database", o.db.where())
				created = true
				continue
			}
			if o.db.explain(err).fatal {
				return fmt.Errorf("there is no such database, and it cannot be created: have it created, or allow the user to: %w", err)
			}
		case p.fatal && p.advice != "":
			return fmt.Errorf("%s: %w", p.advice, err)
		case p.fatal:
			return err
		}
		if said.IsZero() || time.Since(said) > reminder {
			said = time.Now()
			o.logger.Info("waiting for the database server", "database", o.db.where(), "error", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(retryPause):
		}
	}
}

// table makes kine's table by kine's code. A user who may not is no obstacle
// if the table is there.
func (o opener) table(ctx context.Context, pool *sql.DB, files TLS, dsn string) (fresh bool, err error) {
	var one sql.NullInt64
	missing := pool.QueryRowContext(ctx, `SELECT MAX(id) FROM kine`).Scan(&one)

	making, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel() // Kine's own connections end with it.
	cfg := bridge.DriverConfig(dsn)
	cfg.BackendTLSConfig = kinetls.Config{CAFile: files.CAFile, CertFile: files.CertFile, KeyFile: files.KeyFile}
	err = o.db.schema(making, &wg, cfg)
	switch {
	case err == nil:
		return !one.Valid, nil
	case missing == nil:
		o.logger.Warn("the table kine could not be brought up to date, it is used as it is", "error", err)
		return false, nil
	}
	if advice := o.db.explain(err).advice; advice != "" {
		return false, fmt.Errorf("create the table kine: %s: %w", advice, err)
	}
	return false, fmt.Errorf("create the table kine: %w", err)
}

// dialer notices in time that the server's machine is gone, which says nothing
// any more.
func dialer() *net.Dialer {
	return &net.Dialer{
		Timeout:         dialTimeout,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 3 * time.Second, Count: 3},
		Control: func(network, _ string, c syscall.RawConn) error {
			if network == "unix" {
				return nil
			}
			var set error
			err := c.Control(func(fd uintptr) {
				set = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(silenceLimit.Milliseconds()))
			})
			return errors.Join(err, set)
		},
	}
}

// connectAdvice is for errors of the network, which are the same for all.
func connectAdvice(err error) problem {
	if e, ok := errors.AsType[*net.DNSError](err); ok {
		// A name may also be unknown because this machine's network is not up.
		return problem{advice: fmt.Sprintf("the host name %s is not known", e.Name), fatal: e.IsNotFound}
	}
	return problem{}
}

// scrub replaces a password in an error's text. The error stays what it was.
type scrub struct {
	error

	text string
}

// Error implements error.
func (s scrub) Error() string { return s.text }

// Unwrap gives access to the error as the driver made it.
func (s scrub) Unwrap() error { return s.error }
