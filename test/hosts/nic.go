package hosts

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func up(links *netlink.Handle, name string) error {
	l, err := links.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find link %s: %w", name, err)
	}
	return links.LinkSetUp(l)
}

// onLink is an address as networks give them: /24, or /64 without the second
// in which the kernel would ask whether anybody else has it.
func onLink(a netip.Addr) *netlink.Addr {
	if a.Is4() {
		return &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(24, 32)}}
	}
	return &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(64, 128)}, Flags: unix.IFA_F_NODAD}
}

func addAddresses(links *netlink.Handle, name string, addrs []netip.Addr) error {
	l, err := links.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find link %s: %w", name, err)
	}
	for _, a := range addrs {
		if err := links.AddrAdd(l, onLink(a)); err != nil {
			return fmt.Errorf("add address %s: %w", a, err)
		}
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

// nic is the name of a host's network interface.
const nic = "eth0"

// plug connects eth0 of the host with the switch and gives it its addresses and
// the default routes.
func (h *Host) plug() {
	h.t.Helper()
	n, m := h.network, h.on()
	addrs := h.addresses()
	if len(addrs) == 0 {
		participant := n.take()
		addrs = n.addresses(participant)
		h.mu.Lock()
		h.addrs, h.mac = addrs, hardware(n.number, participant)
		h.mu.Unlock()
	}
	m.port = fmt.Sprintf("port%d", counter.Add(1))
	err := withLinks(n.ns, func(links *netlink.Handle) error {
		l, err := links.LinkByName(bridge)
		if err != nil {
			return err
		}
		veth := &netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: m.port, MasterIndex: l.Attrs().Index},
			PeerName:  nic, PeerNamespace: netlink.NsFd(m.netns.Fd()), PeerHardwareAddr: h.mac,
		}
		if err := links.LinkAdd(veth); err != nil {
			return fmt.Errorf("add veth pair: %w", err)
		}
		return up(links, m.port)
	})
	if err == nil {
		err = withLinks(m.netns, func(links *netlink.Handle) error {
			if err := addAddresses(links, nic, addrs); err != nil {
				return err
			}
			return n.routeOut(links, addrs)
		})
	}
	if err == nil {
		err = h.applyTrouble(m)
	}
	if err != nil {
		h.t.Fatalf("plug host %s in: %v", h.name, err)
	}
}

// take reserves the next participant's number.
func (n *Network) take() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.next++
	return n.next
}

// routeOut makes the default routes of a host with the addresses.
func (n *Network) routeOut(links *netlink.Handle, addrs []netip.Addr) error {
	for _, gw := range n.addresses(1) {
		if !slices.ContainsFunc(addrs, func(a netip.Addr) bool { return a.Is4() == gw.Is4() }) {
			continue
		}
		if err := links.RouteReplace(&netlink.Route{Gw: gw.AsSlice()}); err != nil {
			return fmt.Errorf("add default route by %s: %w", gw, err)
		}
	}
	return nil
}

// Readdress takes the host's addresses away and gives it others at once, as a
// DHCP server may: the given ones, which must be of the network's prefixes, or
// else the next free of each family.
func (h *Host) Readdress(to ...string) {
	h.t.Helper()
	n, m := h.network, h.on()
	var addrs []netip.Addr
	for _, s := range to {
		a, err := netip.ParseAddr(s)
		if err != nil {
			h.t.Fatalf("change the address of host %s: %v", h.name, err)
		}
		addrs = append(addrs, a)
	}
	if len(to) == 0 {
		addrs = n.addresses(n.take())
	}
	old := h.addresses()
	err := withLinks(m.netns, func(links *netlink.Handle) error {
		l, err := links.LinkByName(nic)
		if err != nil {
			return err
		}
		for _, a := range old {
			if err := links.AddrDel(l, onLink(a)); err != nil {
				return fmt.Errorf("remove address %s: %w", a, err)
			}
		}
		if err := addAddresses(links, nic, addrs); err != nil {
			return err
		}
		return n.routeOut(links, addrs)
	})
	if err != nil {
		h.t.Fatalf("change the address of host %s: %v", h.name, err)
	}
	h.mu.Lock()
	h.addrs = addrs
	h.mu.Unlock()
}

// hardware makes the address of a network card. It is the same after a power
// cut and after a change of the IP address, as a card's is.
func hardware(network, participant int) net.HardwareAddr {
	return net.HardwareAddr{0x02, 0, 0, 99, byte(network), byte(participant)}
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

// Cable sets whether the host's network cable is plugged in. Without it eth0
// has no carrier, and keeps its addresses.
func (h *Host) Cable(in bool) {
	h.t.Helper()
	m := h.on()
	err := withLinks(h.network.ns, func(links *netlink.Handle) error {
		l, err := links.LinkByName(m.port)
		if err != nil {
			return err
		}
		if in {
			return links.LinkSetUp(l)
		}
		return links.LinkSetDown(l)
	})
	if err != nil {
		h.t.Fatalf("set the cable of host %s: %v", h.name, err)
	}
}
