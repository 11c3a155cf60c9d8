package hosts

import (
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Packet is what Tap has seen of one.
type Packet struct {
	At       time.Time
	Out      bool // the host has sent it
	Size     int  // without the link's header
	TCP      bool
	Payload  int            // of a TCP segment
	From, To netip.AddrPort // of TCP segments
}

// Tap calls fn with every packet that passes the host's first network card, until
// the host's T is cleaned up or stop is called, which waits for fn.
func (h *Host) Tap(fn func(Packet)) (stop func()) {
	h.t.Helper()
	fd, err := packetSocket(h.on().netns)
	var card int
	if err == nil {
		err = inNamespace(h.on().netns, func() error {
			link, err := net.InterfaceByName("eth0")
			if err == nil {
				card = link.Index
			}
			return err
		})
	}
	if err != nil {
		h.t.Fatalf("tap the packets of %s: %v", h.name, err)
	}
	ended, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		defer func() { _ = unix.Close(fd) }()
		b := make([]byte, 128)
		for {
			select {
			case <-ended:
				return
			default:
			}
			n, from, err := unix.Recvfrom(fd, b, unix.MSG_TRUNC)
			link, ok := from.(*unix.SockaddrLinklayer)
			if err != nil || !ok || link.Ifindex != card {
				continue // the timeout of a quiet network, or another card
			}
			p := dissect(b[:min(n, len(b))])
			p.Size = n
			if p.TCP {
				p.Payload += n
			}
			p.At, p.Out = time.Now(), link.Pkttype == unix.PACKET_OUTGOING
			fn(p)
		}
	}()
	end := sync.OnceFunc(func() { close(ended) })
	stop = func() {
		end()
		<-done
	}
	h.t.Cleanup(stop)
	return stop
}

// dissect reads the headers of a packet. Payload is what must be added to the
// packet's size.
func dissect(b []byte) (p Packet) {
	from, okFrom := source(b)
	to, okTo := destination(b)
	if !okFrom || !okTo {
		return p
	}
	header, protocol := 40, b[6]
	if from.Is4() {
		header, protocol = int(b[0]&15)*4, b[9]
	}
	if protocol != unix.IPPROTO_TCP || len(b) < header+20 {
		return p
	}
	segment := b[header:]
	p.TCP = true
	p.From = netip.AddrPortFrom(from, binary.BigEndian.Uint16(segment))
	p.To = netip.AddrPortFrom(to, binary.BigEndian.Uint16(segment[2:]))
	p.Payload = -header - int(segment[12]>>4)*4
	return p
}

// source is the address an IP packet comes from.
func source(packet []byte) (netip.Addr, bool) {
	switch {
	case len(packet) >= 20 && packet[0]>>4 == 4:
		return netip.AddrFrom4([4]byte(packet[12:16])), true
	case len(packet) >= 40 && packet[0]>>4 == 6:
		return netip.AddrFrom16([16]byte(packet[8:24])), true
	}
	return netip.Addr{}, false
}
