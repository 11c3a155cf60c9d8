package external_test

import (
	"io"
	"net"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// proxy stands between skiff and its database, and breaks connections.
type proxy struct {
	listener net.Listener
	target   string
	left     atomic.Int64 // bytes that still pass from the server; negative: all
	cuts     atomic.Int64
	refuse   atomic.Bool
	running  sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

var address = regexp.MustCompile(`127\.0\.0\.1:\d+`)

// between returns a proxy and the endpoint that goes through it.
func between(t *testing.T, endpoint string) (*proxy, string) {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: l, target: address.FindString(endpoint), conns: map[net.Conn]struct{}{}}
	p.left.Store(-1)
	p.running.Go(p.accept)
	t.Cleanup(func() {
		_ = l.Close()
		p.cut()
		p.running.Wait()
	})
	return p, strings.Replace(endpoint, p.target, l.Addr().String(), 1)
}

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		if p.refuse.Load() {
			_ = client.Close()
			continue
		}
		server, err := net.Dial("tcp", p.target)
		if err != nil {
			_ = client.Close()
			continue
		}
		p.mu.Lock()
		p.conns[client], p.conns[server] = struct{}{}, struct{}{}
		p.mu.Unlock()
		p.running.Go(func() { _, _ = io.Copy(server, client); p.close(client, server) })
		p.running.Go(func() { p.answer(client, server); p.close(client, server) })
	}
}

// answer passes on what the server says, as long as it may.
func (p *proxy) answer(client, server net.Conn) {
	buffer := make([]byte, 4096)
	for {
		n, err := server.Read(buffer)
		if p.left.Load() >= 0 {
			if left := p.left.Add(-int64(n)); left < 0 {
				// All connections break, in the middle of what they say.
				_, _ = client.Write(buffer[:max(0, n+int(left))])
				p.left.Store(-1)
				p.cut()
				return
			}
		}
		if _, werr := client.Write(buffer[:n]); err != nil || werr != nil {
			return
		}
	}
}

func (p *proxy) close(conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
		delete(p.conns, c)
	}
}

// cut breaks all connections.
func (p *proxy) cut() {
	p.cuts.Add(1)
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // a reset, as of a machine that has gone
		}
		_ = c.Close()
	}
	clear(p.conns)
}
