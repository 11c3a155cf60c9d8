package external

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
)

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
