package edge

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// headTimeout is how long a client may take for the head of a request, keepAlive how long between two.
	headTimeout = 30 * time.Second
	keepAlive   = 3 * time.Minute
)

// socket is one bound port.
type socket struct {
	s     *Server
	l     net.Listener
	proto Protocol
	table atomic.Pointer[table]
	web   *http.Server
	// handed are the connections that web shall serve.
	handed *handover
	wg     sync.WaitGroup

	mu      sync.Mutex
	streams map[net.Conn]struct{} // guarded by mu; connections that are not web's
	plains  map[*plain]struct{}   // guarded by mu; likewise
	closed  bool                  // guarded by mu

	closing atomic.Bool // no connection shall be kept for another request
	watched atomic.Bool // sweep will come
}

func newSocket(s *Server, l net.Listener, t *table) *socket {
	one := &socket{s: s, l: l, proto: t.proto, streams: make(map[net.Conn]struct{}), plains: make(map[*plain]struct{})}
	one.table.Store(t)
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(t.proto == HTTP)
	one.web = &http.Server{
		Handler: one, Protocols: protocols, ReadHeaderTimeout: headTimeout, IdleTimeout: keepAlive,
		ErrorLog: slog.NewLogLogger(s.o.Logger.Handler(), slog.LevelDebug),
		HTTP2:    &http.HTTP2Config{MaxConcurrentStreams: 250},
	}
	one.handed = &handover{addr: l.Addr(), conns: make(chan net.Conn), closed: make(chan struct{})}
	one.wg.Go(func() { _ = one.web.Serve(one.handed) })
	one.wg.Go(one.accept)
	return one
}

// close stops accepting and waits for what goes on, no longer than patience.
func (one *socket) close(patience time.Duration) {
	_ = one.l.Close()
	one.hurry()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if one.web.Shutdown(ctx) != nil {
		_ = one.web.Close()
	}
	one.mu.Lock()
	one.closed = true
	one.mu.Unlock()
	ended := make(chan struct{})
	go func() { one.wg.Wait(); close(ended) }()
	select {
	case <-ended:
		return
	case <-ctx.Done():
	}
	one.cut()
	<-ended
}

// accept takes connections.
func (one *socket) accept() {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		c, err := one.l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// Too many open files, for example: others must close some first.
			one.s.o.Logger.Warn("cannot accept a connection", "error", err)
			pause.Reset(50 * time.Millisecond)
			<-pause.C
			continue
		}
		one.wg.Go(func() { one.take(c) })
	}
}

// take decides what a connection is.
func (one *socket) take(c net.Conn) {
	t := one.table.Load()
	if t.proto == HTTP {
		one.plain(c)
		return
	}
	if t.proto == TCP {
		l, _ := t.listeners.first("")
		one.stream(c, t, l, "")
		return
	}
	if !t.peeks {
		one.handed.give(tls.Server(c, &tls.Config{GetConfigForClient: one.configFor}))
		return
	}
	_ = c.SetReadDeadline(time.Now().Add(handshakeTimeout))
	hello, name := peekHello(c)
	_ = c.SetReadDeadline(time.Time{})
	again := &rewound{Conn: c, head: hello}
	l, ok := t.listeners.first(canonicalHost(name))
	switch {
	case !ok:
		_ = c.Close()
	case l.proto == TLSPassthrough:
		one.stream(again, t, l, name)
	case l.proto == TLSTerminate:
		open := tls.Server(again, l.tls)
		ctx, cancel := context.WithTimeout(context.Background(), handshakeTimeout)
		err := open.HandshakeContext(ctx)
		cancel()
		if err != nil {
			_ = c.Close()
			return
		}
		one.stream(open, t, l, name)
	default:
		one.handed.give(tls.Server(again, &tls.Config{GetConfigForClient: one.configFor}))
	}
}

var errNoListener = errors.New("no listener for this server name")

