package edge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Server listens and forwards as the last Config says.
type Server struct {
	o  Options
	wg sync.WaitGroup // what requests have started

	mu       sync.Mutex
	closed   bool                // guarded by mu
	sockets  map[address]*socket // guarded by mu
	draining sync.WaitGroup      // sockets that answer their last requests
	backends map[string]*backend // guarded by mu
	limiters map[string]*limiter // guarded by mu
	names    map[string]address  // guarded by mu; of listeners
}

// New returns a Server that listens nowhere.
func New(o Options) *Server {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Listen == nil {
		o.Listen = (&net.ListenConfig{}).Listen
	}
	if o.Drain == 0 {
		o.Drain = 30 * time.Second
	}
	return &Server{o: o, sockets: make(map[address]*socket), backends: make(map[string]*backend), limiters: make(map[string]*limiter)}
}

// Run serves until ctx ends and requests have ended too, or Options.Drain has passed.
func (s *Server) Run(ctx context.Context) error {
	<-ctx.Done()
	s.mu.Lock()
	s.closed = true
	for at, one := range s.sockets {
		s.drain(one)
		delete(s.sockets, at)
	}
	backends := s.backends
	s.backends = nil
	s.mu.Unlock()
	s.draining.Wait()
	s.wg.Wait()
	for _, b := range backends {
		b.set(nil)
	}
	return nil
}

// drain lets a socket end. The caller holds mu.
func (s *Server) drain(one *socket) {
	s.draining.Go(func() { one.close(s.o.Drain) })
}

// Apply makes the Server do what c says. Sockets, and connections of what stays, are left alone. The error is made of ListenerErrors and RouteErrors;
// all but what they name is served.
func (s *Server) Apply(ctx context.Context, c Config) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	comp := &compiler{config: &c, backends: s.compileBackends(c.Backends), limiters: limiters{s.limiters, make(map[string]*limiter)}, tables: make(map[address]*table)}
	comp.run()
	s.limiters = comp.limiters.now
	names := make(map[string]address)
	for i := range c.Listeners {
		names[c.Listeners[i].Name] = addressOf(&c.Listeners[i])
	}
	s.names = names
	for at, one := range s.sockets {
		if t := comp.tables[at]; t == nil || isTLS(t.proto) != isTLS(one.proto) || (t.proto == TCP) != (one.proto == TCP) {
			s.drain(one)
			delete(s.sockets, at)
		}
	}
	for at, t := range comp.tables {
		if one := s.sockets[at]; one != nil {
			one.table.Store(t)
			continue
		}
		l, err := s.o.Listen(ctx, "tcp", net.JoinHostPort(at.host, fmt.Sprint(at.port)))
		if err != nil {
			for name, of := range names {
				if of == at {
					comp.errs = append(comp.errs, &ListenerError{Listener: name, Err: err})
				}
			}
			continue
		}
		s.sockets[at] = newSocket(s, l, t)
	}
	old := s.backends
	s.backends = comp.backends
	for key, b := range old {
		if s.backends[key] != b {
			b.set(nil)
		}
	}
	return errors.Join(comp.errs...)
}

// compileBackends keeps those that can go on. The caller holds mu.
func (s *Server) compileBackends(in map[string]Backend) map[string]*backend {
	out := make(map[string]*backend, len(in))
	for key, conf := range in {
		b := s.backends[key]
		if b == nil || !b.same(conf) {
			b = newBackend(conf)
		}
		b.set(conf.Endpoints)
		out[key] = b
	}
	return out
}

// SetEndpoints changes where a backend is; one that the last Config did not name is nobody's.
func (s *Server) SetEndpoints(key string, list []Endpoint) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.backends[key]; b != nil {
		b.set(list)
	}
}

// Addr is where the listener of that name is bound; the zero value if it is not.
func (s *Server) Addr(name string) netip.AddrPort {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, ok := s.names[name]
	if !ok || s.sockets[at] == nil {
		return netip.AddrPort{}
	}
	a, _ := s.sockets[at].l.Addr().(*net.TCPAddr)
	if a == nil {
		return netip.AddrPort{}
	}
	return a.AddrPort()
}
