package edge

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// staleError is a kept connection that was closed before a byte of the answer came.
type staleError struct{ err error }

func (e *staleError) Error() string { return e.err.Error() }
func (e *staleError) Unwrap() error { return e.err }

func newBytes(b []byte) *bytes.Reader { return bytes.NewReader(b) }

// trySocket is HTTP/1.1 on a connection of our own, all on this goroutine but a long body: net/http's Transport has two goroutines for each
// connection and hands every request over to them, which costs more than all the rest.
func (x *exchange) trySocket(e *endpoint, r *http.Request, fresh bool) (*http.Response, error) {
	u := e.kept(fresh, !idempotent(r) || !x.replayable(r))
	if u == nil {
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		if err := x.hold(cancel); err != nil {
			return nil, err
		}
		var err error
		if u, err = e.dial(ctx, x.route.conf.Timeouts.Connect); err != nil {
			return nil, err
		}
	}
	if err := x.holdConn(u); err != nil {
		_ = u.Close()
		return nil, err
	}
	sent, err := x.write(u, r)
	if err != nil {
		return nil, x.broken(u, sent, err)
	}
	resp, err := x.read(u, r)
	if err != nil {
		return nil, x.broken(u, sent, err)
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		resp.Body = &duplex{u}
		return resp, nil
	}
	body := new(answerBody)
	if x.p != nil {
		body = &x.p.back.outer
	}
	*body = answerBody{ReadCloser: resp.Body, u: u, x: x, keep: !resp.Close, ended: resp.Body == http.NoBody}
	if sent != nil {
		body.after = func() bool { return sent.finish(x, u) }
	}
	resp.Body = body
	return resp, nil
}

// broken closes a connection and says what went wrong with it.
func (x *exchange) broken(u *upstream, sent *sender, err error) error {
	_ = u.Close()
	if sent != nil {
		sent.finish(x, u)
		if sent.readErr != nil {
			return &bodyError{sent.readErr}
		}
	}
	var stale *staleError
	if u.reused || !errors.As(err, &stale) {
		return err
	}
	return stale.err
}

// bodyError is the client's fault: its body ended early or was too large.
type bodyError struct{ err error }

func (e *bodyError) Error() string { return "read the request's body: " + e.err.Error() }
func (e *bodyError) Unwrap() error { return e.err }

// duplex is an upgraded connection.
type duplex struct{ *upstream }

func (d *duplex) Read(p []byte) (int, error) { return d.r.Read(p) }

// write sends the request. A body that is not at hand is sent by a goroutine of its own, since the answer may begin before it ends.
func (x *exchange) write(u *upstream, r *http.Request) (*sender, error) {
	u.budget = maxHead
	chunked := r.Body != http.NoBody && x.kept == nil && r.ContentLength < 0
	if err := writeHead(u.w, r, chunked); err != nil {
		return nil, err
	}
	if x.kept != nil {
		_, _ = u.w.Write(x.kept)
	}
	if err := u.w.Flush(); err != nil {
		return nil, &staleError{err}
	}
	if r.Body == http.NoBody || x.kept != nil {
		return nil, nil
	}
	s := &sender{done: make(chan struct{})}
	x.s.wg.Go(func() { s.run(x, u, r, chunked) })
	return s, nil
}

// writeHead writes the head of a request whose headers are to be sent as they are.
func writeHead(w *bufio.Writer, r *http.Request, chunked bool) error {
	uri := r.RequestURI
	if uri == "" || uri[0] != '/' {
		uri = r.URL.RequestURI()
	}
	_, _ = w.WriteString(r.Method)
	_ = w.WriteByte(' ')
	_, _ = w.WriteString(uri)
	_, _ = w.WriteString(" HTTP/1.1\r\nHost: ")
	_, _ = w.WriteString(r.Host)
	_, _ = w.WriteString("\r\n")
	for name, values := range r.Header {
		if name == "Content-Length" || name == "Transfer-Encoding" || name == "Host" {
			continue
		}
		for _, v := range values {
			if !validValue(v) {
				w.Reset(nil)
				return fmt.Errorf("header %s: %w", name, errBadValue)
			}
			_, _ = w.WriteString(name)
			_, _ = w.WriteString(": ")
			_, _ = w.WriteString(v)
			_, _ = w.WriteString("\r\n")
		}
	}
	switch {
	case chunked:
		_, _ = w.WriteString("Transfer-Encoding: chunked\r\n")
	case r.ContentLength > 0 || r.ContentLength == 0 && (r.Method == http.MethodPost || r.Method == http.MethodPut || r.Method == http.MethodPatch):
		_, _ = w.WriteString("Content-Length: ")
		_, _ = w.WriteString(strconv.FormatInt(r.ContentLength, 10))
		_, _ = w.WriteString("\r\n")
	}
	_, err := w.WriteString("\r\n")
	return err
}

var errBadValue = errors.New("not allowed in a header")

func validValue(v string) bool {
	for i := range len(v) {
		if c := v[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// read is the answer, after any number of interim ones.
func (x *exchange) read(u *upstream, r *http.Request) (*http.Response, error) {
	if _, err := u.r.Peek(1); err != nil {
		return nil, &staleError{err}
	}
	if x.p != nil {
		if resp := parseAnswer(u.r, r, &x.p.back); resp != nil {
			x.simple = true
			u.unlimited()
			return resp, nil
		}
	}
	x.simple = false
	for range 10 {
		resp, err := http.ReadResponse(u.r, r)
		if err != nil {
			return nil, fmt.Errorf("read the answer: %w", err)
		}
		if resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols {
			u.unlimited()
			return resp, nil
		}
		x.interim(resp)
	}
	return nil, errors.New("read the answer: too many interim ones")
}

// sender sends a request's body.
type sender struct {
	done    chan struct{}
	readErr error // of the client's side; set before done is closed
	err     error // of the endpoint's side; likewise
}

func (s *sender) run(x *exchange, u *upstream, r *http.Request, chunked bool) {
	defer close(s.done)
	buf := getBuffer()
	defer putBuffer(buf)
	for {
		n, err := r.Body.Read(*buf)
		if n > 0 {
			if s.err = writeChunk(u.w, (*buf)[:n], chunked); s.err != nil {
				return
			}
			x.progress()
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			s.readErr = err
			// Nothing else tells the endpoint, or the reader of its answer, that there will be no more.
			_ = u.Close()
			return
		}
	}
	if chunked {
		_, _ = u.w.WriteString("0\r\n")
		for name, values := range r.Trailer {
			for _, v := range values {
				if validValue(v) && !strings.ContainsAny(name, "\r\n: ") {
					_, _ = u.w.WriteString(name + ": " + v + "\r\n")
				}
			}
		}
		_, _ = u.w.WriteString("\r\n")
	}
	s.err = u.w.Flush()
}

func writeChunk(w *bufio.Writer, p []byte, chunked bool) error {
	if chunked {
		_, _ = w.WriteString(strconv.FormatInt(int64(len(p)), 16))
		_, _ = w.WriteString("\r\n")
	}
	_, _ = w.Write(p)
	if chunked {
		_, _ = w.WriteString("\r\n")
	}
	return w.Flush()
}

// finish waits for the sender, and says whether all was sent. One that waits for the client's rest, though the answer is complete, is stopped.
func (s *sender) finish(x *exchange, u *upstream) bool {
	t := time.NewTimer(100 * time.Millisecond)
	defer t.Stop()
	select {
	case <-s.done:
	case <-t.C:
		_ = u.Close()
		x.unblock()
		<-s.done
		return false
	}
	return s.err == nil && s.readErr == nil
}
