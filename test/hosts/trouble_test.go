package hosts

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"testing"
	"time"
)

// serve answers "hello" on port 8080 of the host.
func serve(t *testing.T, h *Host) {
	t.Helper()
	l := h.ListenIn(":8080")
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("hello")) })}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
}

// reaches reports how it went to get an answer of port 8080 of the address
// within a second.
func reaches(from Dialer, addr string) error {
	client := HTTPClient(from)
	client.Timeout = time.Second
	r, err := client.Get("http://" + net.JoinHostPort(addr, "8080") + "/")
	if err != nil {
		return err
	}
	defer r.Body.Close()
	if body, err := io.ReadAll(r.Body); err != nil || string(body) != "hello" {
		return fmt.Errorf("got %q, error %w", body, err)
	}
	return nil
}

// answers waits for an answer: links come up late on a busy machine, and a
// neighbour that was asked for in vain is not asked for at once again.
func answers(t *testing.T, what string, from Dialer, addr string) {
	t.Helper()
	Eventually(t, 20*time.Second, what, func() error { return reaches(from, addr) })
}

func TestNetworkFamilies(t *testing.T) {
	for name, tt := range map[string]struct {
		opts  []NetworkOption
		addrs int
	}{
		"IPv4":       {nil, 1},
		"IPv6":       {[]NetworkOption{IPv6Only()}, 1},
		"dual-stack": {[]NetworkOption{DualStack()}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			n := NewNetwork(t, tt.opts...)
			a, b := New(t, busybox(t), On(n)), New(t, busybox(t), On(n))
			if len(a.Addrs()) != tt.addrs || len(n.Gateways()) != tt.addrs {
				t.Fatalf("addresses %v, gateways %v, want %d of each", a.Addrs(), n.Gateways(), tt.addrs)
			}
			serve(t, a)
			for _, addr := range a.Addrs() {
				answers(t, "an answer to the neighbour", b, addr)
				answers(t, "an answer to the network", n, addr)
			}
			old := a.Addrs()
			a.Readdress()
			for i, addr := range a.Addrs() {
				if slices.Contains(old, addr) {
					t.Errorf("address %s is an old one", addr)
				}
				answers(t, "the new address to answer", b, addr)
				if err := reaches(b, old[i]); err == nil {
					t.Errorf("the old address %s still answers", old[i])
				}
				a.Run("/bin/busybox", "ping", "-c", "1", "-W", "2", n.Gateways()[i])
			}
			a.Readdress(old...)
			answers(t, "the old address to answer again", b, old[0])
		})
	}
}

func TestCutAndHeal(t *testing.T) {
	n := NewNetwork(t, DualStack())
	a, b, c := New(t, busybox(t), On(n)), New(t, busybox(t), On(n)), New(t, busybox(t), On(n))
	serve(t, a)
	serve(t, b)
	conn, err := b.DialContext(t.Context(), "tcp", net.JoinHostPort(a.Addr(), "8080"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	check := func(state string, cut bool) {
		t.Helper()
		for i := range a.Addrs() {
			answers(t, state+": c to reach a", c, a.Addrs()[i])
			if !cut {
				answers(t, state+": b to reach a", b, a.Addrs()[i])
				answers(t, state+": a to reach b", a, b.Addrs()[i])
				continue
			}
			if reaches(b, a.Addrs()[i]) == nil || reaches(a, b.Addrs()[i]) == nil {
				t.Errorf("%s: they reach each other", state)
			}
		}
	}
	check("before", false)
	a.Cut(b)
	check("cut", true)
	// Silence, not a refusal: an open connection only hangs.
	if _, err := fmt.Fprint(conn, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		t.Errorf("write to a connection that is cut: %v", err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	if _, err := conn.Read(make([]byte, 1)); err == nil || !func() net.Error {
		var target net.Error
		_ = errors.As(err, &target)
		return target
	}().Timeout() {
		t.Errorf("read from a connection that is cut: %v, want a timeout", err)
	}
	a.PowerCut()
	a.Boot()
	serve(t, a)
	if err := reaches(b, a.Addr()); err == nil {
		t.Error("a power cut has healed the network")
	}
	b.Heal(a)
	check("healed", false)
}

func TestStrand(t *testing.T) {
	n := NewNetwork(t)
	a, b := New(t, busybox(t), On(n)), New(t, busybox(t), On(n))
	serve(t, a)
	conn, err := b.DialContext(t.Context(), "tcp", net.JoinHostPort(a.Addr(), "8080"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	b.Strand()
	if _, err := fmt.Fprint(conn, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		t.Errorf("write to a connection that leads nowhere: %v", err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	if n, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read from a connection that leads nowhere: %d bytes, %v", n, err)
	}
	answers(t, "a new connection to pass", b, a.Addr())
}

func TestDropInbound(t *testing.T) {
	n := NewNetwork(t, DualStack())
	a, b := New(t, busybox(t), On(n)), New(t, busybox(t), On(n))
	serve(t, a)
	serve(t, b)
	a.DropInbound()
	for i, addr := range a.Addrs() {
		if err := reaches(b, addr); err == nil {
			t.Errorf("%s lets connections in", addr)
		}
		answers(t, "those behind the wall to get out", a, b.Addrs()[i])
		answers(t, "the host to reach itself", a, addr)
	}
	a.AllowInbound()
	for _, addr := range a.Addrs() {
		answers(t, "the wall to be gone", b, addr)
	}
}

func TestLoss(t *testing.T) {
	n := NewNetwork(t)
	a := New(t, busybox(t), On(n))
	// While the neighbour's link-layer address is asked for, more is lost.
	a.Run("/bin/busybox", "ping", "-c", "1", "-W", "2", n.Gateway())
	lost := func(percent int) int {
		a.Loss(percent)
		from, err := a.DialContext(t.Context(), "udp", net.JoinHostPort(n.Gateway(), "9"))
		if err != nil {
			t.Fatal(err)
		}
		defer from.Close()
		var to net.PacketConn
		if err := inNamespace(n.ns, func() (err error) { to, err = net.ListenPacket("udp", ":9"); return err }); err != nil {
			t.Fatal(err)
		}
		defer to.Close()
		missing := 0
		for range 400 {
			_, _ = from.Write([]byte("x"))
			_ = to.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			if _, _, err := to.ReadFrom(make([]byte, 1)); err != nil {
				missing++
			}
		}
		return missing
	}
	if got := lost(30); got < 60 || got > 180 {
		t.Errorf("%d of 400 packets were lost, want about 120", got)
	}
	if got := lost(0); got != 0 {
		t.Errorf("%d of 400 packets were lost on a network without loss", got)
	}
}

func TestCable(t *testing.T) {
	n := NewNetwork(t)
	a := New(t, busybox(t), On(n))
	serve(t, a)
	a.Cable(false)
	if reaches(n, a.Addr()) == nil {
		t.Error("the host answers without a cable")
	}
	a.Cable(true)
	Eventually(t, 5*time.Second, "the host to answer again", func() error { return reaches(n, a.Addr()) })
}
