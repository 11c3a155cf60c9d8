package lb

import (
	"io"
	"net/netip"
	"testing"
)

// Connections from an address that the machine has lost are closed, so that
// their clients make others.
func TestMoved(t *testing.T) {
	s := newEcho(t, "a", "127.0.0.1:0")
	b := startBalancer(t, s.address())
	c, _ := b.connect()
	b.Moved(func(a netip.Addr) bool { return a == netip.MustParseAddr("127.0.0.1") })
	if _, err := io.WriteString(c, "x"); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("a connection from an address that is still there: %v", err)
	}
	b.Moved(func(netip.Addr) bool { return false })
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the connection from an address that has gone is still open")
	}
	if _, name := b.connect(); name != "a" {
		t.Errorf("afterwards connected with %q", name)
	}
}
