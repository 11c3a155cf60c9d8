package edge

import (
	"context"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"
)

// dialStream connects to an endpoint of a stream route.
func dialStream(t *table, r *streamRoute, client netip.Addr) (net.Conn, error) {
	s := r.shares.pick(rand.IntN)
	if s == nil || t.backends[s.backend] == nil {
		return nil, fmt.Errorf("route %s has no backend", r.name)
	}
	b := t.backends[s.backend]
	last := errNoEndpoint
	for try := range connectTries {
		e := b.choose("", client, try)
		if e == nil {
			return nil, errNoEndpoint
		}
		ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", e.addr)
		if err == nil && b.conf.TLS != nil {
			open := tls.Client(c, clientTLS(b.conf.TLS))
			if err = open.HandshakeContext(ctx); err != nil {
				_ = c.Close()
			}
			c = open
		}
		cancel()
		if err == nil {
			return c, nil
		}
		e.down.Store(time.Now().Add(downTime).UnixNano())
		last = err
	}
	return nil, last
}
