package edge

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"runtime/debug"
	"sync/atomic"
	"time"
)

const (
	// readSize holds the head of a request served here; a longer one is net/http's.
	readSize = 8 << 10
	// coarse is how stale the deadline of an idle connection may be: to set it for each request costs more than to parse its head.
	coarse = 20 * time.Second
	// lastChance is for a request that is on its way when an idle connection is to be closed.
	lastChance = 200 * time.Millisecond
)

// plain serves a connection without TLS as long as its requests are of the simple kind that parseRequest accepts, all on one goroutine and with
// the same memory for each. It hands the connection over to net/http, with all that is not answered yet, as soon as one is not.
type plain struct {
	one      *socket
	c        net.Conn
	buf      []byte
	r, w     int // buf[r:w] was read and not used
	out      *bufio.Writer
	remote   string
	peer     netip.Addr
	peerText string
	deadline time.Time // of reads, as set; zero is none
	keep     bool      // the connection outlives the request
	answer   plainWriter
	at       atomic.Pointer[exchange] // what is going on; nil between requests

	// Used again for each request, unless somebody may hold on to them.
	req    *http.Request
	url    *url.URL
	header http.Header
	values []string
	// Likewise for the answer of the backend.
	back answerMemory
}

func newPlain(one *socket, c net.Conn) *plain {
	p := &plain{one: one, c: c, buf: make([]byte, readSize), out: bufio.NewWriterSize(c, 4096), remote: c.RemoteAddr().String(), back: answerMemory{header: http.Header{}}}
	p.peer = peerOf(p.remote)
	p.peerText = p.peer.String()
	p.fresh()
	return p
}

// fresh gives up memory that somebody may still read.
func (p *plain) fresh() {
	p.req, p.url, p.header, p.values = new(http.Request), new(url.URL), http.Header{}, make([]string, 0, 24)
}

// errNotSimple says that net/http shall go on.
var errNotSimple = errors.New("not a simple request")

// plain serves one connection.
func (one *socket) plain(c net.Conn) {
	p := newPlain(one, c)
	if !one.enter(p) {
		_ = c.Close()
		return
	}
	err := p.serve()
	one.leave(p)
	if !errors.Is(err, errNotSimple) {
		_ = c.Close()
		return
	}
	_ = c.SetReadDeadline(time.Time{})
	one.handed.give(&rewound{Conn: c, head: p.buf[p.r:p.w]})
}

// serve answers requests until the connection ends or is not simple.
func (p *plain) serve() error {
	for {
		head, err := p.readHead()
		if err != nil {
			return err
		}
		simple := requestHead{header: p.header, values: p.values[:0], url: p.url}
		clear(p.header)
		if !simple.parse(head) || simple.length > maxKept {
			return errNotSimple
		}
		p.values = simple.values
		p.r += len(head)
		kept, err := p.readBody(simple.length)
		if err != nil {
			return err
		}
		p.keep = !simple.close
		if err := p.exchange(&simple, kept); err != nil || !p.keep {
			return err
		}
	}
}

// exchange answers one request.
func (p *plain) exchange(h *requestHead, kept []byte) (err error) {
	t := p.one.table.Load()
	x := &exchange{s: p.one.s, t: t, start: time.Now(), one: p.one, peer: p.peer, peerText: p.peerText, scheme: "http", kept: kept, unblock: func() {}, p: p}
	r := p.req
	*r = http.Request{
		Method: h.method, URL: p.url, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: p.header, Body: http.NoBody, ContentLength: h.length,
		Host: h.host, RemoteAddr: p.remote, RequestURI: h.target, Close: h.close,
	}
	w := &p.answer
	w.reset(p, h.method == http.MethodHead)
	p.one.begin(p, x)
	defer func() {
		p.at.Store(nil)
		if x.retained {
			p.fresh()
		}
		if cause := recover(); cause != nil {
			err = errAborted
			if e, ok := cause.(error); !ok || !errors.Is(e, http.ErrAbortHandler) {
				p.one.s.o.Logger.Error("a request has failed in a way it must not", "cause", cause, "stack", string(debug.Stack()))
			}
		}
	}()
	p.one.handle(x, w, r)
	if errors.Is(x.stopped(), errClientGone) {
		return errAborted
	}
	return w.finish()
}

var errAborted = errors.New("the answer was cut short")

