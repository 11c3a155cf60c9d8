package tunnel

import (
	"net"
	"os"
	"runtime"
	"testing"
	"time"
)

// TestLeaks cuts the path 200 times, with streams in every state, and counts
// what is left.
func TestLeaks(t *testing.T) {
	s := newStage(t, nil)
	p := newPath(t, s.address())
	there := target(t, echo)
	round := func() {
		c, stop := s.client("n1", at(p.Addr().String()))
		idle := s.dial(there)
		_ = said(idle, "x")
		reading := s.dial(there)
		go func() { _, _ = reading.Read(make([]byte, 1)) }()
		full := s.dial(target1(t))
		go func() { _, _ = full.Write(make([]byte, 4<<20)) }()
		closed := s.dial(there)
		_ = closed.Close()
		p.cut()
		stop()
		s.eventually("cut session", func() bool { return len(s.Peers()) == 0 && len(c.Connected()) == 0 })
	}
	for range 10 {
		round()
	}
	settle := func() (goroutines, files int) {
		for range 200 { // what was closed lingers, at most for lingerTime
			runtime.GC()
			g, f := runtime.NumGoroutine(), descriptors(t)
			if g == goroutines && f == files {
				break
			}
			goroutines, files = g, f
			time.Sleep(50 * time.Millisecond)
		}
		return goroutines, files
	}
	goroutines, files := settle()
	rounds := 200
	if os.Getenv("SKIFF_SOAK") == "1" {
		rounds = 5000
	}
	for range rounds {
		round()
	}
	var g, f int
	s.eventually("end of what the rounds have begun", func() bool {
		g, f = settle()
		return g <= goroutines+5 && f <= files+5
	})
	t.Logf("before %d rounds %d goroutines and %d descriptors, after them %d and %d", rounds, goroutines, files, g, f)
}

// target1 accepts one connection and leaves it unread.
func target1(t *testing.T) string {
	t.Helper()
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer l.Close()
		c, err := l.AcceptTCP()
		if err != nil {
			return
		}
		defer c.Close()
		time.Sleep(50 * time.Millisecond)
	}()
	return l.Addr().String()
}

func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}
