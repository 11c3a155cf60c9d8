package offline

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/pkg/agent/offline/wire"
)

// answer answers in the place of a server. again is true if there is one now.
func (c *Cache) answer(q *question, found <-chan struct{}) (resp *http.Response, again bool, err error) {
	switch {
	case q.isToken():
		resp, err = c.recallToken(q)
	case q.isReview():
		resp, err = c.recall(q)
	case q.isPodStatus():
		c.keepStatus(q)
		err = ErrOffline
	case q.canWait():
		select {
		case <-q.Context().Done():
			err = ErrOffline
		case <-found:
			again = true
		}
	case !q.kept || q.Method != http.MethodGet:
		err = ErrOffline
	case q.watch:
		resp, err = c.hold(q, found)
	case q.name != "":
		resp, err = c.get(q)
	default:
		resp, err = c.list(q)
	}
	if err != nil {
		return nil, false, fmt.Errorf("%s %s: %w", q.Method, q.URL.Path, err)
	}
	return resp, again, nil
}

// reply makes an answer.
func reply(q *question, contentType string, body io.ReadCloser, length int64) *http.Response {
	return &http.Response{
		Status: "200 OK", StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {contentType}}, Body: body, ContentLength: length, Request: q.Request,
	}
}

func replyWith(q *question, contentType string, body []byte) *http.Response {
	return reply(q, contentType, io.NopCloser(bytes.NewReader(body)), int64(len(body)))
}

// get answers with an object. That one is not known does not mean that there
// is none: there is no 404.
func (c *Cache) get(q *question) (*http.Response, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.state.object(q.table(), key(q.namespace, q.name))
	if o == nil || q.sub != "" {
		return nil, ErrOffline
	}
	body, err := c.body(o)
	if err != nil {
		return nil, err
	}
	apiVersion, kind, _ := q.types()
	return replyWith(q, wire.ContentType, wire.Wrap(apiVersion, kind, body)), nil
}

// members returns the bodies of a stream's objects, in order. The caller holds mu.
func (c *Cache) members(q *question) (*stream, [][]byte, error) {
	st := c.state.streams[q.stream()]
	if st == nil || !st.listed {
		return nil, nil, ErrOffline
	}
	var items [][]byte
	for _, k := range slices.Sorted(maps.Keys(st.members)) {
		o := c.state.object(st.table, k)
		if o == nil {
			continue
		}
		body, err := c.body(o)
		if err != nil {
			c.o.Logger.Warn("a record of this node cannot be read", "resource", st.table, "name", k, "error", err)
			continue
		}
		if q.stream() == c.ownPods() {
			body = startable(body)
		}
		items = append(items, body)
	}
	st.served = true
	return st, items, nil
}

func (c *Cache) list(q *question) (*http.Response, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	st, items, err := c.members(q)
	if err != nil {
		return nil, err
	}
	apiVersion, _, list := q.types()
	return replyWith(q, wire.ContentType, wire.WrapList(apiVersion, list, st.version, items)), nil
}

// hold answers a watch: with what is known, if that is asked for, and then with
// nothing until a server is found. Then the watch ends, and its client asks
// the server for what it has missed; or for everything, if what it has is from
// here.
func (c *Cache) hold(q *question, found <-chan struct{}) (*http.Response, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	st := c.state.streams[q.stream()]
	if st == nil || !st.listed {
		return nil, ErrOffline
	}
	var first []byte
	if q.initial {
		apiVersion, kind, _ := q.types()
		_, items, err := c.members(q)
		if err != nil {
			return nil, err
		}
		for _, i := range items {
			first = append(first, wire.WrapEvent("ADDED", wire.Wrap(apiVersion, kind, i))...)
		}
		first = append(first, wire.WrapEvent("BOOKMARK", wire.Wrap(apiVersion, kind, wire.Bookmark(st.version)))...)
	}
	h := &held{first: first, found: found, closed: make(chan struct{}), ctx: q.Context(), last: func() []byte {
		c.mu.Lock()
		defer c.mu.Unlock()
		if st.served {
			return expired()
		}
		return nil
	}}
	return reply(q, wire.ContentType+";stream=watch", h, -1), nil
}

// expired is the event after which a client lists anew.
func expired() []byte {
	status := metav1.Status{
		Status: metav1.StatusFailure, Reason: metav1.StatusReasonExpired, Code: http.StatusGone,
		Message: "a server is in reach again: list anew",
	}
	body, err := status.Marshal()
	if err != nil {
		return nil // It has not got anything that could not be encoded.
	}
	return wire.WrapEvent("ERROR", wire.Wrap("v1", "Status", body))
}

// held is the body of a watch without a server.
type held struct {
	first  []byte
	found  <-chan struct{}
	ctx    context.Context //nolint:containedctx // The request's, which ends the body.
	last   func() []byte   // called once, when a server is found
	once   sync.Once
	closed chan struct{}
}

// Read implements io.Reader.
func (h *held) Read(p []byte) (int, error) {
	if len(h.first) == 0 {
		if h.last == nil {
			return 0, io.EOF
		}
		select {
		case <-h.closed:
			return 0, io.EOF
		case <-h.ctx.Done():
			return 0, context.Cause(h.ctx)
		case <-h.found:
		}
		h.first, h.last = h.last(), nil
		if len(h.first) == 0 {
			return 0, io.EOF
		}
	}
	n := copy(p, h.first)
	h.first = h.first[n:]
	return n, nil
}

// Close implements io.Closer.
func (h *held) Close() error {
	h.once.Do(func() { close(h.closed) })
	return nil
}

// remember keeps the answer to a question that is asked by a body.
func (c *Cache) remember(q *question, resp *http.Response, body []byte) {
	table, k, ok := q.recollection()
	if !ok {
		return
	}
	content := append([]byte(strconv.Itoa(resp.StatusCode)+" "+resp.Header.Get("Content-Type")+"\n"), body...)
	c.mu.Lock()
	defer c.mu.Unlock()
	if o := c.state.object(table, k); o != nil {
		if old, err := c.body(o); err == nil && bytes.Equal(old, content) {
			return
		}
	}
	c.state.store(c.now(), table, k, 1, content, true, false)
	c.wake()
}

// recall gives an answer that was remembered.
func (c *Cache) recall(q *question) (*http.Response, error) {
	table, k, ok := q.recollection()
	if !ok {
		return nil, ErrOffline
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.state.object(table, k)
	if o == nil {
		return nil, ErrOffline
	}
	content, err := c.body(o)
	if err != nil {
		return nil, err
	}
	head, body, _ := bytes.Cut(content, []byte("\n"))
	code, contentType, _ := bytes.Cut(head, []byte(" "))
	resp := replyWith(q, string(contentType), body)
	if resp.StatusCode, err = strconv.Atoi(string(code)); err != nil {
		return nil, ErrOffline
	}
	resp.Status = string(code) + " " + http.StatusText(resp.StatusCode)
	return resp, nil
}
