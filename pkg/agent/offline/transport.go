package offline

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"skiff/pkg/agent/offline/wire"
)

// slow is when an answer that does not begin is reason to look at the link.
const slow = 3 * time.Second

// Wrap makes a transport that passes requests on while a server is in reach,
// keeps of the answers what the node needs, and answers itself when there is
// none.
func (c *Cache) Wrap(next http.RoundTripper) http.RoundTripper {
	if c.o.Onward != nil {
		next = c.o.Onward(next)
	}
	return &transport{c, next}
}

type transport struct {
	cache *Cache
	next  http.RoundTripper
}

// WrappedRoundTripper lets client-go close idle connections.
func (t *transport) WrappedRoundTripper() http.RoundTripper { return t.next }

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	l := t.cache.link
	select {
	case <-req.Context().Done():
		return nil, context.Cause(req.Context())
	case <-t.cache.opened:
	}
	l.aim(t.next, req.URL)
	question, err := ask(req)
	if err != nil {
		return nil, err
	}
	for {
		session, found, err := l.wait(req.Context())
		if err != nil {
			return nil, err
		}
		if session == nil {
			resp, again, err := t.cache.answer(question, found)
			if again {
				continue
			}
			return resp, err
		}
		resp, err := t.pass(question, session)
		if err == nil || req.Context().Err() != nil {
			return resp, err
		}
		if !l.offline() {
			select {
			case <-req.Context().Done():
				return nil, err
			case <-l.suspect():
			}
		}
		if !l.offline() {
			return nil, err
		}
	}
}

// question is a request with what is known about it.
type question struct {
	*http.Request
	request

	kept bool   // the answer is one of those that are kept
	body []byte // for those whose answer depends on it
}

// ask looks at a request.
func ask(req *http.Request) (*question, error) {
	r, ok := parse(req)
	q := &question{Request: req, request: r}
	_, known := rules[r.resource]
	q.kept = ok && known
	reads := q.isToken() || q.isReview() || q.isPodStatus() || q.canWait()
	if !reads || req.Body == nil {
		return q, nil
	}
	var err error
	q.body, err = io.ReadAll(io.LimitReader(req.Body, wire.MaxObject))
	if err = errors.Join(err, req.Body.Close()); err != nil {
		return nil, fmt.Errorf("read a request: %w", err)
	}
	return q, nil
}

// outgoing is the request as a server is to get it.
func (q *question) outgoing(ctx context.Context) *http.Request {
	out := q.WithContext(ctx)
	if q.body != nil {
		out.Body = io.NopCloser(bytes.NewReader(q.body))
	}
	return out
}

func (q *question) isToken() bool {
	return q.Method == http.MethodPost && q.resource == "/api/v1/serviceaccounts" && q.sub == "token"
}

func (q *question) isReview() bool {
	return q.Method == http.MethodPost && strings.HasSuffix(q.resource, "/selfsubjectaccessreviews")
}

// canWait reports whether a request is held back until there is a server: those
// that are repeated until they succeed, and must succeed at once when they can.
// The kubelet even ends the process when it cannot write the CSINode for two
// minutes.
func (q *question) canWait() bool {
	switch q.resource {
	case "/apis/coordination.k8s.io/v1/leases":
		return true
	case "/apis/storage.k8s.io/v1/csinodes":
		return q.Method != http.MethodGet
	case nodes:
		return q.Method == http.MethodPost
	}
	return false
}

func (q *question) isPodStatus() bool {
	return q.Method == http.MethodPatch && q.resource == pods && q.sub == "status" && !q.meta
}

// pass hands a request on, and has its answer looked at as it comes.
func (t *transport) pass(q *question, session context.Context) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(q.Context())
	unbind := context.AfterFunc(session, func() { cancel(errLost) })
	done := func() {
		unbind()
		cancel(nil)
	}
	late := time.AfterFunc(slow, func() { t.cache.link.suspect() })
	resp, err := t.next.RoundTrip(q.outgoing(ctx))
	late.Stop()
	if err != nil {
		done()
		return nil, err
	}
	body := &body{ReadCloser: resp.Body, session: session, done: sync.OnceFunc(done)}
	if q.watch {
		body.ended = io.EOF // For client-go the server has ended the watch.
	}
	t.cache.fold(q, resp, body)
	resp.Body = body
	return resp, nil
}

// body is the body of an answer that somebody looks at as it is read.
type body struct {
	io.ReadCloser

	session context.Context //nolint:containedctx // Whose end is the body's.
	ended   error           // what reading says when the server is lost, nil for what has happened
	done    func()

	mu sync.Mutex // Reading and closing are different goroutines'.
	// see is given what is read, and finish called once with whether that was
	// all; both may be nil. Guarded by mu.
	see    func(p []byte)
	finish func(whole bool)
	// enough makes reading end before the next read, as if the server had ended
	// a watch. Guarded by mu.
	enough bool
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	enough := b.enough
	b.mu.Unlock()
	if enough {
		b.end(true)
		return 0, io.EOF
	}
	n, err := b.ReadCloser.Read(p)
	if n > 0 {
		b.mu.Lock()
		if b.see != nil {
			b.see(p[:n])
		}
		b.mu.Unlock()
	}
	if err != nil {
		b.end(errors.Is(err, io.EOF))
		if b.ended != nil && b.session.Err() != nil {
			err = b.ended
		}
	}
	return n, err
}

// Close implements io.Closer.
func (b *body) Close() error {
	err := b.ReadCloser.Close()
	b.end(false)
	b.done()
	return err
}

func (b *body) end(whole bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.finish != nil {
		b.finish(whole)
	}
	b.finish, b.see = nil, nil
}
