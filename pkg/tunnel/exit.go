package tunnel

import (
	"context"
	"errors"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/net/http2"
)

// exit is the peer's end of all its sessions: it connects streams to what they
// ask for, if that is allowed. The peer is HTTP/2's server on a session.
type exit struct {
	allow   func(context.Context, netip.AddrPort) (netip.AddrPort, error)
	logger  *slog.Logger
	buffers sync.Pool
}

func newExit(allow func(context.Context, netip.AddrPort) (netip.AddrPort, error), logger *slog.Logger) *exit {
	return &exit{allow: allow, logger: logger, buffers: sync.Pool{New: func() any { return new([bufferSize]byte) }}}
}

// serve speaks HTTP/2 on a connection that has been upgraded, until it ends or
// ctx does, and returns why.
func (e *exit) serve(ctx context.Context, w *wire) error {
	defer context.AfterFunc(ctx, func() { w.end(errStopping) })()
	var streams sync.WaitGroup
	defer streams.Wait()
	server := &http2.Server{
		MaxConcurrentStreams: maxStreams, MaxReadFrameSize: frameSize,
		MaxUploadBufferPerStream: window, MaxUploadBufferPerConnection: sessionWindow,
		ReadIdleTimeout: pingEvery, PingTimeout: pingTimeout,
	}
	server.ServeConn(w, &http2.ServeConnOpts{
		Context: ctx,
		// What HTTP/2 complains of, the end of the session says better.
		BaseConfig: &http.Server{ErrorLog: log.New(io.Discard, "", 0), MaxHeaderBytes: maxHead, ReadHeaderTimeout: connectTimeout},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			streams.Add(1) // HTTP/2 does not wait for its handlers.
			defer streams.Done()
			e.stream(&streams, w, r)
		}),
	})
	w.end(errNoAnswer)
	return w.why()
}

// stream answers one request.
func (e *exit) stream(streams *sync.WaitGroup, w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodConnect {
		e.refuse(w, http.StatusMethodNotAllowed, "only CONNECT is understood")
		return
	}
	target, err := parseTarget(r.Host)
	if err != nil {
		e.refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	ctx, cancel := context.WithTimeoutCause(r.Context(), targetTimeout, errors.New("no answer within "+targetTimeout.String()))
	defer cancel()
	address, err := e.allow(ctx, target)
	if err != nil {
		e.logger.Warn("a server asked for what it may not have", "target", target.String(), "error", err)
		e.refuse(w, http.StatusForbidden, err.Error())
		return
	}
	dialer := net.Dialer{KeepAlive: -1} // Both ends are on this host.
	c, err := dialer.DialContext(ctx, "tcp", address.String())
	if err != nil {
		e.refuse(w, http.StatusBadGateway, err.Error())
		return
	}
	e.connect(streams, c, w, r)
}

func (e *exit) refuse(w http.ResponseWriter, status int, message string) {
	w.WriteHeader(status)
	_, _ = io.WriteString(w, message) // Who asked may have gone.
}

// connect copies both ways until the target or the stream ends. What the server
// sent before it closed the stream is still delivered.
func (e *exit) connect(streams *sync.WaitGroup, c net.Conn, w http.ResponseWriter, r *http.Request) {
	w.WriteHeader(http.StatusOK)
	flush := http.NewResponseController(w)
	if err := flush.Flush(); err != nil {
		_ = c.Close() // Nobody has seen it.
		return
	}
	sent := make(chan struct{})
	streams.Go(func() {
		defer close(sent)
		e.send(c, r.Body)
	})
	gone := context.AfterFunc(r.Context(), func() {
		now := time.Now()
		_ = c.SetReadDeadline(now)
		_ = c.SetWriteDeadline(now.Add(lingerTime)) // Both fail on a closed connection only.
	})
	defer gone()
	err := e.receive(c, w, flush)
	if r.Context().Err() != nil {
		<-sent
	} else if err != nil {
		w.Header().Set(http.TrailerPrefix+trailerError, printable(err.Error()))
	}
	_ = c.Close() // What there was to say has been said.
}

// send copies what the server sends to the target.
func (e *exit) send(c net.Conn, from io.Reader) {
	buf := e.buffer()
	defer e.buffers.Put(buf)
	// Without its ReadFrom: that would use a buffer of its own.
	if _, err := io.CopyBuffer(struct{ io.Writer }{c}, from, buf[:]); err != nil {
		// The stream was cut, or the target takes no more: either way the
		// target's side has nothing to wait for.
		_ = c.SetReadDeadline(time.Now())
		return
	}
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite() // It may have closed itself.
	}
}

// receive copies what the target says to the server. It returns nil at the
// target's end.
func (e *exit) receive(c net.Conn, w io.Writer, flush *http.ResponseController) error {
	buf := e.buffer()
	defer e.buffers.Put(buf)
	for {
		n, err := c.Read(buf[:])
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return err //nolint:wrapcheck // Nobody reads it: the stream is gone.
			}
			if err := flush.Flush(); err != nil {
				return err //nolint:wrapcheck // As above.
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err //nolint:wrapcheck // It says enough: "read tcp …: connection reset by peer".
		}
	}
}

func (e *exit) buffer() *[bufferSize]byte {
	b, ok := e.buffers.Get().(*[bufferSize]byte)
	if !ok {
		return new([bufferSize]byte)
	}
	return b
}
