package tunnel

import (
	"fmt"
	"io"
	"net"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

// counted counts the bytes of TLS that both sides write.
type counted struct {
	net.Listener
	in, out atomic.Int64
}

type countedConn struct {
	net.Conn
	l *counted
}

func (l *counted) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return countedConn{c, l}, err
}

func (c countedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.l.in.Add(int64(n))
	return n, err
}

func (c countedConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.l.out.Add(int64(n))
	return n, err
}

// TestIdleTraffic watches an idle session for two pings, and works out the day.
func TestIdleTraffic(t *testing.T) {
	t.Parallel()
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &counted{Listener: raw}
	s := newStage(t, l)
	s.client("n1")
	s.eventually("session", func() bool { return len(s.Peers()) == 1 })
	time.Sleep(time.Second)
	in, out := l.in.Load(), l.out.Load()
	pings := 2
	time.Sleep(time.Duration(pings)*pingEvery + time.Second)
	in, out = l.in.Load()-in, l.out.Load()-out
	// Each way one packet with 52 bytes of headers, and an acknowledgement.
	wire := float64(in+out)/float64(pings) + 3*52
	day := wire * float64(24*time.Hour/pingEvery)
	t.Logf("a ping is %d bytes of TLS, %.0f on the wire: %.2f MB a day", (in+out)/int64(pings), wire, day/1e6)
	if day > 3e6 || in+out == 0 {
		t.Errorf("an idle session costs %.0f bytes a day", day)
	}
}

// BenchmarkThroughput copies through the tunnel over TLS, as `kubectl cp` does.
func BenchmarkThroughput(b *testing.B) {
	for _, to := range []string{"server", "peer"} {
		b.Run("to the "+to, func(b *testing.B) {
			s := newStage(b, nil)
			s.client("n1")
			chunk := make([]byte, 32<<10)
			b.SetBytes(int64(len(chunk)))
			if to == "server" {
				c := s.dial("n1", target(b, func(c *net.TCPConn) {
					for {
						if _, err := c.Write(chunk); err != nil {
							return
						}
					}
				}))
				for b.Loop() {
					if _, err := io.ReadFull(c, chunk); err != nil {
						b.Fatal(err)
					}
				}
				return
			}
			c := s.dial("n1", target(b, func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c) }))
			for b.Loop() {
				if _, err := c.Write(chunk); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkDial connects, says a word and closes.
func BenchmarkDial(b *testing.B) {
	s := newStage(b, nil)
	s.client("n1")
	there := target(b, echo)
	for b.Loop() {
		c := s.dial("n1", there)
		if err := said(c, "x"); err != nil {
			b.Fatal(err)
		}
		_ = c.Close()
	}
}

// BenchmarkIdleSession measures the memory of a session, both ends together.
func BenchmarkIdleSession(b *testing.B) {
	s := newStage(b, nil)
	measure := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapInuse + m.StackInuse
	}
	const sessions = 200
	before := measure()
	for i := range sessions {
		s.client(fmt.Sprintf("n%d", i))
	}
	s.eventually("sessions", func() bool { return len(s.Peers()) == sessions })
	time.Sleep(time.Second)
	each := float64(measure()-before) / sessions / 1024
	for b.Loop() {
		runtime.Gosched()
	}
	b.ReportMetric(each, "KiB/session")
}
