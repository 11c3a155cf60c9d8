package tunnel

import (
	"context"
	"fmt"
	"io"
	"net"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestIdleTraffic watches an idle session while the kernel asks a few times,
// and then while it is asked by HTTP/2, and works out the day.
func TestIdleTraffic(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil)
	c, _ := s.client("n1")
	s.eventually("session", func() bool { return len(s.Peers()) == 1 })
	c.mu.Lock()
	var w *wire
	for _, h := range c.held {
		w = h.wire
	}
	c.mu.Unlock()
	time.Sleep(2 * time.Second) // what the start takes
	cost := func(d time.Duration) (bytes float64) {
		before := counters(t, w)
		time.Sleep(d)
		after := counters(t, w)
		packets := after.Segs_in + after.Segs_out - before.Segs_in - before.Segs_out
		data := after.Bytes_received + after.Bytes_acked - before.Bytes_received - before.Bytes_acked
		return 52*float64(packets) + float64(data)
	}
	idle := cost(3*keepIdle+time.Second) / 3
	s.mu.Lock()
	session := s.peers["n1"].sessions[0]
	s.mu.Unlock()
	asked := time.AfterFunc(100*time.Millisecond, func() { session.probe(context.Background(), errNoAnswer) })
	defer asked.Stop()
	ping := cost(time.Second)
	day := idle*float64(24*time.Hour/keepIdle) + ping*float64(24*time.Hour/pingEvery)
	t.Logf("the kernel's question is %.0f bytes on the wire, HTTP/2's %.0f: %.2f MB a day", idle, ping, day/1e6)
	if day > 3e6 || idle < 100 || ping < 200 {
		t.Errorf("an idle session costs %.0f bytes a day", day)
	}
}

func counters(t *testing.T, c *wire) *unix.TCPInfo {
	t.Helper()
	raw, err := tcpOf(c.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var info *unix.TCPInfo
	if failed := raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) }); failed != nil || err != nil {
		t.Fatal(failed, err)
	}
	return info
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
				c := s.dial(target(b, func(c *net.TCPConn) {
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
			c := s.dial(target(b, func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c) }))
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
		c := s.dial(there)
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
