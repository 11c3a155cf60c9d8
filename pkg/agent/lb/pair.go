package lb

import (
	"errors"
	"io"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// How long the other direction may go on when a client, or a server, has ended
// its own. What a server does not answer any more need not be said.
const (
	afterClient = 10 * time.Second
	afterServer = time.Second
)

// errSilent is a server that takes connections and does nothing else, as a port
// forwarding does whose other end is away.
var errSilent = errors.New("it closes connections without an answer")

// pair is a client's connection and the one with a server that goes with it.
type pair struct {
	server *server
	conn   net.Conn
	client *net.TCPConn
}

// end is how one direction ended.
type end struct {
	fromServer bool
	bytes      int64
	err        error
}

// run copies both ways until both have ended. It returns what the server has
// done wrong, if anything.
func (p *pair) run() error {
	ends := make(chan end, 2)
	copyTo := func(to, from net.Conn, fromServer bool) {
		n, err := io.Copy(to, from) // Of two TCP connections the kernel does it.
		ends <- end{fromServer, n, err}
		if c, ok := to.(interface{ CloseWrite() error }); ok && err == nil {
			err = c.CloseWrite()
		}
		if err != nil {
			p.close()
		}
	}
	go copyTo(p.client, p.conn, true)
	go copyTo(p.conn, p.client, false)
	first := <-ends
	patience := afterClient
	if first.fromServer {
		patience = afterServer
	}
	limit := time.AfterFunc(patience, p.close)
	defer limit.Stop()
	second := <-ends
	switch {
	case gone(first.err):
		return first.err
	case gone(second.err):
		return second.err
	case first.fromServer && first.bytes == 0 && first.err == nil && second.bytes > 0:
		return errSilent
	}
	return nil
}

// close ends both connections, and run.
func (p *pair) close() {
	_ = p.client.Close() // That they are closed already is the only error.
	_ = p.conn.Close()
}

// lookOut makes the connection find out soon when the server is gone.
func (p *pair) lookOut() { p.ask(lookoutIdle, lookoutEvery) }

// doubt makes the connection find out now whether the server is gone.
func (p *pair) doubt() { p.ask(doubtEvery, doubtEvery) }

// rest ends what lookOut began.
func (p *pair) rest() { p.ask(restingIdle, restingEvery) }

func (p *pair) ask(idle, every time.Duration) {
	if c, ok := p.conn.(*net.TCPConn); ok {
		_ = c.SetKeepAliveConfig(keepAlive(idle, every)) // It fails for connections that are closed.
	}
}

// sent is how many packets with data have been sent to the server.
func (p *pair) sent() uint32 {
	c, ok := p.conn.(*net.TCPConn)
	if !ok {
		return 0
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return 0
	}
	var count uint32
	err = raw.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			count = info.Data_segs_out
		}
	})
	if err != nil {
		return 0 // It is closed.
	}
	return count
}
