package tunnel

import (
	"net"
	"testing"
	"time"
)

// TestDialsAgain does not wait for a packet that was lost: the second attempt
// arrives long before the first is repeated for the second time.
func TestDialsAgain(t *testing.T) {
	p := newPath(t, target(t, echo))
	p.swallow(true)
	mended := time.AfterFunc(againAfter-200*time.Millisecond, func() { p.swallow(false) }) // after the repetition at one second
	defer mended.Stop()
	began := time.Now()
	c, err := dial(t.Context(), p.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	if took := time.Since(began); took > againAfter+time.Second {
		t.Errorf("it took %s, want %s", took, againAfter)
	}
	if _, err := dial(t.Context(), nobody(t)); err == nil {
		t.Error("connected with nobody")
	}
}

// nobody is an address at which nobody listens.
func nobody(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
