package lb

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// notes collects what a person would be told.
type notes struct {
	mu   sync.Mutex
	text map[string]string
}

func (n *notes) Set(key, message string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.text == nil {
		n.text = map[string]string{}
	}
	n.text[key] = message
}

func (n *notes) Clear(key string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.text, key)
}

func (n *notes) get(key string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.text[key]
}

// echo is a server that says its name and then what it hears, until it hears
// the end.
type echo struct {
	name string
	l    net.Listener
	all  sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]bool
}

func newEcho(t *testing.T, name, address string) *echo {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	e := &echo{name: name, l: l, conns: map[net.Conn]bool{}}
	e.all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			e.mu.Lock()
			e.conns[c] = true
			e.mu.Unlock()
			e.all.Go(func() { e.serve(c) })
		}
	})
	t.Cleanup(e.stop)
	return e
}

func (e *echo) serve(c net.Conn) {
	defer func() {
		_ = c.Close()
		e.mu.Lock()
		delete(e.conns, c)
		e.mu.Unlock()
	}()
	if _, err := io.WriteString(c, e.name+"\n"); err == nil {
		_, _ = io.Copy(c, c)
	}
}

func (e *echo) address() string { return e.l.Addr().String() }

// stop ends the server and its connections, as a process that ends does.
func (e *echo) stop() {
	_ = e.l.Close()
	e.mu.Lock()
	for c := range e.conns {
		_ = c.Close()
	}
	e.mu.Unlock()
	e.all.Wait()
}

// balancer runs a Balancer in front of servers.
type balancer struct {
	*Balancer
	t     *testing.T
	notes *notes
}

func startBalancer(t *testing.T, given string, kept ...string) *balancer {
	t.Helper()
	file := filepath.Join(t.TempDir(), "etc", "servers.json")
	if err := save(file, kept); err != nil {
		t.Fatal(err)
	}
	b := &balancer{t: t, notes: &notes{}}
	b.Balancer = New(Options{Given: given, File: file, Notes: b.notes, Logger: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	eventually(t, "the port", func() bool { return b.Ready(ctx) == nil })
	return b
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited 10s for %s", what)
		}
		runtime.Gosched()
	}
}

// connect makes a connection and returns the name of the server at its end, ""
// if there is none.
func (b *balancer) connect() (net.Conn, string) {
	b.t.Helper()
	c, err := net.Dial("tcp", b.Addr().String())
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = c.Close() })
	line := make([]byte, 16)
	n, _ := c.Read(line)
	return c, strings.TrimSpace(string(line[:n]))
}

func TestProxy(t *testing.T) {
	s := newEcho(t, "a", "127.0.0.1:0")
	b := startBalancer(t, s.address())
	c, name := b.connect()
	if name != "a" {
		t.Fatalf("connected with %q", name)
	}
	text := strings.Repeat("ship ahoy ", 100_000)
	go func() {
		_, _ = io.WriteString(c, text)
		_ = c.(*net.TCPConn).CloseWrite()
	}()
	back, err := io.ReadAll(c) // ends because the server has heard the end
	if err != nil || string(back) != text {
		t.Errorf("%d bytes came back of %d: %v", len(back), len(text), err)
	}
}

// A server that ends takes its clients along to another, where they stay.
func TestFailover(t *testing.T) {
	first, second := newEcho(t, "first", "127.0.0.1:0"), newEcho(t, "second", "127.0.0.1:0")
	b := startBalancer(t, first.address(), second.address())
	c, name := b.connect()
	if name != "first" {
		t.Fatalf("connected with %q, want the first", name)
	}
	at := first.address()
	first.stop()
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the connection with a server that has ended goes on")
	}
	if _, name := b.connect(); name != "second" {
		t.Errorf("connected with %q, want the second", name)
	}
	newEcho(t, "first", at)
	if _, name := b.connect(); name != "second" {
		t.Errorf("connected with %q, want the last good one", name)
	}
}

