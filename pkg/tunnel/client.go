package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync"

	"skiff/pkg/component"
	"skiff/pkg/status"
)

// Client keeps one connection to each server and connects the streams that
// come over them. Set its fields before Run.
type Client struct {
	// TLS is asked at each attempt: certificates are renewed meanwhile. The
	// server is verified by the name that was dialled unless it says otherwise.
	TLS func() (*tls.Config, error)
	// Path of the servers' handler; default Path.
	Path string
	// Allow says whether the servers may reach a target.
	Allow func(ctx context.Context, target netip.AddrPort) error
	// Notes takes a line for each server that cannot be reached; may be nil.
	Notes  status.Notes
	Logger *slog.Logger

	mu      sync.Mutex
	servers []string      // guarded by mu
	changed chan struct{} // closed at the next SetServers; guarded by mu
	up      []string      // guarded by mu: to whom there is a session
}

var _ component.Component = (*Client)(nil)

// Name implements component.Component.
func (*Client) Name() string { return "tunnel" }

// SetServers says whom to be connected to, as host:port, from now on. It may
// be called at any time.
func (c *Client) SetServers(servers []string) {
	list := slices.Clone(servers)
	slices.Sort(list)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.servers = slices.Compact(list)
	if c.changed != nil {
		close(c.changed)
		c.changed = nil
	}
}

// Connected returns the servers to which there is a session, sorted.
func (c *Client) Connected() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.up)
}

func (c *Client) wanted() ([]string, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changed == nil {
		c.changed = make(chan struct{})
	}
	return c.servers, c.changed
}

func (c *Client) setUp(server string, up bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i, found := slices.BinarySearch(c.up, server)
	switch {
	case up && !found:
		c.up = slices.Insert(c.up, i, server)
	case !up && found:
		c.up = slices.Delete(c.up, i, i+1)
	}
}

// Run implements component.Component.
func (c *Client) Run(ctx context.Context) error {
	if c.TLS == nil || c.Allow == nil {
		return errors.New("run tunnel: it lacks certificates or rules")
	}
	out := newExit(c.Allow, c.Logger)
	running := make(map[string]context.CancelCauseFunc)
	var links sync.WaitGroup
	defer links.Wait()
	for {
		servers, changed := c.wanted()
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
