package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestWaits asks for a peer that is about to come, and for one that is not.
func TestWaits(t *testing.T) {
	s := newStage(t, nil)
	there := target(t, echo)
	late := time.AfterFunc(700*time.Millisecond, func() { s.client("n1") })
	defer late.Stop()
	if err := said(s.dial(there), "hello"); err != nil {
		t.Error(err)
	}
	began := time.Now()
	_, err := s.DialContext(t.Context(), "n2", there)
	if _, ok := errors.AsType[*NotConnectedError](err); !ok {
		t.Errorf("a peer that is not here: %v", err)
	}
	if took := time.Since(began); took > waitLately+time.Second {
		t.Errorf("it took %s to say so", took)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := s.DialContext(ctx, "n2", there); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a caller that does not wait: %v", err)
	}
}

// TestWatched: others learn at once of a session, and of its end, also when a
// stream takes longer to end.
func TestWatched(t *testing.T) {
	s := newStage(t, nil)
	p := newPath(t, s.address())
	server := p.Addr().String()
	told := make(chan string, 4)
	var writing sync.WaitGroup
	defer writing.Wait()
	s.client("n1", at(server), func(c *Client) { c.Watched = func(server string, by bool) { told <- fmt.Sprint(server, " ", by) } })
	want := []string{server + " true", server + " false", server + " true"}
	var got []string
	for range want {
		if len(got) == 1 {
			// What is on the way to a target that does not read takes its time.
			stream := s.dial(target(t, func(*net.TCPConn) { <-t.Context().Done() }))
			writing.Go(func() { _, _ = stream.Write(make([]byte, 32<<20)) })
			time.Sleep(500 * time.Millisecond)
			p.cut()
		}
		limit := 2 * lingerTime
		if len(got) == 1 {
			limit = lingerTime - time.Second
		}
		select {
		case one := <-told:
			got = append(got, one)
		case <-time.After(limit):
			t.Fatalf("told %q, then nothing for %s; want %q", got, limit, want)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("told %q, want %q", got, want)
	}
}

// TestReconnects breaks the path in every way, with a stream under way, and
// measures how long it takes from its repair to a new connection.
func TestReconnects(t *testing.T) {
	const recovery = 10 * time.Second
	tests := []struct {
		name   string
		within time.Duration
		idle   bool // there is no stream when it happens
		harm   func(p *path, s *stage)
	}{
		{"cut", time.Second, false, func(p *path, _ *stage) { p.cut() }},
		{"swallowed until both have noticed", recovery, false, func(p *path, s *stage) {
			p.swallow(true)
			s.eventually("server that has noticed", func() bool { return len(s.Peers()) == 0 })
			p.swallow(false)
		}},
		{"forgotten by a router", recovery, false, func(p *path, _ *stage) { p.forget() }},
		{"forgotten by a router while idle", recovery, true, func(p *path, _ *stage) { p.forget() }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t, nil)
			p := newPath(t, s.address())
			c, _ := s.client("n1", at(p.Addr().String()))
			there := target(t, echo)
			old := s.dial(there)
			if err := said(old, "before"); err != nil {
				t.Fatal(err)
			}
			if tt.idle {
				_ = old.Close()
				time.Sleep(keepIdle / 2)
			}
			time.Sleep(100 * time.Millisecond) // All is acknowledged: what a path repeats is a sign of life.
			tt.harm(p, s)
			began := time.Now()
			if err := said(s.dial(there), "after"); err != nil {
				t.Error(err)
			}
			t.Logf("connected again after %s", time.Since(began).Round(time.Millisecond))
			if took := time.Since(began); took > tt.within {
				t.Errorf("it took %s, want %s", took, tt.within)
			}
			s.eventually("session", func() bool { return len(c.Connected()) == 1 })
		})
	}
}

// TestSlowTarget takes longer for an answer than a peer may be silent: the
// server asks, and the session stays.
func TestSlowTarget(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil)
	there := target(t, echo)
	s.client("n1", func(c *Client) {
		c.Allow = func(_ context.Context, target netip.AddrPort) (netip.AddrPort, error) {
			time.Sleep(doubtAfter + time.Second)
			return target, nil
		}
	})
	s.eventually("session", func() bool { return len(s.Peers()) == 1 })
	since := s.Peers()[0].Since
	if err := said(s.dial(there), "at last"); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), doubtAfter+500*time.Millisecond)
	defer cancel()
	if _, err := s.DialContext(ctx, "n1", there); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a caller that does not wait: %v", err)
	}
	if p := s.Peers(); len(p) != 1 || !p[0].Since.Equal(since) {
		t.Errorf("the session of %s has become %v", since, p)
	}
}

// TestMoved takes the address away from which a session was opened, and another
// one.
func TestMoved(t *testing.T) {
	s := newStage(t, nil)
	c, _ := s.client("n1")
	s.dial(target(t, echo))
	since := s.Peers()[0].Since
	c.Moved(func(a netip.Addr) bool { return a == netip.MustParseAddr("127.0.0.1") })
	if err := said(s.dial(target(t, echo)), "here"); err != nil || !s.Peers()[0].Since.Equal(since) {
		t.Errorf("a session was ended without need (%v)", err)
	}
	began := time.Now()
	c.Moved(func(netip.Addr) bool { return false })
	s.eventually("another session", func() bool { p := s.Peers(); return len(p) == 1 && p[0].Since.After(began) })
	if took := time.Since(began); took > time.Second {
		t.Errorf("it took %s", took)
	}
}