// Nobody waits for servers when none has been seen; a person is told.
func TestNoServer(t *testing.T) {
	s := newEcho(t, "a", "127.0.0.1:0")
	at := s.address()
	s.stop()
	b := startBalancer(t, at)
	ok, turned := b.Reachable()
	if !ok {
		t.Error("not reachable before anybody has tried")
	}
	begin := time.Now()
	if _, name := b.connect(); name != "" || time.Since(begin) > 2*time.Second {
		t.Errorf("connected with %q after %s", name, time.Since(begin))
	}
	<-turned
	if ok, turned = b.Reachable(); ok {
		t.Error("still reachable")
	}
	if got := b.notes.get(note); !strings.Contains(got, at+": connect: connection refused") {
		t.Errorf("note: %q", got)
	}
	newEcho(t, "a", at)
	if _, name := b.connect(); name != "a" {
		t.Errorf("connected with %q", name)
	}
	<-turned
	if got := b.notes.get(note); got != "" {
		t.Errorf("note: %q", got)
	}
}

// While the server that was there a moment ago restarts, clients wait.
func TestRestart(t *testing.T) {
	s := newEcho(t, "a", "127.0.0.1:0")
	b := startBalancer(t, s.address())
	b.connect()
	at := s.address()
	s.stop()
	got := make(chan string)
	go func() {
		c, err := net.Dial("tcp", b.Addr().String())
		if err != nil {
			got <- err.Error()
			return
		}
		defer c.Close()
		line := make([]byte, 16)
		n, _ := c.Read(line)
		got <- string(line[:n])
	}()
	select {
	case name := <-got:
		t.Fatalf("the client got %q while the server was away", name)
	case <-time.After(500 * time.Millisecond):
	}
	newEcho(t, "b", at)
	if name := <-got; name != "b\n" {
		t.Errorf("connected with %q", name)
	}
}

// What is found dead by one connection is dead for all.
func TestDeadServer(t *testing.T) {
	dead, alive := newEcho(t, "dead", "127.0.0.1:0"), newEcho(t, "alive", "127.0.0.1:0")
	b := startBalancer(t, dead.address(), alive.address())
	var conns []net.Conn
	for range 5 {
		c, name := b.connect()
		if name != "dead" {
			t.Fatalf("connected with %q", name)
		}
		conns = append(conns, c)
	}
	b.failed(b.pool.order(time.Now())[0], &net.OpError{Op: "read", Err: os.NewSyscallError("read", unix.ETIMEDOUT)})
	for _, c := range conns {
		if _, err := io.Copy(io.Discard, c); err != nil && !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("read: %v", err)
		}
	}
	if _, name := b.connect(); name != "alive" {
		t.Errorf("connected with %q", name)
	}
}

// A server that hangs up without a word is not asked first again.
func TestSilentServer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 16))
			_ = c.Close()
		}
	}()
	good := newEcho(t, "good", "127.0.0.1:0")
	b := startBalancer(t, l.Addr().String(), good.address())
	c, err := net.Dial("tcp", b.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "hello"); err != nil {
		t.Fatal(err)
	}
	if rest, _ := io.ReadAll(c); len(rest) > 0 {
		t.Errorf("got %q", rest)
	}
	eventually(t, "another order", func() bool { servers, _ := b.Servers(); return servers[0] == good.address() })
	if _, name := b.connect(); name != "good" {
		t.Errorf("connected with %q", name)
	}
}

// What Learn is told is kept, and written only when it is new.
func TestLearn(t *testing.T) {
	s := newEcho(t, "a", "127.0.0.1:0")
	b := startBalancer(t, "", "192.0.2.1:6443")
	_, changed := b.Servers()
	b.Learn([]string{s.address(), "no address", "192.0.2.2:0", s.address()})
	<-changed
	if got, _ := b.Servers(); !cmp.Equal(got, []string{s.address()}) {
		t.Errorf("servers: %q", got)
	}
	if _, name := b.connect(); name != "a" {
		t.Errorf("connected with %q", name)
	}
	eventually(t, "the file", func() bool {
		kept, err := load(b.o.File)
		return err == nil && cmp.Equal(kept, []string{s.address()})
	})
	before, err := os.Stat(b.o.File)
	if err != nil {
		t.Fatal(err)
	}
	b.know([]string{s.address()})
	after, err := os.Stat(b.o.File)
	if err != nil || !os.SameFile(before, after) || !before.ModTime().Equal(after.ModTime()) {
		t.Error("the same list was written again")
	}
}

