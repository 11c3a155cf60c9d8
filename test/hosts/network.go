package hosts

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
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
	prefix string // "10.99.1."

	mu   sync.Mutex
	next int // last byte of the next host's address; guarded by mu
}

// bridge is the name of the switch inside its namespace. It holds address .1,
// which is the hosts' default gateway and a place to act as a client from.
const bridge = "switch"

// NewNetwork makes a network, which ends with the test.
func NewNetwork(t T) *Network {
	t.Helper()
	ns, err := newNamespace()
	if err != nil {
		t.Fatalf("make a network: %v", err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	n := &Network{ns: ns, prefix: fmt.Sprintf("10.99.%d.", counter.Add(1)%250), next: 10}
	err = withLinks(ns, func(links *netlink.Handle) error {
		if err := up(links, "lo"); err != nil {
			return err
		}
		if err := links.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridge}}); err != nil {
			return fmt.Errorf("add bridge: %w", err)
		}
		return address(links, bridge, n.Gateway())
	})
	if err != nil {
		t.Fatalf("make a network: %v", err)
	}
	return n
}

// Gateway is the address of the network itself.
func (n *Network) Gateway() string { return n.prefix + "1" }

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

func up(links *netlink.Handle, name string) error {
	l, err := links.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find link %s: %w", name, err)
	}
	return links.LinkSetUp(l)
}

func address(links *netlink.Handle, name, ip string) error {
	l, err := links.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find link %s: %w", name, err)
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(ip), Mask: net.CIDRMask(24, 32)}}
	if err := links.AddrAdd(l, addr); err != nil {
		return fmt.Errorf("add address %s: %w", ip, err)
	}
	return links.LinkSetUp(l)
}

func (m *machine) linkUp(name string) error {
	return withLinks(m.netns, func(links *netlink.Handle) error { return up(links, name) })
}

// AddNIC plugs a running host that had loopback only into a network.
func (h *Host) AddNIC(n *Network) {
	h.t.Helper()
	h.network = n
	h.plug()
}

// plug connects eth0 of the host with the switch and gives it an address and
// the default route.
func (h *Host) plug() {
	h.t.Helper()
	n, m := h.network, h.on()
	n.mu.Lock()
	if h.addr == "" {
		n.next++
		h.addr = fmt.Sprint(n.prefix, n.next)
	}
	n.mu.Unlock()
	m.port = fmt.Sprintf("port%d", counter.Add(1))
	err := withLinks(n.ns, func(links *netlink.Handle) error {
		l, err := links.LinkByName(bridge)
		if err != nil {
			return err
		}
		veth := &netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: m.port, MasterIndex: l.Attrs().Index},
			PeerName:  "eth0", PeerNamespace: netlink.NsFd(m.netns.Fd()), PeerHardwareAddr: hardware(h.addr),
		}
		if err := links.LinkAdd(veth); err != nil {
			return fmt.Errorf("add veth pair: %w", err)
		}
		return up(links, m.port)
	})
	if err == nil {
		err = withLinks(m.netns, func(links *netlink.Handle) error {
			if err := address(links, "eth0", h.addr); err != nil {
				return err
			}
			return links.RouteAdd(&netlink.Route{Gw: net.ParseIP(n.Gateway())})
		})
	}
	if err != nil {
		h.t.Fatalf("plug host %s in: %v", h.name, err)
	}
}

// hardware makes the address of a network card from the host's IP address: it
// is the same after a power cut, so that neighbours need not learn another.
func hardware(ip string) net.HardwareAddr {
	return append(net.HardwareAddr{0x02, 0}, net.ParseIP(ip).To4()...)
}

// unplug takes a dead host off the network. The kernel would do it, too, but
// together with the host's namespace: some time later, or never while a socket
// or a thread of this process is inside. Until then a dead host would answer
// for the address of the one that was booted in its place.
func (n *Network) unplug(port string) error {
	return withLinks(n.ns, func(links *netlink.Handle) error {
		l, err := links.LinkByName(port)
		if err == nil {
			err = links.LinkDel(l)
		}
		var missing netlink.LinkNotFoundError
		if errors.As(err, &missing) || errors.Is(err, unix.ENODEV) {
			return nil // The namespace was quicker.
		}
		return err
	})
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
