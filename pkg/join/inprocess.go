package join

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
)

// InProcess returns a transport that calls h instead of a network. It is for
// the supervisor's short answers: the whole answer is collected before
// RoundTrip returns, so streams and upgrades do not work over it.
func InProcess(h http.Handler) http.RoundTripper { return inProcess{h} }

type inProcess struct{ handler http.Handler }

type inProcessKey struct{}

// isInProcess reports whether a request came through InProcess: no request
// from the network can carry this mark.
func isInProcess(ctx context.Context) bool { return ctx.Value(inProcessKey{}) != nil }

// RoundTrip implements http.RoundTripper.
func (t inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		defer func() { _ = r.Body.Close() }() // Closing is the transport's duty; a buffer has no error.
	}
	ctx := context.WithValue(r.Context(), inProcessKey{}, true)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	in := r.Clone(ctx)
	in.TLS, in.RemoteAddr, in.RequestURI = nil, "in-process", r.URL.RequestURI()
	if in.Body == nil {
		in.Body = http.NoBody
	}
	if in.Host == "" {
		in.Host = r.URL.Host
	}
	w := &collector{header: http.Header{}}
	t.handler.ServeHTTP(w, in)
	if w.status == 0 {
		w.status = http.StatusOK
	}
	if w.sent == nil {
		w.sent = w.header
	}
	return &http.Response{
		Status: http.StatusText(w.status), StatusCode: w.status,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: w.sent, Body: io.NopCloser(&w.body), ContentLength: int64(w.body.Len()), Request: r,
	}, nil
}

// collector is the ResponseWriter of one in-process request.
type collector struct {
	header, sent http.Header
	status       int
	body         bytes.Buffer
}

func (c *collector) Header() http.Header { return c.header }

func (c *collector) WriteHeader(status int) {
	if c.status == 0 {
		c.status, c.sent = status, c.header.Clone()
	}
}

var errTooLarge = errors.New("answer of the in-process server is too large")

func (c *collector) Write(p []byte) (int, error) {
	c.WriteHeader(http.StatusOK)
	if c.body.Len()+len(p) > maxResponse {
		return 0, errTooLarge
	}
	return c.body.Write(p)
}