// The connection that has most to say is the one that looks out.
func TestLookout(t *testing.T) {
	s := newEcho(t, "a", "127.0.0.1:0")
	b := startBalancer(t, s.address())
	lookout := func() string {
		b.pool.mu.Lock()
		defer b.pool.mu.Unlock()
		if one := b.pool.servers[0].lookout; one != nil {
			return one.client.RemoteAddr().String()
		}
		return ""
	}
	first, _ := b.connect()
	busy, _ := b.connect()
	if got := lookout(); got != first.LocalAddr().String() {
		t.Errorf("%s looks out, want the first connection %s", got, first.LocalAddr())
	}
	for range 5 {
		if _, err := busy.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := busy.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	b.pool.reappoint()
	if got := lookout(); got != busy.LocalAddr().String() {
		t.Errorf("%s looks out, want the busy connection %s", got, busy.LocalAddr())
	}
	asksAfter := func() (idle int) {
		b.pool.mu.Lock()
		defer b.pool.mu.Unlock()
		raw, err := b.pool.servers[0].lookout.conn.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		if failed := raw.Control(func(fd uintptr) { idle, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPIDLE) }); failed != nil || err != nil {
			t.Fatal(failed, err)
		}
		return idle
	}
	seconds := func(d time.Duration) int { return int(d / time.Second) }
	var got []int
	for _, step := range []func(){
		func() {}, func() { b.Watched(s.address(), true) }, b.pool.reappoint, func() { b.Watched(s.address(), false) }, b.pool.reappoint,
		func() { b.Watched("192.0.2.1:1", true) },
	} {
		step()
		got = append(got, asksAfter())
	}
	want := []int{seconds(lookoutIdle), seconds(restingIdle), seconds(restingIdle), seconds(doubtEvery), seconds(lookoutIdle), seconds(lookoutIdle)}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the lookout asks after so many seconds (-want +got):\n%s", diff)
	}
	_ = busy.Close()
	eventually(t, "another lookout", func() bool { return lookout() == first.LocalAddr().String() })
}

// Two hundred rounds of everything leave nothing behind.
func TestNothingGrows(t *testing.T) {
	s := newEcho(t, "a", "127.0.0.1:0")
	b := startBalancer(t, s.address(), "127.0.0.1:1")
	round := func(n int) {
		c, err := net.Dial("tcp", b.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Read(make([]byte, 2)); err != nil {
			t.Fatal(err)
		}
		switch n % 4 {
		case 0: // the client just leaves
		case 1:
			_ = c.(*net.TCPConn).SetLinger(0)
		case 2: // the server is found dead
			b.failed(b.pool.order(time.Now())[0], unix.ETIMEDOUT)
			_, _ = io.Copy(io.Discard, c)
		case 3: // a part of this process
			d, err := b.DialContext(t.Context(), "", "")
			if err != nil {
				t.Fatal(err)
			}
			_ = d.Close()
		}
	}
	for n := range 20 {
		round(n)
	}
	settled := func() (goroutines, files int) {
		// The kernel's pipes that connections borrow are given back by the
		// collector.
		runtime.GC()
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return runtime.NumGoroutine(), len(entries)
	}
	eventually(t, "the first rounds to end", func() bool { b.pool.mu.Lock(); defer b.pool.mu.Unlock(); return len(b.pool.pairs) == 0 })
	goroutines, files := settled()
	for n := range 200 {
		round(n)
	}
	eventually(t, "as few goroutines and files as before", func() bool {
		g, f := settled()
		return g <= goroutines && f <= files
	})
}