// readHead returns the next request's head, which stays in buf. It gives up on one that does not fit, or is HTTP/2.
func (p *plain) readHead() ([]byte, error) {
	seen, begun := 0, false
	for {
		if i := bytes.Index(p.buf[p.r+seen:p.w], endOfHead); i >= 0 {
			return p.buf[p.r : p.r+seen+i+len(endOfHead)], nil
		}
		seen = max(0, p.w-p.r-len(endOfHead)+1)
		if p.r > 0 {
			p.w = copy(p.buf, p.buf[p.r:p.w])
			p.r = 0
		}
		if p.w == len(p.buf) || bytes.HasPrefix(p.buf[:p.w], []byte("PRI ")) {
			return nil, errNotSimple
		}
		if p.w == 0 {
			p.waitNext()
		} else if !begun {
			// Once for the whole head, or one byte now and then would hold the connection for ever.
			begun = true
			p.setDeadline(headTimeout)
		}
		n, err := p.c.Read(p.buf[p.w:])
		if err != nil {
			return nil, err
		}
		p.w += n
	}
}

var endOfHead = []byte("\r\n\r\n")

// waitNext bounds the wait for the next request, and ends it when the socket closes.
func (p *plain) waitNext() {
	if now := time.Now(); p.deadline.Sub(now) < keepAlive-coarse || p.deadline.Sub(now) > keepAlive {
		p.setDeadline(keepAlive)
	}
	if p.one.closing.Load() {
		p.setDeadline(lastChance)
	}
}

func (p *plain) setDeadline(d time.Duration) {
	p.deadline = time.Now().Add(d)
	_ = p.c.SetReadDeadline(p.deadline)
}

// readBody reads a small body whole, so that it can be sent again.
func (p *plain) readBody(length int64) ([]byte, error) {
	if length <= 0 {
		return nil, nil
	}
	body := make([]byte, length)
	n := copy(body, p.buf[p.r:p.w])
	p.r += n
	if n < len(body) {
		p.setDeadline(headTimeout)
		if _, err := io.ReadFull(p.c, body[n:]); err != nil {
			return nil, err
		}
	}
	return body, nil
}

// enter counts a connection in; false is too late.
func (one *socket) enter(p *plain) bool {
	one.mu.Lock()
	defer one.mu.Unlock()
	if one.closed {
		return false
	}
	one.plains[p] = struct{}{}
	return true
}

func (one *socket) leave(p *plain) {
	one.mu.Lock()
	defer one.mu.Unlock()
	delete(one.plains, p)
}

// begin notes what a connection does, for sweep.
func (one *socket) begin(p *plain, x *exchange) {
	p.at.Store(x)
	if !one.watched.Load() && one.watched.CompareAndSwap(false, true) {
		time.AfterFunc(sweepPause, one.sweep)
	}
}

// sweepPause is how soon it is noticed that a client went away.
const sweepPause = time.Second

// sweep looks whether the clients of long requests are still there. net/http has a goroutine read for that during each request; here the kernel is
// asked once a second, and only while there are requests.
func (one *socket) sweep() {
	one.watched.Store(false)
	limit := time.Now().Add(-sweepPause / 2)
	busy := false
	one.mu.Lock()
	defer one.mu.Unlock()
	for p := range one.plains {
		x := p.at.Load()
		if x == nil {
			continue
		}
		busy = true
		if x.start.Before(limit) && connState(p.c) == connClosed {
			x.abort(errClientGone)
		}
	}
	if busy && one.watched.CompareAndSwap(false, true) {
		time.AfterFunc(sweepPause, one.sweep)
	}
}

// hurry lets connections between two requests end soon.
func (one *socket) hurry() {
	one.closing.Store(true)
	one.mu.Lock()
	defer one.mu.Unlock()
	for p := range one.plains {
		if p.at.Load() == nil {
			_ = p.c.SetReadDeadline(time.Now().Add(lastChance))
		}
	}
}

// cut breaks all connections.
func (one *socket) cut() {
	one.mu.Lock()
	defer one.mu.Unlock()
	for p := range one.plains {
		_ = p.c.Close()
		if x := p.at.Load(); x != nil {
			x.abort(os.ErrDeadlineExceeded)
		}
	}
	for c := range one.streams {
		_ = c.Close()
	}
}
