package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// stage is a Server behind TLS. The last element of a path is the peer's name.
type stage struct {
	*Server
	t     testing.TB
	https *httptest.Server
	stop  func()
}

func newStage(t testing.TB, listen net.Listener) *stage {
	t.Helper()
	s := &stage{t: t, Server: &Server{
		Logger: slog.New(slog.DiscardHandler),
		Authorize: func(r *http.Request) (string, error) {
			name := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
			if name == "stranger" {
				return "", errors.New("nobody knows you")
			}
			return name, nil
		},
	}}
	s.https = httptest.NewUnstartedServer(s.Server)
	if listen != nil {
		_ = s.https.Listener.Close()
		s.https.Listener = listen
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	s.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		s.https.Close()
	})
	t.Cleanup(s.stop)
	s.eventually("a running server", func() bool { return s.Ready(ctx) == nil })
	s.https.StartTLS()
	return s
}

func (s *stage) address() string { return s.https.Listener.Addr().String() }

func (s *stage) eventually(what string, ok func() bool) {
	s.t.Helper()
	end := time.Now().Add(30 * time.Second)
	for !ok() {
		if time.Now().After(end) {
			s.t.Fatalf("no %s after 30 s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// client starts a Client that lets everything through to the loopback
// interface, but not to port 1.
func (s *stage) client(name string, also ...func(*Client)) (c *Client, stop func()) {
	s.t.Helper()
	servers := []string{s.address()}
	pool := s.https.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	c = &Client{
		Servers: func() ([]string, <-chan struct{}) { return servers, nil },
		TLS:     func() (*tls.Config, error) { return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}, nil },
		Path:    "/connect/" + name,
		Allow: func(_ context.Context, target netip.AddrPort) (netip.AddrPort, error) {
			if !target.Addr().IsLoopback() || target.Port() == 1 {
				return target, errors.New("not for you")
			}
			return target, nil
		},
		Logger: slog.New(slog.DiscardHandler),
	}
	for _, o := range also {
		o(c)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := c.Run(ctx); err != nil {
			s.t.Error(err)
		}
	})
	stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
	})
	s.t.Cleanup(stop)
	return c, stop
}

// at makes a client connect to these addresses.
func at(servers ...string) func(*Client) {
	return func(c *Client) { c.Servers = func() ([]string, <-chan struct{}) { return servers, nil } }
}

// moving is a list of servers that changes.
type moving struct {
	mu      sync.Mutex
	servers []string
	changed chan struct{}
}

func (m *moving) set(servers ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.servers = servers
	if m.changed != nil {
		close(m.changed)
	}
	m.changed = make(chan struct{})
}

func (m *moving) get() ([]string, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.servers, m.changed
}

// dial connects through the peer n1.
func (s *stage) dial(target string) net.Conn {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	c, err := s.DialContext(ctx, "n1", target)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = c.Close() })
	return c
}

// target listens for connections, of which serve gets each.
func target(t testing.TB, serve func(*net.TCPConn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer c.Close()
				serve(c.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		running.Wait()
	})
	return l.Addr().String()
}

func echo(c *net.TCPConn) { _, _ = io.Copy(c, c) }

// said sends a text and checks that it comes back.
func said(c net.Conn, text string) error {
	if _, err := io.WriteString(c, text); err != nil {
		return err
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if string(got) != text {
		return errors.New("another text came back: " + string(got))
	}
	return nil
}

// path is a way to a server that can be broken.
type path struct {
	net.Listener
	t     testing.TB
	mu    sync.Mutex
	conns map[net.Conn]bool // guarded by mu
}

// newPath relays to a server.
func newPath(t testing.TB, server string) *path {
	t.Helper()
	var plain net.ListenConfig
	plain.SetMultipathTCP(false) // It would take no filter, see deafen.
	l, err := plain.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &path{Listener: l, t: t, conns: map[net.Conn]bool{}}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", server)
			if err != nil {
				_ = in.Close()
				continue
			}
			p.add(in, out)
			running.Go(func() { p.relay(in, out) })
			running.Go(func() { p.relay(out, in) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		p.cut()
		running.Wait()
	})
	return p
}

func (p *path) add(conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		p.conns[c] = true
	}
}

func (p *path) relay(from, to net.Conn) {
	defer from.Close()
	defer to.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// swallow makes the path a hole, or sound again.
func (p *path) swallow(hole bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.deafen(p.Listener, hole)
	for c := range p.conns {
		p.deafen(c, hole)
	}
}

// forget does what a router does that has lost its state: connections that
// were are silent for ever, new ones pass.
func (p *path) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		p.deafen(c, true)
	}
}

// deafen has the kernel drop every packet that comes to a socket, so that the
// sender is not even told that it came; or not any more.
func (p *path) deafen(socket any, deaf bool) {
	raw, err := socket.(syscall.Conn).SyscallConn()
	if err != nil {
		p.t.Error(err)
		return
	}
	none := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}
	_ = raw.Control(func(fd uintptr) { // It fails for what is closed.
		if deaf {
			err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &none})
		} else if err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0); errors.Is(err, unix.ENOENT) {
			err = nil
		}
	})
	if err != nil {
		p.t.Errorf("make a path a hole: %v", err)
	}
}

// cut ends all connections at once.
func (p *path) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.(*net.TCPConn).SetLinger(0)
		_ = c.Close()
	}
	clear(p.conns)
}
