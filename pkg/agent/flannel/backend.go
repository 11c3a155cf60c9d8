package flannel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// backend brings packets to the pods of other nodes. It looks at what the
// kernel has each time, and changes what differs: what an earlier run or
// somebody else has left goes, too.
type backend interface {
	// prepare makes what there is but once on this node, and returns what others
	// must know of it, in each family: JSON, or nil where the family is not
	// served.
	prepare(n network, u underlay) (v4, v6 []byte, err error)
	// lead makes the kernel lead to the pods of these nodes and no others. What
	// can be done is done, also if there is an error.
	lead(peers []peer) error
	// intact reports whether what prepare made is still there.
	intact() bool
}

// Interfaces, as flannel names them.
const (
	tunnelV4  = "flannel.1"
	tunnelV6  = "flannel-v6.1"
	wireguard = "flannel-wg"
)

// Bytes that are added to a packet on its way, by the family of the nodes'
// addresses.
const (
	vxlanOverhead     = 50
	vxlanOverheadV6   = 70
	wireguardOverhead = 80
	defaultMTU        = 1500
)

// overhead is what the back end adds to a packet.
func (f *Flannel) overhead() int {
	switch f.Backend {
	case BackendVXLAN:
		for _, p := range f.PodCIDR {
			if p.Addr().Is6() {
				return vxlanOverheadV6
			}
		}
		return vxlanOverhead
	case BackendWireGuard:
		return wireguardOverhead
	}
	return 0
}

func (f *Flannel) newBackend() backend {
	switch f.Backend {
	case BackendHostGW:
		return &hostGW{}
	case BackendWireGuard:
		return &wireGuard{keyFile: f.Layout.WireGuardKey(), keepAlive: len(f.ExternalIP) > 0}
	}
	return &vxlan{logger: f.Logger}
}

// protocol marks the routes that are made here: the number that the kernel
// keeps of who made a route.
const protocol = netlink.RouteProtocol(83)

// removeOthers removes what other back ends of an earlier run have left.
func removeOthers(name string) error {
	left := map[string]bool{tunnelV4: name != BackendVXLAN, tunnelV6: name != BackendVXLAN, wireguard: name != BackendWireGuard}
	var errs []error
	for link, remove := range left {
		if !remove {
			continue
		}
		if err := removeLink(link); err != nil {
			errs = append(errs, err)
		}
	}
	if name != BackendHostGW {
		errs = append(errs, (&hostGW{}).lead(nil))
	}
	return errors.Join(errs...)
}

func removeLink(name string) error {
	link, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if err != nil {
		return fmt.Errorf("remove interface %s: %w", name, err)
	}
	return nil
}

// routes makes the kernel's routes those wanted: have are those that may be
// taken away. unwanted ones go before fn is called, wanted ones come after it:
// the kernel would ask for what is missing behind a route.
func routes(have []netlink.Route, want []*netlink.Route, fn func() error) error {
	key := func(r *netlink.Route) string { return fmt.Sprint(r.Dst, r.Gw, r.LinkIndex, r.Src) }
	there, wanted := map[string]bool{}, map[string]bool{}
	for _, r := range want {
		wanted[key(r)] = true
	}
	var errs []error
	for _, r := range have {
		if wanted[key(&r)] {
			there[key(&r)] = true
			continue
		}
		if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("remove route to %s: %w", r.Dst, err))
		}
	}
	errs = append(errs, fn())
	for _, r := range want {
		if there[key(r)] {
			continue
		}
		if err := netlink.RouteReplace(r); err != nil {
			errs = append(errs, fmt.Errorf("set route to %s: %w", r.Dst, err))
		}
	}
	return errors.Join(errs...)
}

// source is the address by which this host calls pods of others: the one by
// which its own pods know it. Policies can tell it from other nodes' pods.
func source(own []netip.Prefix, pods netip.Prefix) net.IP {
	for _, p := range own {
		if p.Addr().Is4() == pods.Addr().Is4() {
			return gateway(p).IP
		}
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Masked().Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func familyOf(a netip.Addr) int {
	if a.Is4() {
		return netlink.FAMILY_V4
	}
	return netlink.FAMILY_V6
}
