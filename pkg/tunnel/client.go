package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"

	"skiff/pkg/component"
	"skiff/pkg/status"
)

// Client keeps one connection to each server and connects the streams that
// come over them. Set its fields before Run.
type Client struct {
	// Servers returns whom to be connected to, as host:port, and a channel that
	// is closed when there may be others. A server that is known by several
	// addresses gets one connection.
	Servers func() ([]string, <-chan struct{})
	// TLS is asked at each attempt: certificates are renewed meanwhile. The
	// server is verified by the name that was dialled unless it says otherwise.
	TLS func() (*tls.Config, error)
	// Path of the servers' handler; default Path.
	Path string
	// Allow says what to dial for a target, as a rule itself, or why servers
	// may not reach it.
	Allow func(ctx context.Context, target netip.AddrPort) (netip.AddrPort, error)
	// Watched is told, without delay, which servers there is a session with, by
	// whose pings it is known within seconds when they are gone, and when that
	// ends; it may be nil.
	Watched func(server string, by bool)
	// Notes takes a line for each server that cannot be reached; may be nil.
	Notes  status.Notes
	Logger *slog.Logger

	mu   sync.Mutex
	held map[string]held // by the server's identity; guarded by mu
	// here ends when there is a reason to try again, leave ends it; both nil
	// before they are needed, guarded by mu.
	here  context.Context //nolint:containedctx // It is not a caller's.
	leave context.CancelCauseFunc
}

// held is a server to which there is a session.
type held struct {
	server string
	wire   *wire
	freed  chan struct{} // closed when the session has ended
}

var _ component.Component = (*Client)(nil)

// Name implements component.Component.
func (*Client) Name() string { return "tunnel" }

// Connected returns the servers to which there is a session, sorted.
func (c *Client) Connected() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []string
	for _, h := range c.held {
		list = append(list, h.server)
	}
	slices.Sort(list)
	return list
}

// hold notes that there is a session with a server. If there is one already,
// under another address, it returns what is closed when that has ended.
func (c *Client) hold(id, server string, w *wire) (taken <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if h, ok := c.held[id]; ok {
		return h.freed
	}
	if c.held == nil {
		c.held = make(map[string]held)
	}
	c.held[id] = held{server, w, make(chan struct{})}
	return nil
}

// Moved ends the connections from addresses that this machine does not have any
// more: nobody would answer there. Servers are then tried at once.
func (c *Client) Moved(has func(netip.Addr) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, h := range c.held {
		if from, ok := h.wire.LocalAddr().(*net.TCPAddr); ok && !has(from.AddrPort().Addr().Unmap().WithZone("")) {
			h.wire.end(errMoved)
		}
	}
	c.again(errMoved)
}

// Renewed has servers tried at once that have refused the old certificate.
func (c *Client) Renewed() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.again(errRenewed)
}

// again wakes who waits to try again. The caller holds mu.
func (c *Client) again(why error) {
	if c.leave != nil {
		c.leave(why)
	}
	c.here, c.leave = nil, nil
}

// place returns what ends when there is a reason to try again.
func (c *Client) place() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.here == nil {
		c.here, c.leave = context.WithCancelCause(context.Background())
	}
	return c.here
}

func (c *Client) release(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.held[id].freed)
	delete(c.held, id)
}

// Run implements component.Component.
func (c *Client) Run(ctx context.Context) error {
	if c.Servers == nil || c.TLS == nil || c.Allow == nil {
		return errors.New("run tunnel: it lacks servers, certificates or rules")
	}
	out := newExit(c.Allow, c.Logger)
	running := make(map[string]context.CancelCauseFunc)
	var links sync.WaitGroup
	defer links.Wait()
	for {
		servers, changed := c.Servers()
		for server, stop := range running {
			if !slices.Contains(servers, server) {
				stop(errors.New("not one of the servers any more"))
				delete(running, server)
			}
		}
		for _, server := range servers {
			if running[server] != nil {
				continue
			}
			own, stop := context.WithCancelCause(ctx)
			running[server] = stop
			l := &link{Client: c, server: server, exit: out}
			links.Go(func() {
				defer stop(nil)
				l.run(own)
			})
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}
