// Package front is the one TLS port of a server: it answers the supervisor's
// paths from its own mux and hands everything else to the Kubernetes API,
// whose handler it is given when there is one. It knows nothing of what the
// handlers do. Start reading at Front, and at Route for what is done before they
// are called.
package front

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"skiff/internal/netx"
	"skiff/pkg/component"
)

// Options are the inputs of a Front.
type Options struct {
	// Address to listen on; an unspecified one means all.
	Address netip.Addr
	Port    int // 0 takes any, for tests
	// Certificate is asked at each handshake.
	Certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	Logger      *slog.Logger
}

// Front is the listener and what stands behind it. Handle before Run; SetAPI
// whenever.
type Front struct {
	opts Options
	mux  *http.ServeMux
	api  atomic.Pointer[http.Handler]

	// stopping ends when the front begins to stop: watches end with it.
	stopping context.Context //nolint:containedctx // A broadcast to running requests, not a caller's context.
	stop     context.CancelFunc

	mu        sync.Mutex
	listeners []net.Listener // guarded by mu
	serving   bool           // guarded by mu
}

var (
	_ component.Component = (*Front)(nil)
	_ component.Readier   = (*Front)(nil)
)

// New returns a front without routes: see Add.
func New(o Options) *Front {
	f := &Front{opts: o, mux: http.NewServeMux()}
	f.stopping, f.stop = context.WithCancel(context.Background())
	f.routes()
	return f
}

// Name implements component.Component.
func (f *Front) Name() string { return "front" }

// Ready implements component.Readier: it says whether the port is served, not
// whether the API behind it is.
func (f *Front) Ready(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.serving {
		return errors.New("the port is not served yet")
	}
	return nil
}

// Listen claims the port. It is apart from Run so that a port in use is the
// first error a person sees, before anything has been written. With an address
// other than all and loopback it listens on 127.0.0.1, too: the node's own
// components call there.
func (f *Front) Listen() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.listeners) > 0 {
		return nil
	}
	main := f.opts.Address
	if !main.IsValid() {
		main = netip.IPv6Unspecified()
		if !netIPv6() {
			main = netip.IPv4Unspecified()
		}
	}
	addrs := []netip.Addr{main}
	if loopback := netip.AddrFrom4([4]byte{127, 0, 0, 1}); !main.IsUnspecified() && main.Unmap() != loopback {
		addrs = append(addrs, loopback)
	}
	port := f.opts.Port
	for _, a := range addrs {
		l, err := netx.ListenTCP(netip.AddrPortFrom(a, uint16(port))) //nolint:gosec // Ports are validated by pkg/config.
		if err != nil {
			return errors.Join(explain(a, port, err), f.closeAll())
		}
		if port == 0 {
			port = l.Addr().(*net.TCPAddr).Port //nolint:forcetypeassert // A TCP listener has a TCP address.
		}
		f.listeners = append(f.listeners, l)
	}
	return nil
}

// netIPv6 reports whether the kernel does IPv6 at all.
func netIPv6() bool {
	l, err := netx.ListenTCP(netip.AddrPortFrom(netip.IPv6Loopback(), 0))
	if err != nil {
		return false
	}
	return l.Close() == nil
}

// explain adds the flags that lead out.
func explain(a netip.Addr, port int, err error) error {
	if _, ok := errors.AsType[*netx.PortInUseError](err); ok {
		return fmt.Errorf("claim the server's port: %w; stop it, or choose another port with --https-listen-port", err)
	}
	return fmt.Errorf("claim the server's port %d (--https-listen-port) on %s (--bind-address): %w; is %s an address of this machine?", port, a, err, a)
}

func (f *Front) closeAll() error {
	var errs []error
	for _, l := range f.listeners {
		if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	f.listeners = nil
	return errors.Join(errs...)
}

// Close gives the port back if Run is never going to be called.
func (f *Front) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.closeAll()
}

// Addr returns the address listened on, nil before Listen.
func (f *Front) Addr() net.Addr {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.listeners) == 0 {
		return nil
	}
	return f.listeners[0].Addr()
}

// Times of a stop: requests under way may end, then they are told to, then
// their connections are closed.
const (
	drainTime  = 2 * time.Second
	cancelTime = time.Second
)

// Run serves until ctx ends. It calls Listen if nobody has.
func (f *Front) Run(ctx context.Context) error {
	if err := f.Listen(); err != nil {
		return err
	}
	base, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	srv := f.server(base)
	f.mu.Lock()
	listeners := f.listeners
	f.serving = true
	f.mu.Unlock()
	f.opts.Logger.Info("listening", "address", listeners[0].Addr().String())

	failed := make(chan error, len(listeners))
	var serving sync.WaitGroup
	for _, l := range listeners {
		serving.Go(func() { failed <- srv.ServeTLS(l, "", "") })
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
		err = fmt.Errorf("serve %s: %w", listeners[0].Addr(), err)
	}
	f.mu.Lock()
	f.serving = false
	f.mu.Unlock()
	f.shutdown(srv, cancel)
	serving.Wait() // The rest fails with http.ErrServerClosed, as was asked for.
	return err
}

// shutdown ends watches at once, lets short requests finish, then cancels what
// is left (logs -f, exec) and at last closes the connections.
func (f *Front) shutdown(srv *http.Server, cancel context.CancelFunc) {
	f.stop()
	for _, step := range []struct {
		wait time.Duration
		then func()
	}{{drainTime, cancel}, {cancelTime, func() { _ = srv.Close() }}} { // Closing listeners twice is what Close complains about.
		ctx, done := context.WithTimeout(context.Background(), step.wait)
		err := srv.Shutdown(ctx)
		done()
		if err == nil {
			break
		}
		f.opts.Logger.Debug("requests are still open", "error", err)
		step.then()
	}
}
