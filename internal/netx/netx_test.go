package netx

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// inOwnNetwork moves the test into a network namespace with nothing in it. The
// thread is never unlocked, so it ends with the test's goroutine.
func inOwnNetwork(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root to make a network namespace")
	}
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("needs to make a network namespace: %v", err)
	}
}

func TestBareHost(t *testing.T) {
	inOwnNetwork(t)
	if _, err := DefaultRouteAddress(); !errors.Is(err, ErrNoAddress) {
		t.Errorf("DefaultRouteAddress: %v, want ErrNoAddress", err)
	}
	internal := netip.MustParseAddr("10.44.0.1")
	for range 2 { // The second time nothing is to be done.
		if err := AddLoopbackAddress(internal); err != nil {
			t.Fatal(err)
		}
	}
	wantAddresses(t, "10.44.0.1")
	if has, err := HasAddress(internal); err != nil || !has {
		t.Errorf("HasAddress: %v, %v", has, err)
	}
	for range 2 {
		if err := RemoveLoopbackAddress(internal); err != nil {
			t.Fatal(err)
		}
	}
	wantAddresses(t)
}

func TestHostWithLinks(t *testing.T) {
	inOwnNetwork(t)
	if err := AddLoopbackAddress(netip.MustParseAddr("10.44.0.1")); err != nil {
		t.Fatal(err)
	}
	addVeth(t, "one", "192.0.2.10/24", "2001:db8::10/64")
	addVeth(t, "two", "198.51.100.10/24", "198.51.100.11/24")
	addRoute(t, "one", "192.0.2.1", "", 200)
	addRoute(t, "two", "198.51.100.1", "", 100)
	wantDefault(t, "198.51.100.10")
	addRoute(t, "two", "198.51.100.2", "198.51.100.11", 50)
	wantDefault(t, "198.51.100.11")
	wantAddresses(t, "10.44.0.1", "192.0.2.10", "198.51.100.10", "198.51.100.11", "2001:db8::10")
}

func wantAddresses(t *testing.T, want ...string) {
	t.Helper()
	addrs, err := HostAddresses()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, a := range addrs {
		got = append(got, a.String())
	}
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("addresses -want +got:\n%s", diff)
	}
}

func wantDefault(t *testing.T, want string) {
	t.Helper()
	got, err := DefaultRouteAddress()
	if err != nil || got.String() != want {
		t.Errorf("DefaultRouteAddress: %v, %v, want %s", got, err, want)
	}
}

func addVeth(t *testing.T, name string, addrs ...string) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: name + "-peer"}); err != nil {
		t.Skipf("needs veth: %v", err)
	}
	for _, n := range []string{name, name + "-peer"} {
		l, err := netlink.LinkByName(n)
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkSetUp(l); err != nil {
			t.Fatal(err)
		}
	}
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		addr, err := netlink.ParseAddr(a)
		if err != nil {
			t.Fatal(err)
		}
		addr.Flags = unix.IFA_F_NODAD
		if err := netlink.AddrAdd(l, addr); err != nil {
			t.Fatal(err)
		}
	}
}

func addRoute(t *testing.T, link, via, src string, metric int) {
	t.Helper()
	l, err := netlink.LinkByName(link)
	if err != nil {
		t.Fatal(err)
	}
	r := &netlink.Route{LinkIndex: l.Attrs().Index, Gw: net.ParseIP(via), Priority: metric}
	if src != "" {
		r.Src = net.ParseIP(src)
	}
	if err := netlink.RouteAdd(r); err != nil {
		t.Fatal(err)
	}
}

func TestPortInUse(t *testing.T) {
	for _, ip := range []string{"127.0.0.1", "0.0.0.0", "::"} {
		t.Run(ip, func(t *testing.T) {
			l, err := ListenTCP(netip.AddrPortFrom(netip.MustParseAddr(ip), 0))
			if err != nil {
				t.Skipf("cannot listen: %v", err)
			}
			addr := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), l.Addr().(*net.TCPAddr).AddrPort().Port())
			err = CheckPortFree(addr)
			held, ok := errors.AsType[*PortInUseError](err)
			if !ok {
				t.Fatalf("CheckPortFree: %v, want a PortInUseError", err)
			}
			if !errors.Is(err, unix.EADDRINUSE) {
				t.Errorf("%v does not wrap EADDRINUSE", err)
			}
			comm, _ := os.ReadFile("/proc/self/comm")
			if held.PID != os.Getpid() || held.Process != strings.TrimSpace(string(comm)) {
				t.Errorf("held by %d %q, want %d %q", held.PID, held.Process, os.Getpid(), comm)
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			if err := CheckPortFree(addr); err != nil {
				t.Errorf("CheckPortFree after close: %v", err)
			}
		})
	}
}

func TestScanListeners(t *testing.T) {
	const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:192B 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 11 1 0000000000000000 20 4 30 10 -1
   1: 0200000A:192B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 22 1 0000000000000000 100 0 0 10 0
   2: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 33 1 0000000000000000 100 0 0 10 0
`
	tests := []struct{ addr, want string }{
		{"127.0.0.1:6443", ""}, // A connection, not a listener.
		{"10.0.0.2:6443", "22"},
		{"0.0.0.0:6443", "22"},
		{"192.0.2.1:8080", "33"},
		{"192.0.2.1:8081", ""},
	}
	for _, tt := range tests {
		got, ok := scanListeners(strings.NewReader(table), netip.MustParseAddrPort(tt.addr))
		if got != tt.want || ok != (tt.want != "") {
			t.Errorf("%s: inode %q, %v, want %q", tt.addr, got, ok, tt.want)
		}
	}
}
