// Package lb is how a node reaches its servers: a TCP proxy on the loopback
// address that everything on the node calls, in front of all servers that are
// known. It knows nothing of what is said over the connections, nor of
// Kubernetes but where the list of servers is to be had (watch.go). Start
// reading at Balancer; DESIGN.md says how servers are chosen and given up.
package lb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"skiff/internal/netx"
	"skiff/pkg/component"
	"skiff/pkg/status"
)

// Options is what New needs.
type Options struct {
	Port int // on 127.0.0.1; 0 takes any, for tests
	// Given is the server that the user names, as host:port, "" if none. It is
	// tried beside those that are learned: the way to it may be another than
	// the cluster knows.
	Given string
	// File keeps the list between starts.
	File string
	// Kubeconfig is of an identity that may watch the EndpointSlices of the API;
	// "" leaves the list to Learn.
	Kubeconfig string
	// Wrap is what that watch's requests go by; it may be nil.
	Wrap func(http.RoundTripper) http.RoundTripper
	// Returned is called when a server answers that did not before, or is
	// watched again: it may be another than it was. One that restarts in a
	// moment may be missed by nobody but its watcher. It may be nil, and must
	// not block.
	Returned func()
	Notes    status.Notes
	Logger   *slog.Logger
}

// Balancer is the component. Make it with New.
type Balancer struct {
	o       Options
	pool    *pool
	learned chan []string // what Learn was told last
	dialer  func(ctx context.Context, address string) (net.Conn, error)

	mu       sync.Mutex
	listener *net.TCPListener // guarded by mu
}

var (
	_ component.Component = (*Balancer)(nil)
	_ component.Readier   = (*Balancer)(nil)
)

// New returns a balancer that knows what it knew the last time. A list that
// cannot be read is none.
func New(o Options) *Balancer {
	b := &Balancer{o: o, learned: make(chan []string, 1), dialer: dialTCP}
	kept, err := load(o.File)
	if err != nil {
		o.Logger.Warn("the list of servers of the last time is not usable", "error", err)
	}
	b.pool = newPool(o.Given, kept)
	return b
}

// Name implements component.Component.
func (b *Balancer) Name() string { return "load-balancer" }

// Ready implements component.Readier: the port is served. Whether a server
// answers is no condition of a node's work; a note says it.
func (b *Balancer) Ready(context.Context) error {
	if b.Addr() == nil {
		return errors.New("the port is not served yet")
	}
	return nil
}

// Addr returns the address listened on, nil if Run does not.
func (b *Balancer) Addr() net.Addr {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.listener == nil {
		return nil
	}
	return b.listener.Addr()
}

// Learn replaces what is known of the cluster's servers, host:port each, as a
// joining node is told. What the API itself says comes first.
func (b *Balancer) Learn(servers []string) {
	for {
		select {
		case b.learned <- servers:
			return
		case <-b.learned: // of an earlier call
		}
	}
}

// Servers returns all that are known, in the order in which they would be
// tried, and a channel that is closed when there are others.
func (b *Balancer) Servers() ([]string, <-chan struct{}) { return b.pool.list(time.Now()) }

// Reachable reports whether the last attempt to reach a server, whichever, was
// a success, and returns a channel that is closed when that changes. Before the
// first attempt the answer is yes.
func (b *Balancer) Reachable() (bool, <-chan struct{}) { return b.pool.reachable() }

// Watched notes whether somebody else, the tunnel, finds out within seconds when
// a server is gone. Then none of the connections with it needs to ask.
func (b *Balancer) Watched(address string, by bool) {
	if b.pool.watch(address, by) && b.o.Returned != nil {
		b.o.Returned()
	}
}

// Run implements component.Component.
func (b *Balancer) Run(ctx context.Context) error {
	at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(b.o.Port)) //nolint:gosec // Ports are validated by pkg/config.
	l, err := netx.ListenTCP(at)
	if err != nil {
		return fmt.Errorf("listen for this node's requests to the servers: %w; choose another port by --lb-server-port", err)
	}
	b.mu.Lock()
	b.listener = l
	b.mu.Unlock()
	servers, _ := b.Servers()
	b.o.Logger.Info("load balancer listens", "address", l.Addr(), "servers", servers)

	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	all.Go(func() { b.follow(ctx) })
	stop := context.AfterFunc(ctx, func() { _ = l.Close() }) // Accept returns.
	defer stop()
	err = b.accept(ctx, l, &all)
	b.mu.Lock()
	b.listener = nil
	b.mu.Unlock()
	cancel()
	b.pool.closeAll()
	all.Wait()
	return err
}

// accept serves connections until ctx ends.
func (b *Balancer) accept(ctx context.Context, l *net.TCPListener, all *sync.WaitGroup) error {
	for {
		c, err := l.AcceptTCP()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = c.Close() // Nobody has been served by it.
			}
			return nil
		case err != nil:
			_ = l.Close() // The error is what matters.
			return fmt.Errorf("accept this node's requests to the servers: %w", err)
		}
		all.Go(func() { b.serve(ctx, c) })
	}
}

// serve connects one client with a server until one of them has had enough.
func (b *Balancer) serve(ctx context.Context, client *net.TCPConn) {
	defer func() { _ = client.Close() }() // A second Close is what fails.
	conn, s, err := b.dial(ctx)
	if err != nil {
		return // It has been noted; the client sees its connection closed.
	}
	defer func() { _ = conn.Close() }() // As above.
	p := b.pool.connected(s, conn, client)
	if p == nil {
		return
	}
	defer b.pool.closed(p)
	if why := p.run(); why != nil {
		b.failed(s, why)
	}
}

// DialContext connects with a server past the port, for parts of this process.
// The address is of no consequence.
func (b *Balancer) DialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	c, _, err := b.dial(ctx)
	return c, err
}
