package support

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// writeInterfaces shows links, addresses, routes, rules and neighbours. Each is
// shown as far as the kernel tells.
func writeInterfaces(_ context.Context, w io.Writer) error {
	var errs []error
	links, err := netlink.LinkList()
	errs = append(errs, err)
	names := map[int]string{0: "-"}
	for _, l := range links {
		a := l.Attrs()
		names[a.Index] = a.Name
		fmt.Fprintf(w, "link %d %s %s mtu %d %s %s mac %s master %d\n", a.Index, a.Name, l.Type(), a.MTU, a.OperState, a.Flags, a.HardwareAddr, a.MasterIndex)
		addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		errs = append(errs, err)
		for _, addr := range addrs {
			fmt.Fprintf(w, "  address %s scope %d\n", addr.IPNet, addr.Scope)
		}
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		rules, err := netlink.RuleList(family)
		errs = append(errs, err)
		for _, r := range rules {
			fmt.Fprintf(w, "rule %s\n", r)
		}
		routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		errs = append(errs, err)
		for _, r := range routes {
			dst := "default"
			if r.Dst != nil {
				dst = r.Dst.String()
			}
			fmt.Fprintf(w, "route table %d %s via %s dev %s src %s metric %d type %d\n", r.Table, dst, r.Gw, names[r.LinkIndex], r.Src, r.Priority, r.Type)
		}
		neighbours, err := netlink.NeighList(0, family)
		errs = append(errs, err)
		for _, n := range neighbours {
			fmt.Fprintf(w, "neighbour %s dev %s mac %s state %#x\n", n.IP, names[n.LinkIndex], n.HardwareAddr, n.State)
		}
	}
	return errors.Join(errs...)
}
