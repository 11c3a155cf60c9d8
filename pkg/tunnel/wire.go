package tunnel

import (
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// wire is the connection below a session. It says when it was closed, by
// whomever, and hides that it is TLS from HTTP/2, which would look for "h2".
type wire struct {
	net.Conn

	reader io.Reader // what is buffered, then Conn

	once sync.Once
	done chan struct{} // closed by Close

	mu    sync.Mutex
	cause error // guarded by mu
}

func newWire(c net.Conn, r io.Reader) *wire {
	return &wire{Conn: c, reader: r, done: make(chan struct{})}
}

// Read implements net.Conn.
func (w *wire) Read(p []byte) (int, error) {
	n, err := w.reader.Read(p)
	if err != nil {
		w.because(err)
	}
	return n, err //nolint:wrapcheck // HTTP/2 looks for io.EOF.
}

// Write implements net.Conn.
func (w *wire) Write(p []byte) (int, error) {
	n, err := w.Conn.Write(p)
	if err != nil {
		w.because(err)
	}
	return n, err //nolint:wrapcheck // As Read.
}

// because keeps the first reason for an end.
func (w *wire) because(err error) {
	if err == io.EOF { //nolint:errorlint // Only the bare one means that the peer has gone in peace.
		err = errPeerClosed
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cause == nil {
		w.cause = err
	}
}

// why returns the reason after done.
func (w *wire) why() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cause
}

// Close implements net.Conn. HTTP/2 closes by itself when a ping is not answered.
func (w *wire) Close() error {
	err := error(nil)
	w.once.Do(func() {
		w.because(errNoAnswer)
		close(w.done)
		err = w.Conn.Close()
	})
	return err
}

// end closes the wire for a reason.
func (w *wire) end(cause error) {
	w.because(cause)
	_ = w.Close() // Nothing is to be delivered any more.
}

// watch has the kernel ask whether the other end is there while the connection
// is idle, or not. It costs 104 bytes each time; HTTP/2's ping is 234.
func watch(c net.Conn, on bool) error {
	tcp := tcpOf(c)
	if tcp == nil {
		return nil
	}
	// The count is of no consequence beside TCP_USER_TIMEOUT.
	if err := tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: on, Idle: keepIdle, Interval: keepEvery, Count: 3}); err != nil {
		return fmt.Errorf("set TCP's keep-alive: %w", err)
	}
	return nil
}

// tcpOf returns what is below TLS, nil if that is not TCP.
func tcpOf(c net.Conn) *net.TCPConn {
	if inner, ok := c.(interface{ NetConn() net.Conn }); ok {
		c = inner.NetConn()
	}
	tcp, _ := c.(*net.TCPConn)
	return tcp
}

// tune makes the kernel give up on a peer that does not acknowledge.
func tune(c net.Conn) error {
	tcp := tcpOf(c)
	if tcp == nil {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return fmt.Errorf("set TCP's patience: %w", err)
	}
	return setUserTimeout(raw)
}

func setUserTimeout(raw syscall.RawConn) (err error) {
	controlErr := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unackedTimeout/time.Millisecond)) //nolint:gosec // Descriptors are small.
	})
	if err == nil {
		err = controlErr
	}
	if err != nil {
		return fmt.Errorf("set TCP's patience: %w", err)
	}
	return nil
}
