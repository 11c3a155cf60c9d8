package flannel

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// hostGW sends packets for another node's pods to that node, as they are. Both
// must be on one link.
type hostGW struct {
	u   underlay
	own []netip.Prefix
}

var _ backend = (*hostGW)(nil)

// prepare implements backend.
func (h *hostGW) prepare(n network, u underlay) (v4, v6 []byte, err error) {
	h.u, h.own = u, n.PodCIDR
	for _, pods := range n.PodCIDR {
		switch {
		case !u.addr(pods).IsValid():
			return nil, nil, noAddress(u, pods)
		case pods.Addr().Is4():
			v4 = []byte("null")
		default:
			v6 = []byte("null")
		}
	}
	return v4, v6, nil
}

// lead implements backend.
func (h *hostGW) lead(peers []peer) error {
	var errs []error
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		var want []*netlink.Route
		for _, p := range peers {
			for _, pods := range p.pods {
				if familyOf(pods.Addr()) != family {
					continue
				}
				node := p.at(pods).addr
				if err := h.onLink(node); err != nil {
					errs = append(errs, fmt.Errorf("reach the pods of node %s: %w", p.name, err))
					continue
				}
				want = append(want, &netlink.Route{Dst: ipNet(pods), Gw: node.AsSlice(), LinkIndex: h.u.index, Src: source(h.own, pods), Protocol: protocol})
			}
		}
		have, err := netlink.RouteListFiltered(family, &netlink.Route{Protocol: protocol}, netlink.RT_FILTER_PROTOCOL)
		if err != nil {
			errs = append(errs, fmt.Errorf("list routes: %w", err))
			continue
		}
		// Those of the other back ends go with their interfaces.
		errs = append(errs, routes(have, want, func() error { return nil }))
	}
	return errors.Join(errs...)
}

// errNotOnLink says that nodes are too far from each other.
var errNotOnLink = errors.New("it is not on the same link, which --flannel-backend=host-gw needs; use vxlan")

// onLink reports whether packets get to the node without a router.
func (h *hostGW) onLink(node netip.Addr) error {
	found, err := netlink.RouteGetWithOptions(node.AsSlice(), &netlink.RouteGetOptions{OifIndex: h.u.index})
	if err != nil && !errors.Is(err, unix.ENETUNREACH) && !errors.Is(err, unix.EHOSTUNREACH) {
		return fmt.Errorf("find the route to %s: %w", node, err)
	}
	for _, r := range found {
		if len(r.Gw) == 0 && r.LinkIndex == h.u.index {
			return nil
		}
	}
	return fmt.Errorf("its address %s is behind a router of %s: %w", node, h.u.name, errNotOnLink)
}

// intact implements backend.
func (h *hostGW) intact() bool { return true }

func noAddress(u underlay, pods netip.Prefix) error {
	family := "IPv6"
	if pods.Addr().Is4() {
		family = "IPv4"
	}
	return fmt.Errorf("interface %s has no %s address by which other nodes could reach pods in %s; give it one, or choose another by --flannel-iface", u.name, family, pods)
}
