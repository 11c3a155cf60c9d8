package offline

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"sync"
	"syscall"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"

	"skiff/internal/backoff"
	"skiff/internal/signal"
	"skiff/pkg/log"
)

// What a node waits for a server before it helps itself, and how often it
// looks for one after that.
const (
	patience    = 2 * time.Second
	lookAtFirst = 500 * time.Millisecond
	lookAtMost  = 5 * time.Second
	// lookPatience is for the link that has become slow.
	lookPatience = 10 * time.Second
)

// ErrOffline is what a request gets that cannot be answered without a server.
// To client-go it is a refused connection, which is tried again later.
var ErrOffline error = offlineError{}

type offlineError struct{}

// Error implements error. Who logs it says nothing new.
func (offlineError) Error() string {
	return log.Expected + ", and this node has not kept the answer"
}

func (offlineError) Unwrap() error { return syscall.ECONNREFUSED }

// errLost ends requests whose server is not in reach any more.
var errLost = errors.New("the connection to the server is lost")

// link knows whether a server is in reach.
//
//	unknown ──▶ online ◀──▶ offline
//	   └──────────────────────▲
//
// unknown lasts from the first request to the end of the first look. A failed
// request is the reason to look again while online; while offline it is looked
// every few seconds. A server counts when it says that it is ready: one that is
// just starting would be no help.
type link struct {
	// changed is called, without a lock, when a server is found or lost.
	changed func(online bool, why error)
	// still is called, without a lock, when another look has found none.
	still func(why error)

	mu      sync.Mutex
	known   bool
	online  bool
	look    chan struct{}   // closed when the next look has ended; guarded by mu
	session context.Context //nolint:containedctx // It is no call's: it ends when the server is lost; nil before.
	lose    context.CancelCauseFunc
	found   chan struct{} // closed when a server is found; nil while online
	target  *target       // whom to ask

	kick signal.Signal
}

// target is a way to a server.
type target struct {
	transport http.RoundTripper
	url       url.URL
}

func newLink(changed func(bool, error), still func(error)) *link {
	return &link{changed: changed, still: still, look: make(chan struct{}), found: make(chan struct{}), kick: signal.New()}
}

// aim tells the link by which way to look.
func (l *link) aim(next http.RoundTripper, to *url.URL) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.target == nil {
		l.target = &target{transport: next, url: url.URL{Scheme: to.Scheme, Host: to.Host, Path: "/readyz"}}
		l.wake()
	}
}

// wake has the link looked at. The caller holds mu.
func (l *link) wake() {
	l.kick.Send()
}

// wait returns whether a server is in reach, and if so until when; or else when
// one is again. It waits for the first look.
func (l *link) wait(ctx context.Context) (session context.Context, found <-chan struct{}, err error) {
	for {
		l.mu.Lock()
		known, session, found, look := l.known, l.session, l.found, l.look
		if !l.online {
			session = nil
		}
		l.mu.Unlock()
		if known {
			return session, found, nil
		}
		select {
		case <-ctx.Done():
			return nil, nil, context.Cause(ctx)
		case <-look:
		}
	}
}

// suspect has the link looked at, and returns a channel that is closed when that has
// been done.
func (l *link) suspect() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wake()
	return l.look
}

// offline reports whether it is known that no server is in reach.
func (l *link) offline() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.known && !l.online
}

// run looks until ctx ends.
func (l *link) run(ctx context.Context) {
	pauses := backoff.Sequence{Min: lookAtFirst, Max: lookAtMost}
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			l.set(false, context.Cause(ctx))
			return
		case <-l.kick:
		case <-timer.C:
		}
		limit := patience
		if l.offline() {
			limit = lookPatience
		}
		err := l.ask(ctx, limit)
		if ctx.Err() != nil {
			continue
		}
		l.set(err == nil, err)
		if err == nil {
			pauses.Reset()
			timer.Stop()
			continue
		}
		timer.Reset(pauses.Next())
	}
}

// ask asks a server whether it is ready.
func (l *link) ask(ctx context.Context, limit time.Duration) error {
	l.mu.Lock()
	t := l.target
	l.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.url.String(), nil)
	if err != nil {
		return err
	}
	resp, err := t.transport.RoundTrip(req)
	if err != nil {
		// A connection that is dead without knowing must not be asked again.
		utilnet.CloseIdleConnectionsFor(t.transport)
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	_, err = io.CopyN(io.Discard, resp.Body, 64<<10)
	if resp.StatusCode >= http.StatusInternalServerError {
		return errors.New("the server is not ready: " + resp.Status)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// set notes the result of a look.
func (l *link) set(online bool, why error) {
	l.mu.Lock()
	before, knew := l.online, l.known
	l.online, l.known = online, true
	close(l.look)
	l.look = make(chan struct{})
	if online && (!before || !knew) {
		l.session, l.lose = context.WithCancelCause(context.Background())
		close(l.found)
		l.found = nil
	}
	if !online && before {
		l.lose(errLost)
		l.found = make(chan struct{})
	}
	l.mu.Unlock()
	switch {
	case online != before || !knew:
		l.changed(online, why)
	case !online:
		l.still(why)
	}
}
