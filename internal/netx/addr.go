// Package netx looks at and changes the host's addresses. It knows nothing of
// clusters. Start reading at DefaultRouteAddress.
package netx

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ErrNoAddress says that the host has no address of the wanted kind.
var ErrNoAddress = errors.New("no usable address")

// DefaultRouteAddress returns the address the host uses towards the internet:
// the preferred source of the best default route, else the first usable address
// of that route's interface. IPv4 is looked at before IPv6. Without a default
// route the error is ErrNoAddress.
func DefaultRouteAddress() (netip.Addr, error) {
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		addr, err := defaultRouteAddress(family)
		if err == nil || !errors.Is(err, ErrNoAddress) {
			return addr, err
		}
	}
	return netip.Addr{}, fmt.Errorf("find default route: %w", ErrNoAddress)
}

// DefaultRouteAddresses returns DefaultRouteAddress of each family that has one,
// IPv4 first.
func DefaultRouteAddresses() ([]netip.Addr, error) {
	var out []netip.Addr
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		addr, err := defaultRouteAddress(family)
		switch {
		case err == nil:
			out = append(out, addr)
		case !errors.Is(err, ErrNoAddress):
			return nil, err
		}
	}
	return out, nil
}

func defaultRouteAddress(family int) (netip.Addr, error) {
	routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	if err != nil {
		if errors.Is(err, unix.EAFNOSUPPORT) {
			return netip.Addr{}, ErrNoAddress
		}
		return netip.Addr{}, fmt.Errorf("list routes: %w", err)
	}
	routes = slices.DeleteFunc(routes, func(r netlink.Route) bool { return !isDefault(r) })
	slices.SortStableFunc(routes, func(a, b netlink.Route) int { return cmp.Compare(a.Priority, b.Priority) })
	for _, r := range routes {
		if src, ok := netip.AddrFromSlice(r.Src); ok && usable(src.Unmap()) {
			return src.Unmap(), nil
		}
		for _, index := range linkIndexes(r) {
			addrs, err := linkAddresses(index, family)
			if err != nil {
				return netip.Addr{}, err
			}
			if len(addrs) > 0 {
				return addrs[0], nil
			}
		}
	}
	return netip.Addr{}, ErrNoAddress
}

// isDefault reports whether r forwards everything. The library gives the
// destination of a default route as nil or as 0.0.0.0/0, by version.
func isDefault(r netlink.Route) bool {
	if r.Type != unix.RTN_UNICAST {
		return false
	}
	if r.Dst == nil {
		return true
	}
	ones, _ := r.Dst.Mask.Size()
	return ones == 0 && r.Dst.IP.IsUnspecified()
}

func linkIndexes(r netlink.Route) []int {
	if r.LinkIndex != 0 {
		return []int{r.LinkIndex}
	}
	var all []int
	for _, hop := range r.MultiPath {
		all = append(all, hop.LinkIndex)
	}
	return all
}

// linkAddresses returns the usable addresses of one interface in the kernel's
// order, those of global scope only.
func linkAddresses(index, family int) ([]netip.Addr, error) {
	link, err := netlink.LinkByIndex(index)
	if err != nil {
		return nil, fmt.Errorf("look up interface %d: %w", index, err)
	}
	list, err := netlink.AddrList(link, family)
	if err != nil {
		return nil, fmt.Errorf("list addresses of %s: %w", link.Attrs().Name, err)
	}
	var addrs []netip.Addr
	for _, a := range list {
		addr, ok := netip.AddrFromSlice(a.IP)
		if ok && usable(addr.Unmap()) && a.Scope == unix.RT_SCOPE_UNIVERSE && a.Flags&unix.IFA_F_TENTATIVE == 0 && !fleeting(addr.Unmap(), a.Flags) {
			addrs = append(addrs, addr.Unmap())
		}
	}
	return addrs, nil
}

// fleeting reports whether an IPv6 address is one that the host changes every
// day for the sake of privacy, or will give up soon. For IPv4 the same bit says
// that it is not the first of its network.
func fleeting(a netip.Addr, flags int) bool {
	return a.Is6() && flags&(unix.IFA_F_TEMPORARY|unix.IFA_F_DEPRECATED) != 0
}

// HostAddresses returns every address of the host that others may reach it by,
// IPv4 first: not loopback, not link-local. Addresses of global scope that lie
// on the loopback interface are included.
func HostAddresses() ([]netip.Addr, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	var addrs []netip.Addr
	for _, l := range links {
		if l.Attrs().Flags&net.FlagUp == 0 {
			continue
		}
		of, err := linkAddresses(l.Attrs().Index, unix.AF_UNSPEC)
		if err != nil {
			return nil, err
		}
		addrs = append(addrs, of...)
	}
	slices.SortStableFunc(addrs, func(a, b netip.Addr) int { return cmp.Compare(a.BitLen(), b.BitLen()) })
	return addrs, nil
}

// HasAddress reports whether an interface of the host carries addr.
func HasAddress(addr netip.Addr) (bool, error) {
	list, err := netlink.AddrList(nil, unix.AF_UNSPEC)
	if err != nil {
		return false, fmt.Errorf("list addresses: %w", err)
	}
	return slices.ContainsFunc(list, func(a netlink.Addr) bool {
		have, ok := netip.AddrFromSlice(a.IP)
		return ok && have.Unmap() == addr
	}), nil
}

func usable(a netip.Addr) bool {
	return a.IsGlobalUnicast() // Excludes loopback, link-local, multicast and unspecified.
}

// AddLoopbackAddress puts addr on the loopback interface with its full prefix
// length and global scope, and brings the interface up. An address that is
// there already is left as it is.
func AddLoopbackAddress(addr netip.Addr) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("look up interface lo: %w", err)
	}
	if lo.Attrs().Flags&net.FlagUp == 0 {
		if err := netlink.LinkSetUp(lo); err != nil {
			return fmt.Errorf("bring up interface lo: %w", err)
		}
	}
	bits := addr.BitLen()
	a := &netlink.Addr{
		IPNet: &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(bits, bits)},
		Scope: unix.RT_SCOPE_UNIVERSE,
	}
	if err := netlink.AddrAdd(lo, a); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add %s to interface lo: %w", addr, err)
	}
	return nil
}

// RemoveLoopbackAddress undoes AddLoopbackAddress. An address that is not
// there is no error.
func RemoveLoopbackAddress(addr netip.Addr) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("look up interface lo: %w", err)
	}
	bits := addr.BitLen()
	a := &netlink.Addr{IPNet: &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(bits, bits)}}
	if err := netlink.AddrDel(lo, a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return fmt.Errorf("remove %s from interface lo: %w", addr, err)
	}
	return nil
}
