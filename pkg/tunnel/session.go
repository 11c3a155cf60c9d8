package tunnel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2"
)

// session is one connection of a peer, at the server. The server is HTTP/2's
// client on it.
type session struct {
	peer    string
	remote  string
	since   time.Time
	wire    *wire
	h2      *http2.ClientConn
	streams sync.WaitGroup

	mu     sync.Mutex
	closed bool // no stream is added any more; guarded by mu
	open   int  // streams; guarded by mu
}

// newTransport returns HTTP/2's settings for all sessions.
func newTransport() (*http2.Transport, error) {
	t, err := http2.ConfigureTransports(&http.Transport{
		DisableCompression: true,
		HTTP2:              &http.HTTP2Config{MaxReceiveBufferPerStream: window},
	})
	if err != nil {
		return nil, fmt.Errorf("set up HTTP/2 for the tunnel: %w", err)
	}
	t.MaxReadFrameSize = frameSize
	t.ReadIdleTimeout = serverPingEvery
	t.PingTimeout = pingTimeout
	return t, nil
}

// open begins to speak HTTP/2 on a connection that has been upgraded.
func open(t *http2.Transport, peer string, c net.Conn) (*session, error) {
	s := &session{peer: peer, remote: c.RemoteAddr().String(), since: time.Now(), wire: newWire(c, c)}
	var err error
	if s.h2, err = t.NewClientConn(s.wire); err != nil {
		s.wire.end(err)
		return nil, fmt.Errorf("begin HTTP/2 with %s: %w", peer, err)
	}
	return s, nil
}

// close ends the session and waits until its streams have ended.
func (s *session) close(cause error) {
	s.wire.end(cause)
	_ = s.h2.Close() // It has no more to say than the wire.
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.streams.Wait()
}

// run runs f as one of the streams that close waits for.
func (s *session) run(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.streams.Go(f)
	return true
}

// stream is run for what takes a stream's data. As long as there is one, its
// user has to be told soon when the peer has gone.
func (s *session) stream(f func()) bool {
	return s.run(func() {
		s.count(1)
		defer s.count(-1)
		f()
	})
}

func (s *session) count(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.open
	s.open += n
	if (before == 0) == (s.open == 0) || s.closed {
		return
	}
	if err := watch(s.wire.Conn, s.open > 0); err != nil {
		s.wire.end(err)
	}
}

// probe ends the session, for that reason, unless the peer answers on it.
func (s *session) probe(ctx context.Context, cause error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	if err := s.h2.Ping(ctx); err != nil {
		s.wire.end(cause)
	}
}

// until waits for the session's end, and ends it when its time is over. The
// clock may be set meanwhile.
func (s *session) until(end time.Time) {
	if end.IsZero() {
		<-s.wire.done
		return
	}
	for {
		left := time.Until(end)
		if left <= 0 {
			s.wire.end(errExpired)
			return
		}
		t := time.NewTimer(min(left, lookAtClock))
		select {
		case <-s.wire.done:
			t.Stop()
			return
		case <-t.C:
		}
	}
}

// dial connects to a target. Errors that are not a *TargetError, nor ctx's, say
// that the session is of no use any more.
func (s *session) dial(ctx context.Context, target string) (net.Conn, error) {
	// The stream outlives ctx, which is the dialling's.
	stream, cancel := context.WithCancelCause(context.Background())
	c := &conn{peer: s.peer, target: target, cancel: cancel}
	stop := context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })
	late := time.AfterFunc(answerTimeout, func() { cancel(errNoAnswer) })
	doubt := time.AfterFunc(doubtAfter, func() { s.run(func() { s.probe(context.WithoutCancel(stream), errNoAnswer) }) })
	defer doubt.Stop()
	req := (&http.Request{
		Method: http.MethodConnect, URL: &url.URL{Scheme: "http", Host: target}, Host: target,
		Header: http.Header{}, Body: body{c},
	}).WithContext(stream)
	resp, err := s.h2.RoundTrip(req)
	if !stop() || !late.Stop() {
		<-stream.Done() // One of the two has cancelled, or is about to.
	}
	if cause := context.Cause(stream); cause != nil {
		err = errors.Join(err, closeBody(resp), cause)
	}
	if err == nil && resp.StatusCode == http.StatusOK && s.stream(func() { c.receive(resp) }) {
		return c, nil
	}
	defer cancel(nil)
	c.out.end(net.ErrClosed)
	if err == nil {
		return nil, s.refusal(resp, target)
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("dial %s through %s: %w", target, s.peer, context.Cause(ctx))
	}
	if _, ok := errors.AsType[http2.StreamError](err); ok {
		return nil, &TargetError{Peer: s.peer, Target: target, Message: err.Error()}
	}
	s.wire.end(err)
	return nil, fmt.Errorf("dial %s through %s: %w", target, s.peer, err)
}

func closeBody(resp *http.Response) error {
	if resp == nil {
		return nil
	}
	return resp.Body.Close()
}

// refusal reads why a target was not connected.
func (s *session) refusal(resp *http.Response, target string) error {
	defer func() { _ = resp.Body.Close() }() // The stream has ended.
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxMessage))
	if err != nil || len(text) == 0 {
		text = []byte(resp.Status)
	}
	return &TargetError{
		Peer: s.peer, Target: target, Refused: resp.StatusCode == http.StatusForbidden,
		Message: printable(string(bytes.TrimSpace(text))),
	}
}

// printable keeps what a peer says to one line of text, of maxMessage bytes at
// most.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s[:min(len(s), maxMessage)], "?"))
}
