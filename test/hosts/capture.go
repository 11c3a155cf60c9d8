package hosts

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Capture watches what a host sends and keeps the destinations that are not
// local to it.
type Capture struct {
	fd   int
	done chan struct{}

	mu    sync.Mutex
	found map[string]int // "interface → address": bytes; guarded by mu
}

// Capture starts watching all interfaces of the host. Packets to loopback
// addresses, to multicast and to the given prefixes are local.
func (h *Host) Capture(local ...netip.Prefix) *Capture {
	h.t.Helper()
	c := &Capture{done: make(chan struct{}), found: map[string]int{}}
	var err error
	if c.fd, err = packetSocket(h.on().netns); err != nil {
		h.t.Fatalf("capture packets of %s: %v", h.name, err)
	}
	stop := make(chan struct{})
	go c.read(stop, local)
	h.t.Cleanup(func() {
		close(stop)
		<-c.done
		_ = unix.Close(c.fd)
	})
	return c
}

// packetSocket returns a socket that receives all packets of a network
// namespace without their link's header; a read ends after a fifth of a second.
func packetSocket(ns *os.File) (fd int, err error) {
	all := binary.BigEndian.Uint16([]byte{0, unix.ETH_P_ALL}) << 8 // htons on little endian
	err = inNamespace(ns, func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(all))
		return err
	})
	if err == nil {
		_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 200_000})
	}
	return fd, err
}

func (c *Capture) read(stop chan struct{}, local []netip.Prefix) {
	defer close(c.done)
	b := make([]byte, 128)
	for {
		select {
		case <-stop:
			return
		default:
		}
		n, from, err := unix.Recvfrom(c.fd, b, unix.MSG_TRUNC)
		if err != nil {
			continue // the timeout of a quiet network
		}
		link, ok := from.(*unix.SockaddrLinklayer)
		if !ok || link.Pkttype != unix.PACKET_OUTGOING {
			continue
		}
		to, ok := destination(b[:min(n, len(b))])
		if !ok || to.IsLoopback() || to.IsMulticast() || slices.ContainsFunc(local, func(p netip.Prefix) bool { return p.Contains(to) }) {
			continue
		}
		c.mu.Lock()
		c.found[fmt.Sprintf("interface %d → %s", link.Ifindex, to)] += n
		c.mu.Unlock()
	}
}

// destination is the address an IP packet goes to.
func destination(packet []byte) (netip.Addr, bool) {
	switch {
	case len(packet) >= 20 && packet[0]>>4 == 4:
		return netip.AddrFrom4([4]byte(packet[16:20])), true
	case len(packet) >= 40 && packet[0]>>4 == 6:
		return netip.AddrFrom16([16]byte(packet[24:40])), true
	}
	return netip.Addr{}, false
}

// NonLocal lists the destinations seen so far that are not local, with bytes.
func (c *Capture) NonLocal() []string {
	// Packets already sent are in the socket's queue; give the reader its turn.
	<-time.After(300 * time.Millisecond)
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for _, to := range slices.Sorted(maps.Keys(c.found)) {
		out = append(out, fmt.Sprintf("%s: %d bytes", to, c.found[to]))
	}
	return out
}
