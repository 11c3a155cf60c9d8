package edge

import (
	"errors"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// exchange is one request on its way: who asks, by which route, and how it is stopped.
type exchange struct {
	s     *Server
	t     *table
	l     *listener
	start time.Time
	peer  netip.Addr // who is connected
	// peerText is peer, written.
	peerText string
	client   netip.Addr // who asks: the peer, or whom a trusted peer names
	scheme   string     // of the client
	route    *route
	match    *matcher
	status   int
	// edits of the answer, in order.
	edits []*HeaderEdit
	cors  http.Header
	// kept is the whole body if it is small; it can be sent again.
	kept []byte
	one  *socket
	// w gets the answer; nil if nobody does.
	w http.ResponseWriter
	// idle runs out when the endpoint neither takes nor gives anything; nil without such a limit.
	idle *time.Timer
	// unblock makes a reader of the request's body return; set by who accepted the request.
	unblock func()
	// p is the plain connection it came by, if it is one: its memory may be used.
	p *plain
	// simple says that the answer was parsed here: nothing in its head is about the connection alone.
	simple bool
	// retained says that somebody may read the request even when it is over.
	retained bool

	mu     sync.Mutex
	cause  error     // guarded by mu: why it was stopped
	cancel func()    // guarded by mu: stops what is going on
	conn   *upstream // guarded by mu: likewise, to be closed
}

var (
	errClientGone = errors.New("the client went away")
	errTimeout    = errors.New("timeout")
)

// abort stops the exchange, from any goroutine.
func (x *exchange) abort(cause error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.cause == nil {
		x.cause = cause
	}
	if x.cancel != nil {
		x.cancel()
	}
	if x.conn != nil {
		_ = x.conn.Close()
	}
}

// watchIdle starts the limit between two reads from or writes to an endpoint. The function ends it.
func (x *exchange) watchIdle(d time.Duration) func() {
	if d <= 0 {
		return func() {}
	}
	x.idle = time.AfterFunc(d, func() { x.abort(errTimeout) })
	return func() { x.idle.Stop() }
}

// progress is called when the endpoint took or gave something.
func (x *exchange) progress() {
	if x.idle != nil {
		x.idle.Reset(x.route.conf.Timeouts.Idle)
	}
}

// hold names what abort shall stop; the result says whether it was too late for that.
func (x *exchange) hold(cancel func()) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.cancel, x.conn = cancel, nil
	return x.cause
}

// holdConn is hold for a connection: closing it is what makes reads and writes on it return.
func (x *exchange) holdConn(u *upstream) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.cancel, x.conn = nil, u
	return x.cause
}

// release is called when a connection may be given to another exchange: from then on this one must not close it.
func (x *exchange) release() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.conn = nil
}

func (x *exchange) stopped() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.cause
}

// again forgets a timeout of one try.
func (x *exchange) again() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.cancel, x.conn = nil, nil
	if errors.Is(x.cause, errTryTimeout) {
		x.cause = nil
	}
}

var errTryTimeout = errors.New("timeout of one try")

// after calls abort with cause in d; 0 is never. The function ends the wait.
func (x *exchange) after(d time.Duration, cause error) func() {
	if d <= 0 {
		return func() {}
	}
	t := time.AfterFunc(d, func() { x.abort(cause) })
	return func() { t.Stop() }
}
