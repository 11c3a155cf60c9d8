package edge

import (
	"bufio"
	"context"
	"errors"
	"io"
	"math"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	connectTimeout   = 5 * time.Second
	handshakeTimeout = 10 * time.Second
	// idleUpstream is shorter than the keep-alive time of most servers, so that it is rarely they who close.
	idleUpstream = 30 * time.Second
	maxIdle      = 256
	// maxHead bounds the head of an answer.
	maxHead = 1 << 20
	// downTime is for how long an endpoint that took no connection is not asked while others are there.
	downTime = 2 * time.Second
)

// endpoint is an address with its idle connections.
type endpoint struct {
	at   netip.AddrPort
	addr string
	id   string
	down atomic.Int64 // until then (Unix nanoseconds) others are preferred

	mu      sync.Mutex
	idle    []*upstream // guarded by mu; the last one was used last
	retired bool        // guarded by mu
	reaper  *time.Timer // guarded by mu; runs while there is an idle connection
}

func newEndpoint(at netip.AddrPort) *endpoint {
	return &endpoint{at: at, addr: at.String(), id: endpointID(at)}
}

func (e *endpoint) up(now int64) bool { return e.down.Load() < now }

// upstream is one clear-text connection to an endpoint.
type upstream struct {
	net.Conn
	e      *endpoint
	r      *bufio.Reader
	w      *bufio.Writer
	since  time.Time // idle since
	budget int64     // bytes that may still be read
	reused bool
}

var errHeadTooLarge = errors.New("the head of the answer is too large")

func (u *upstream) Read(p []byte) (int, error) {
	if u.budget <= 0 {
		return 0, errHeadTooLarge
	}
	n, err := u.Conn.Read(p)
	u.budget -= int64(n)
	return n, err
}

func (u *upstream) unlimited() { u.budget = math.MaxInt64 }

// kept is an idle connection, nil if there is none or a fresh one is asked for. sure asks for one that is known to be open still.
func (e *endpoint) kept(fresh, sure bool) *upstream {
	for !fresh {
		u := e.pop()
		if u == nil {
			break
		}
		if !sure || u.open() {
			u.reused = true
			return u
		}
		_ = u.Close()
	}
	return nil
}

// dial is a new connection.
func (e *endpoint) dial(ctx context.Context, timeout time.Duration) (*upstream, error) {
	if timeout == 0 {
		timeout = connectTimeout
	}
	n, err := (&net.Dialer{Timeout: timeout}).DialContext(ctx, "tcp", e.addr)
	if err != nil {
		return nil, &dialError{err}
	}
	u := &upstream{Conn: n, e: e}
	u.r, u.w = bufio.NewReaderSize(u, 4096), bufio.NewWriterSize(n, 4096)
	return u, nil
}

func (e *endpoint) pop() *upstream {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := len(e.idle)
	if n == 0 {
		return nil
	}
	u := e.idle[n-1]
	e.idle[n-1] = nil
	e.idle = e.idle[:n-1]
	return u
}

// put keeps a connection for the next request.
func (e *endpoint) put(u *upstream) {
	u.since = time.Now()
	e.mu.Lock()
	if e.retired || len(e.idle) >= maxIdle {
		e.mu.Unlock()
		_ = u.Close()
		return
	}
	e.idle = append(e.idle, u)
	if e.reaper == nil {
		e.reaper = time.AfterFunc(idleUpstream, e.reap)
	}
	e.mu.Unlock()
}

// reap closes what was idle for too long, the least recently used first, and comes again while something is left.
func (e *endpoint) reap() {
	e.mu.Lock()
	defer e.mu.Unlock()
	limit := time.Now().Add(-idleUpstream)
	n := 0
	for n < len(e.idle) && !e.idle[n].since.After(limit) {
		_ = e.idle[n].Close()
		n++
	}
	e.idle = append(e.idle[:0:0], e.idle[n:]...)
	if len(e.idle) == 0 {
		e.reaper = nil
		return
	}
	e.reaper.Reset(e.idle[0].since.Sub(limit) + time.Millisecond)
}

// retire closes idle connections now and the others when their requests end.
func (e *endpoint) retire() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.retired = true
	for _, u := range e.idle {
		_ = u.Close()
	}
	e.idle = nil
	if e.reaper != nil {
		e.reaper.Stop()
		e.reaper = nil
	}
}

// open says whether an idle connection was not closed by the other side, as far as the kernel knows.
func (u *upstream) open() bool { return connState(u.Conn) == connQuiet }

// What connState sees.
const (
	connQuiet  = iota // open, nothing to read
	connData          // something to read
	connClosed        // the other side has closed it, or it is broken
)

// connState asks the kernel about a connection, without reading from it and without waiting. What the kernel does not know is quiet.
func connState(c net.Conn) (state int) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return connQuiet
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return connClosed
	}
	err = raw.Control(func(fd uintptr) {
		var b [1]byte
		n, _, e := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		switch {
		case e == nil && n > 0:
			state = connData
		case e == nil, !errors.Is(e, syscall.EAGAIN) && !errors.Is(e, syscall.EINTR):
			state = connClosed
		}
	})
	if err != nil {
		return connClosed
	}
	return state
}

// answerBody is the body of an answer that gives its connection back once it was read to the end, and closes it if it was not.
type answerBody struct {
	io.ReadCloser
	u     *upstream
	keep  bool
	ended bool
	x     *exchange
	after func() bool // says whether the request's body was sent whole; may be nil
}

func (b *answerBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		b.ended = true
	}
	return n, err
}

func (b *answerBody) Close() error {
	if b.u == nil {
		return nil
	}
	u := b.u
	b.u = nil
	sent := true
	if b.after != nil {
		sent = b.after()
	}
	b.x.release()
	// What is left in the buffer would be taken for the next answer.
	if b.keep && b.ended && sent && u.r.Buffered() == 0 {
		u.e.put(u)
		return nil
	}
	return u.Close()
}