// configFor is the TLS configuration of the listener of a server name.
func (one *socket) configFor(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	l, ok := one.table.Load().listeners.first(canonicalHost(hello.ServerName))
	if !ok || l.tls == nil {
		return nil, errNoListener
	}
	return l.tls, nil
}

// stream hands a connection on to a backend.
func (one *socket) stream(c net.Conn, t *table, l *listener, name string) {
	defer c.Close()
	if l == nil || !one.track(c) {
		return
	}
	defer one.untrack(c)
	route, ok := l.streams.first(canonicalHost(name))
	if !ok {
		return
	}
	to, err := dialStream(t, route, peerOf(c.RemoteAddr().String()))
	if err != nil {
		one.s.o.Logger.Debug("cannot hand a connection on", "route", route.name, "error", err)
		return
	}
	defer to.Close()
	pipe(c, to, func() {})
}

// track counts a stream in, until untrack; false is too late.
func (one *socket) track(c net.Conn) bool {
	one.mu.Lock()
	defer one.mu.Unlock()
	if one.closed {
		return false
	}
	one.streams[c] = struct{}{}
	one.wg.Add(1)
	return true
}

func (one *socket) untrack(c net.Conn) {
	one.mu.Lock()
	defer one.mu.Unlock()
	delete(one.streams, c)
	one.wg.Done()
}

// pipe copies both ways until both have ended or one has failed, and calls progress for what passes.
func pipe(a, b io.ReadWriteCloser, progress func()) {
	var wg sync.WaitGroup
	one := func(to, from io.ReadWriteCloser) {
		buf := getBuffer()
		defer putBuffer(buf)
		_, err := io.CopyBuffer(struct{ io.Writer }{to}, tell{from, progress}, *buf)
		half, ok := to.(interface{ CloseWrite() error })
		if err != nil || !ok || half.CloseWrite() != nil {
			_ = a.Close()
			_ = b.Close()
		}
	}
	wg.Go(func() { one(a, b) })
	one(b, a)
	wg.Wait()
}

// tell calls progress for each read.
type tell struct {
	io.Reader
	progress func()
}

func (t tell) Read(p []byte) (int, error) {
	n, err := t.Reader.Read(p)
	t.progress()
	return n, err
}

// handover is a listener of connections that somebody else has accepted.
type handover struct {
	addr   net.Addr
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (h *handover) give(c net.Conn) {
	select {
	case h.conns <- c:
	case <-h.closed:
		_ = c.Close()
	}
}

func (h *handover) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.closed:
		return nil, net.ErrClosed
	}
}

func (h *handover) Close() error   { h.once.Do(func() { close(h.closed) }); return nil }
func (h *handover) Addr() net.Addr { return h.addr }

// rewound is a connection of which some was read already.
type rewound struct {
	net.Conn
	head []byte
}

func (r *rewound) Read(p []byte) (int, error) {
	if len(r.head) > 0 {
		n := copy(p, r.head)
		r.head = r.head[n:]
		return n, nil
	}
	return r.Conn.Read(p)
}

// CloseWrite ends one direction.
func (r *rewound) CloseWrite() error {
	if half, ok := r.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return r.Conn.Close()
}

var errPeeked = errors.New("seen")

// peekHello reads a ClientHello: what was read, and the server name in it.
func peekHello(c net.Conn) (read []byte, name string) {
	var seen bytes.Buffer
	reader := &peekConn{Conn: c, r: io.TeeReader(c, &seen)}
	_ = tls.Server(reader, &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		name = h.ServerName
		return nil, errPeeked
	}}).HandshakeContext(context.Background())
	return seen.Bytes(), name
}

// peekConn writes nothing.
type peekConn struct {
	net.Conn
	r io.Reader
}

func (p *peekConn) Read(b []byte) (int, error)  { return p.r.Read(b) }
func (p *peekConn) Write(b []byte) (int, error) { return len(b), nil }
func (p *peekConn) Close() error                { return nil }
