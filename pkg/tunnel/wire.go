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

// tune makes the kernel give up on a peer that does not acknowledge, and leaves
// the question whether an idle one is there to the pings: the kernel's own
// would double the traffic.
func tune(c net.Conn) error {
	if inner, ok := c.(interface{ NetConn() net.Conn }); ok {
		c = inner.NetConn()
	}
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return nil
	}
	if err := tcp.SetKeepAlive(false); err != nil {
		return fmt.Errorf("turn off TCP's keep-alive: %w", err)
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
