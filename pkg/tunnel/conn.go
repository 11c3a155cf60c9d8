package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// conn is a connection to a target behind a peer: one stream of a session. Its
// Close delivers what has been written, for as long as lingerTime. When the
// target ends its side, so does the connection: HTTP/2 as Go has it cannot
// answer "I have no more to say, go on".
type conn struct {
	peer, target string
	in, out      buffer
	read, write  deadline
	cancel       context.CancelCauseFunc // ends the stream at once
	writing      sync.Mutex              // one Write at a time
	close        sync.Once
	linger       *time.Timer // set by Close
}

var _ net.Conn = (*conn)(nil)

// body is what the stream takes its data from.
type body struct{ c *conn }

func (b body) Read(p []byte) (int, error) { return b.c.out.read(p, nil) }

// Close is called by the stream when nobody takes data any more.
func (b body) Close() error {
	b.c.out.leave(b.c.wrap("write", errPeerClosed))
	return nil
}

// receive takes data until the target or the stream ends. The session runs it.
func (c *conn) receive(resp *http.Response) {
	err := c.in.fill(resp.Body)
	switch why := resp.Trailer.Get(trailerError); {
	case err != nil:
		err = c.wrap("read", err)
	case why != "":
		err = c.wrap("read", errors.New(why))
	default:
		err = io.EOF
	}
	c.in.end(err)
	c.out.leave(c.wrap("write", errPeerClosed))
	c.cancel(nil)
	_ = resp.Body.Close() // The stream is over; what it says of that is known.
}

func (c *conn) wrap(op string, err error) error {
	return &net.OpError{Op: op, Net: "tunnel", Addr: c.RemoteAddr(), Err: err}
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.in.read(p, &c.read)
	return n, err //nolint:wrapcheck // io.EOF and os.ErrDeadlineExceeded are to be recognised.
}

// Write implements net.Conn.
func (c *conn) Write(p []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	return c.out.write(p, &c.write)
}

// CloseWrite tells the target that no more comes; reading goes on.
func (c *conn) CloseWrite() error {
	c.out.end(io.EOF)
	return nil
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.close.Do(func() {
		c.linger = time.AfterFunc(lingerTime, func() { c.cancel(net.ErrClosed) })
		c.out.end(io.EOF)
		c.in.leave(net.ErrClosed)
	})
	return nil
}

// Addr names an end of a tunnelled connection.
type Addr struct{ Peer, Host string }

// Network implements net.Addr.
func (Addr) Network() string { return "tunnel" }

// String implements net.Addr.
func (a Addr) String() string {
	if a.Peer == "" {
		return a.Host
	}
	return fmt.Sprintf("%s (through %s)", a.Host, a.Peer)
}

// LocalAddr implements net.Conn.
func (c *conn) LocalAddr() net.Addr { return Addr{Host: "server"} }

// RemoteAddr implements net.Conn.
func (c *conn) RemoteAddr() net.Addr { return Addr{Peer: c.peer, Host: c.target} }

// SetDeadline implements net.Conn.
func (c *conn) SetDeadline(t time.Time) error {
	c.read.set(t)
	c.write.set(t)
	return nil
}

// SetReadDeadline implements net.Conn.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.read.set(t)
	return nil
}

// SetWriteDeadline implements net.Conn.
func (c *conn) SetWriteDeadline(t time.Time) error {
	c.write.set(t)
	return nil
}
