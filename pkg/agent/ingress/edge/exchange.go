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
	s      *Server
	t      *table
	l      *listener
	start  time.Time
	peer   netip.Addr // who is connected
	client netip.Addr // who asks: the peer, or whom a trusted peer names
	scheme string     // of the client
	route  *route
	match  *matcher
	status int
	// edits of the answer, in order.
	edits []*HeaderEdit
	cors  http.Header
	// kept is the whole body if it is small; it can be sent again.
	kept []byte
	// unblock makes a reader of the request's body return; set by who accepted the request.
	unblock func()
	// watch tells abort when the client goes away, until the function it returned is called; nil if something else does so.
	watch func() func()

	mu     sync.Mutex
	cause  error  // guarded by mu: why it was stopped
	cancel func() // guarded by mu: stops what is going on
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
}

// hold names what abort shall stop; the result says whether it was too late for that.
func (x *exchange) hold(cancel func()) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.cancel = cancel
	return x.cause
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
	x.cancel = nil
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