// TestRenewed has a peer try at once with its new certificate that was refused
// with the old one.
func TestRenewed(t *testing.T) {
	s := newStage(t, nil)
	var good atomic.Bool
	s.Authorize = func(*http.Request) (string, error) {
		if !good.Load() {
			return "", errors.New("your certificate has expired")
		}
		return "n1", nil
	}
	var told notes
	c, _ := s.client("n1", func(c *Client) { c.Notes = &told })
	s.eventually("refusal", func() bool { return told.get("tunnel/"+s.address()) != "" })
	time.Sleep(100 * time.Millisecond) // The pause has begun, of four seconds at least.
	good.Store(true)
	began := time.Now()
	c.Renewed()
	s.eventually("session", func() bool { return len(s.Peers()) == 1 })
	if took := time.Since(began); took > time.Second {
		t.Errorf("it took %s", took)
	}
}

// TestExpires lets a session live no longer than its certificate.
func TestExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		s := &session{wire: newWire(ours, ours)}
		began := time.Now()
		s.until(began.Add(90 * time.Minute))
		if got := time.Since(began); got != 90*time.Minute || !errors.Is(s.wire.why(), errExpired) {
			t.Errorf("it ended after %s: %v", got, s.wire.why())
		}
		for _, end := range []time.Time{{}, time.Now().Add(time.Hour)} {
			s := &session{wire: newWire(ours, ours)}
			time.AfterFunc(time.Minute, func() { s.wire.end(errPeerClosed) })
			s.until(end)
			if !errors.Is(s.wire.why(), errPeerClosed) {
				t.Errorf("it ended because %v", s.wire.why())
			}
		}
	})
}

// TestOldStreamsEnd checks that nobody waits for what a lost session carried.
func TestOldStreamsEnd(t *testing.T) {
	s := newStage(t, nil)
	p := newPath(t, s.address())
	s.client("n1", at(p.Addr().String()))
	closed := make(chan struct{})
	c := s.dial(target(t, func(c *net.TCPConn) {
		_, _ = io.Copy(io.Discard, c)
		close(closed)
	}))
	_, _ = io.WriteString(c, "x")
	p.cut()
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("a lost stream ends with %v", err)
	}
	<-closed
}

// TestNewestIsUsed connects the same peer twice: both stay, the newer is used.
func TestNewestIsUsed(t *testing.T) {
	s := newStage(t, nil)
	there := target(t, echo)
	_, stopOld := s.client("n1")
	s.eventually("first session", func() bool { return len(s.Peers()) == 1 })
	old := s.dial(there)
	_, stopNew := s.client("n1")
	s.eventually("second session", func() bool { p := s.Peers(); return len(p) == 1 && p[0].Sessions == 2 })
	stopNew()
	s.eventually("one session", func() bool { p := s.Peers(); return len(p) == 1 && p[0].Sessions == 1 })
	if err := said(old, "still"); err != nil {
		t.Errorf("the older session lost its stream: %v", err)
	}
	if err := said(s.dial(there), "again"); err != nil {
		t.Error(err)
	}
	stopOld()
	s.eventually("no session", func() bool { return len(s.Peers()) == 0 })
}

func TestTooManySessions(t *testing.T) {
	s := newStage(t, nil)
	for range maxSessions + 3 {
		s.client("n1")
	}
	s.eventually("session", func() bool { p := s.Peers(); return len(p) == 1 && p[0].Sessions == maxSessions })
	for range 100 {
		if p := s.Peers(); len(p) == 1 && p[0].Sessions > maxSessions {
			t.Fatalf("%d sessions", p[0].Sessions)
		}
		time.Sleep(time.Millisecond)
	}
}

// TestServerChanges moves the server to another address, and restarts it.
func TestServerChanges(t *testing.T) {
	first := newStage(t, nil)
	var servers moving
	servers.set(first.address())
	c, _ := first.client("n1", func(c *Client) { c.Servers = servers.get })
	there := target(t, echo)
	first.dial(there)
	address := first.address()
	first.stop()

	began := time.Now()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	second := newStage(t, l)
	if err := said(second.dial(there), "restarted"); err != nil {
		t.Error(err)
	}
	t.Logf("back at a restarted server after %s", time.Since(began).Round(time.Millisecond))

	third := newStage(t, nil)
	began = time.Now()
	servers.set(third.address())
	if err := said(third.dial(there), "moved"); err != nil {
		t.Error(err)
	}
	t.Logf("at a server under a new address after %s", time.Since(began).Round(time.Millisecond))
	second.eventually("server without its peer", func() bool { return len(second.Peers()) == 0 })
	third.eventually("session", func() bool { return slices.Equal(c.Connected(), []string{third.address()}) })
}

// TestOneServerTwoAddresses keeps one connection, and the other address for
// when that is lost.
func TestOneServerTwoAddresses(t *testing.T) {
	s := newStage(t, nil)
	p, q := newPath(t, s.address()), newPath(t, s.address())
	c, _ := s.client("n1", at(p.Addr().String(), q.Addr().String()))
	s.eventually("session", func() bool { return len(c.Connected()) == 1 })
	time.Sleep(2 * pauseMin)
	if n := s.Peers()[0].Sessions; n != 1 {
		t.Errorf("%d sessions with one server", n)
	}
	first := c.Connected()[0]
	for _, way := range []*path{p, q} {
		if way.Addr().String() == first {
			_ = way.Close() // and nobody listens there any more
			way.cut()
		}
	}
	s.dial(target(t, echo))
	if got := c.Connected(); len(got) != 1 || got[0] == first {
		t.Errorf("connected to %v, was to %s", got, first)
	}
}
