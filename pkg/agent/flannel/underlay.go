package flannel

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"skiff/internal/netx"
)

// underlay is the interface by which other nodes are reached.
type underlay struct {
	name   string
	index  int
	mtu    int
	v4, v6 netip.Addr // not valid: none of the family
}

// addr is the interface's address in the family of the pods' range.
func (u underlay) addr(pods netip.Prefix) netip.Addr {
	if pods.Addr().Is4() {
		return u.v4
	}
	return u.v6
}

// underlay finds the interface: the one that --flannel-iface names, else the
// one with the node's address, else the one with the default route, else the
// first real one. It is nil while there is none.
func (f *Flannel) underlay() (*underlay, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	route, _ := netx.DefaultRouteAddress() // none is as good as an unknown one
	var found *underlay
	node := f.NodeIP()
	best := 0
	for _, link := range links {
		a := link.Attrs()
		if f.Interface != "" && a.Name != f.Interface || f.Interface == "" && (a.Flags&net.FlagLoopback != 0 || ours(a.Name)) || a.Flags&net.FlagUp == 0 {
			continue
		}
		addrs, err := netlink.AddrList(link, netlink.FAMILY_ALL)
		if err != nil {
			return nil, fmt.Errorf("list addresses of %s: %w", a.Name, err)
		}
		u := &underlay{name: a.Name, index: a.Index, mtu: a.MTU}
		score := u.choose(f.usable(addrs, node), node, route)
		if score > best {
			found, best = u, score
		}
	}
	return found, nil
}

// usable are the addresses that other nodes may send to.
func (f *Flannel) usable(list []netlink.Addr, node []netip.Addr) []netip.Addr {
	var out []netip.Addr
	for _, a := range list {
		addr, ok := netip.AddrFromSlice(a.IP)
		addr = addr.Unmap()
		if !ok || !addr.IsGlobalUnicast() || a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DEPRECATED) != 0 || within(f.PodCIDR, netip.PrefixFrom(addr, addr.BitLen())) {
			continue
		}
		// Those that change by themselves are IPv6's way to hide; they come last.
		if a.Flags&unix.IFA_F_TEMPORARY != 0 && addr.Is6() && !slices.Contains(node, addr) {
			continue
		}
		out = append(out, addr)
	}
	return out
}

// choose takes an address of each family, the node's own if it is there, and
// says how good the interface is; 0 is useless.
func (u *underlay) choose(addrs, node []netip.Addr, route netip.Addr) (score int) {
	for _, a := range addrs {
		to := &u.v6
		if a.Is4() {
			to = &u.v4
		}
		own := slices.Contains(node, a)
		if !to.IsValid() || own && !slices.Contains(node, *to) {
			*to = a
		}
		switch {
		case own:
			score = max(score, 3)
		case a == route:
			score = max(score, 2)
		default:
			score = max(score, 1)
		}
	}
	return score
}

// ours reports whether an interface is a part of the pod network itself, or of
// another container engine.
func ours(name string) bool {
	return slices.ContainsFunc([]string{Bridge, "flannel", "veth", "docker", "br-", "virbr", "kube-"}, func(prefix string) bool {
		return strings.HasPrefix(name, prefix)
	})
}
