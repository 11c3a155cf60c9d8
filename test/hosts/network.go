package hosts

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Network is a switch that hosts are plugged into: a bridge in a network
// namespace of its own that lives exactly as long as this process wants it.
type Network struct {
	ns     *os.File
	number int
	v4, v6 bool

	mu   sync.Mutex
	next int // last byte of the next host's address; guarded by mu
}

// NetworkOption changes what a Network is like; the default is IPv4 only.
type NetworkOption func(*Network)

// DualStack gives the network and its hosts addresses of both IP families.
func DualStack() NetworkOption { return func(n *Network) { n.v4, n.v6 = true, true } }

// IPv6Only gives them no IPv4 addresses.
func IPv6Only() NetworkOption { return func(n *Network) { n.v4, n.v6 = false, true } }

// bridge is the name of the switch inside its namespace. It holds address 1,
// which is the hosts' default gateway and a place to act as a client from.
const bridge = "switch"

// NewNetwork makes a network, which ends with the test.
func NewNetwork(t T, opts ...NetworkOption) *Network {
	t.Helper()
	ns, err := newNamespace()
	if err != nil {
		t.Fatalf("make a network: %v", err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	n := &Network{ns: ns, number: int(counter.Add(1) % 250), v4: true, next: 10}
	for _, o := range opts {
		o(n)
	}
	err = withLinks(ns, func(links *netlink.Handle) error {
		if err := up(links, "lo"); err != nil {
			return err
		}
		if err := links.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridge}}); err != nil {
			return fmt.Errorf("add bridge: %w", err)
		}
		return addAddresses(links, bridge, n.addresses(1))
	})
	if err != nil {
		t.Fatalf("make a network: %v", err)
	}
	return n
}

// Gateway is the address of the network itself; of IPv4, if it has both.
func (n *Network) Gateway() string { return n.addresses(1)[0].String() }

// Gateways are the network's own addresses, one for each family.
func (n *Network) Gateways() []string { return texts(n.addresses(1)) }

// addresses are those of the numbered participant, IPv4 first.
func (n *Network) addresses(participant int) []netip.Addr {
	var out []netip.Addr
	if n.v4 {
		out = append(out, netip.AddrFrom4([4]byte{10, 99, byte(n.number), byte(participant)}))
	}
	if n.v6 {
		out = append(out, netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x99, 7: byte(n.number), 15: byte(participant)}))
	}
	return out
}

func texts(addrs []netip.Addr) []string {
	out := make([]string, len(addrs))
	for i, a := range addrs {
		out[i] = a.String()
	}
	return out
}

// newNamespace makes a network namespace that is held by a file only.
func newNamespace() (*os.File, error) {
	var f *os.File
	var err error
	onThread(func() {
		if err = unix.Unshare(unix.CLONE_NEWNET); err == nil {
			f, err = os.Open("/proc/thread-self/ns/net")
		}
	})
	return f, err
}

// withLinks runs fn with a netlink connection into the namespace.
func withLinks(ns *os.File, fn func(*netlink.Handle) error) error {
	links, err := netlink.NewHandleAt(netns.NsHandle(ns.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer links.Close()
	return fn(links)
}

// DialContext connects to an address as seen from the host. The address must be an IP
// address: names are not resolved inside the host.
func (h *Host) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	h.mu.Lock()
	m := h.machine
	h.mu.Unlock()
	if m == nil {
		return nil, fmt.Errorf("dial %s: host %s is switched off", addr, h.name)
	}
	return dialIn(ctx, m.netns, network, addr)
}

// DialContext connects to an address as seen from the network, outside all hosts.
func (n *Network) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	return dialIn(ctx, n.ns, network, addr)
}

func dialIn(ctx context.Context, ns *os.File, network, addr string) (c net.Conn, err error) {
	inErr := inNamespace(ns, func() error {
		c, err = (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, network, addr)
		return err
	})
	return c, inErr
}

// ListenIn listens on an address inside the host.
func (h *Host) ListenIn(addr string) net.Listener {
	h.t.Helper()
	var l net.Listener
	err := inNamespace(h.on().netns, func() (err error) {
		l, err = net.Listen("tcp", addr)
		return err
	})
	if err != nil {
		h.t.Fatalf("listen on %s of %s: %v", addr, h.name, err)
	}
	return l
}

// inNamespace runs fn on a thread that is in the network namespace. Sockets
// made by fn stay there.
func inNamespace(ns *os.File, fn func() error) error {
	var err error
	onThread(func() {
		if err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			err = fmt.Errorf("enter network namespace: %w", err)
			return
		}
		err = fn()
	})
	return err
}

// onThread runs fn on a thread of its own, which is never the main thread: that
// does not end with its goroutine, and would hold the namespace fn has entered
// for as long as this process lives.
func onThread(fn func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // not unlocked: the thread ends with the goroutine
		if unix.Gettid() == os.Getpid() {
			onThread(fn) // While this goroutine has the main thread, no other gets it.
			runtime.UnlockOSThread()
			return
		}
		fn()
	}()
	<-done
}

// Dialer is a place to connect from: a Host, a Network or, as net.Dialer, the
// machine.
type Dialer interface {
	DialContext(ctx context.Context, network, addr string) (net.Conn, error)
}

// HTTPClient returns a client that connects from the given place. It keeps no
// connections, as its place may vanish.
func HTTPClient(from Dialer) *http.Client {
	return &http.Client{
		Timeout:   10 * time.Second,
		Transport: &http.Transport{DialContext: from.DialContext, DisableKeepAlives: true},
	}
}
