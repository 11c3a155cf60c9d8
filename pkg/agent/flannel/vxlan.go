package flannel

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"skiff/pkg/paths"
)

// The tunnel's numbers are flannel's.
const (
	vni       = 1
	vxlanPort = 8472
)

// vxlan puts packets for another node's pods into UDP packets to that node. For
// each family there is an interface; to know where to, the kernel takes three
// steps: the route to a node's pods leads to their first address, a neighbour
// entry has a link-layer address for it, which is that of the node's interface,
// and a forwarding entry says which node has that.
type vxlan struct {
	logger *slog.Logger
	names  []string // of the interfaces in use
	mac    net.HardwareAddr
	index  map[string]int
	own    []netip.Prefix
}

var _ backend = (*vxlan)(nil)

// vtep is what others must know of a tunnel's end.
type vtep struct {
	VNI     int
	VtepMAC string
}

// prepare implements backend.
func (v *vxlan) prepare(n network, u underlay) (v4, v6 []byte, err error) {
	v.names, v.index, v.own = nil, map[string]int{}, n.PodCIDR
	if v.mac, err = net.ParseMAC(n.MAC); err != nil {
		return nil, nil, fmt.Errorf("make the tunnel: %w", err)
	}
	data, err := json.Marshal(vtep{vni, n.MAC})
	if err != nil {
		return nil, nil, fmt.Errorf("make the tunnel: %w", err)
	}
	for _, pods := range n.PodCIDR {
		local := u.addr(pods)
		if !local.IsValid() {
			return nil, nil, noAddress(u, pods)
		}
		name := tunnelV6
		if pods.Addr().Is4() {
			name, v4 = tunnelV4, data
		} else {
			v6 = data
		}
		index, err := v.ensure(name, n.MTU, local, u, pods)
		if err != nil {
			return nil, nil, fmt.Errorf("make the tunnel %s: %w", name, err)
		}
		v.names = append(v.names, name)
		v.index[name] = index
	}
	for _, name := range []string{tunnelV4, tunnelV6} {
		if _, used := v.index[name]; !used {
			if err := removeLink(name); err != nil {
				return nil, nil, err
			}
		}
	}
	return v4, v6, nil
}

// ensure makes the interface, or keeps the one that is there if it is the same.
func (v *vxlan) ensure(name string, mtu int, local netip.Addr, u underlay, pods netip.Prefix) (int, error) {
	want := &netlink.Vxlan{
		LinkAttrs: netlink.LinkAttrs{Name: name, HardwareAddr: v.mac, MTU: mtu},
		VxlanId:   vni, Port: vxlanPort, VtepDevIndex: u.index, SrcAddr: local.AsSlice(),
	}
	link, err := netlink.LinkByName(name)
	if err == nil && !sameTunnel(link, want) {
		if err := netlink.LinkDel(link); err != nil {
			return 0, fmt.Errorf("remove the old one: %w", err)
		}
		link, err = netlink.LinkByName(name)
	}
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		if err := addTunnel(want); err != nil {
			return 0, err
		}
		link, err = netlink.LinkByName(name)
	}
	if err != nil {
		return 0, err
	}
	if link.Attrs().MTU != mtu {
		if err := netlink.LinkSetMTU(link, mtu); err != nil {
			return 0, fmt.Errorf("set MTU %d: %w", mtu, err)
		}
	}
	// Checksums that a network card is to fill in later are wrong on many of
	// them, and in some kernels after kube-proxy has changed an address, once
	// the packet is inside another: UDP, that is DNS, is lost.
	if err := checksumInSoftware(name); err != nil {
		v.logger.Warn("checksums in the tunnel may be left to the network card, which some get wrong", "interface", name, "error", err)
	}
	// Nothing to be learnt from routers in there.
	_ = os.WriteFile(filepath.Join(paths.Sysctl, "net/ipv6/conf", name, "accept_ra"), []byte("0"), 0) // no IPv6: nothing to be learnt
	first := netip.PrefixFrom(pods.Masked().Addr(), pods.Addr().BitLen())
	if err := ensureAddresses(link, []*net.IPNet{ipNet(first)}); err != nil {
		return 0, err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return 0, fmt.Errorf("set it up: %w", err)
	}
	return link.Attrs().Index, nil
}

// addTunnel adds the interface, with the kernel's module if need be.
func addTunnel(want *netlink.Vxlan) error {
	err := netlink.LinkAdd(want)
	if !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	if missing := loadModule("vxlan"); missing != nil {
		return fmt.Errorf("the kernel cannot do VXLAN: %w; install its module, or use --flannel-backend=host-gw where all nodes are on one link", missing)
	}
	return netlink.LinkAdd(want)
}

func sameTunnel(link netlink.Link, want *netlink.Vxlan) bool {
	have, ok := link.(*netlink.Vxlan)
	return ok && have.VxlanId == want.VxlanId && have.Port == want.Port && have.VtepDevIndex == want.VtepDevIndex &&
		have.SrcAddr.Equal(want.SrcAddr) && !have.Learning && bytes.Equal(have.HardwareAddr, want.HardwareAddr)
}

// way leads to one node in one family.
type way struct {
	pods netip.Prefix
	node netip.Addr
	mac  net.HardwareAddr
}

// lead implements backend.
func (v *vxlan) lead(peers []peer) error {
	var errs []error
	ways := map[string][]way{}
	taken := map[string]string{v.mac.String(): "this node"}
	for _, p := range peers {
		for _, pods := range p.pods {
			w, err := wayTo(p, pods)
			name := tunnelV6
			if pods.Addr().Is4() {
				name = tunnelV4
			}
			if other := taken[w.mac.String()]; err == nil && other != "" && other != p.name {
				err = fmt.Errorf("its tunnel has the link-layer address %s of %s", w.mac, other)
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("reach the pods of node %s: %w", p.name, err))
				continue
			}
			taken[w.mac.String()] = p.name
			ways[name] = append(ways[name], w)
		}
	}
	for _, name := range v.names {
		link, err := netlink.LinkByName(name)
		if err != nil {
			errs = append(errs, fmt.Errorf("find interface %s: %w", name, err))
			continue
		}
		if err := leadThrough(link, v.own, ways[name]); err != nil {
			errs = append(errs, fmt.Errorf("by interface %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

func wayTo(p peer, pods netip.Prefix) (way, error) {
	e := p.at(pods)
	var data vtep
	if err := json.Unmarshal(e.data, &data); err != nil {
		return way{}, fmt.Errorf("read what it says of its tunnel: %w", err)
	}
	mac, err := net.ParseMAC(data.VtepMAC)
	if err != nil || len(mac) != 6 {
		return way{}, fmt.Errorf("read what it says of its tunnel: link-layer address %q: %w", data.VtepMAC, err)
	}
	if data.VNI != vni {
		return way{}, fmt.Errorf("its tunnel has number %d, this one's %d", data.VNI, vni)
	}
	return way{pods: pods, node: e.addr, mac: mac}, nil
}

// leadThrough makes the tables of one tunnel those of the ways.
func leadThrough(link netlink.Link, own []netip.Prefix, ways []way) error {
	index, family := link.Attrs().Index, netlink.FAMILY_V4
	if link.Attrs().Name == tunnelV6 {
		family = netlink.FAMILY_V6
	}
	var wantRoutes []*netlink.Route
	neighbours, forwards := map[string]*netlink.Neigh{}, map[string]*netlink.Neigh{}
	for _, w := range ways {
		first, node := net.IP(w.pods.Addr().AsSlice()), net.IP(w.node.AsSlice())
		wantRoutes = append(wantRoutes, &netlink.Route{LinkIndex: index, Scope: netlink.SCOPE_UNIVERSE, Dst: ipNet(w.pods), Gw: first, Src: source(own, w.pods), Flags: int(netlink.FLAG_ONLINK), Protocol: protocol})
		neighbours[entryKey(first, w.mac)] = &netlink.Neigh{LinkIndex: index, State: netlink.NUD_PERMANENT, Type: unix.RTN_UNICAST, IP: first, HardwareAddr: w.mac}
		forwards[entryKey(node, w.mac)] = &netlink.Neigh{LinkIndex: index, State: netlink.NUD_PERMANENT, Family: unix.AF_BRIDGE, Flags: netlink.NTF_SELF, IP: node, HardwareAddr: w.mac}
	}
	haveRoutes, err := netlink.RouteListFiltered(family, &netlink.Route{LinkIndex: index}, netlink.RT_FILTER_OIF)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	haveRoutes = withGateway(haveRoutes)
	return routes(haveRoutes, wantRoutes, func() error {
		return errors.Join(entries(index, family, "neighbour", neighbours), entries(index, unix.AF_BRIDGE, "forwarding entry", forwards))
	})
}

// withGateway leaves out those that the kernel makes for the interface.
func withGateway(all []netlink.Route) []netlink.Route {
	var out []netlink.Route
	for _, r := range all {
		if len(r.Gw) > 0 {
			out = append(out, r)
		}
	}
	return out
}

func entryKey(ip net.IP, mac net.HardwareAddr) string { return ip.String() + " " + mac.String() }

// entries makes the permanent entries of an interface in the table of a family
// those wanted.
func entries(index, family int, kind string, want map[string]*netlink.Neigh) error {
	list, err := netlink.NeighList(index, family)
	if err != nil {
		return fmt.Errorf("list %ss: %w", kind, err)
	}
	var errs []error
	there := map[string]bool{}
	for _, e := range list {
		if e.State&netlink.NUD_PERMANENT == 0 || len(e.IP) == 0 || e.IP.IsUnspecified() {
			continue
		}
		key := entryKey(e.IP, e.HardwareAddr)
		if want[key] != nil {
			there[key] = true
			continue
		}
		old := &netlink.Neigh{LinkIndex: index, State: netlink.NUD_PERMANENT, Family: e.Family, IP: e.IP, HardwareAddr: e.HardwareAddr}
		if family == unix.AF_BRIDGE {
			old.Family, old.Flags = unix.AF_BRIDGE, netlink.NTF_SELF
		}
		// What is gone, somebody else has removed.
		if err := netlink.NeighDel(old); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("remove %s %s: %w", kind, key, err))
		}
	}
	for key, e := range want {
		if there[key] {
			continue
		}
		if err := netlink.NeighSet(e); err != nil {
			errs = append(errs, fmt.Errorf("set %s %s: %w", kind, key, err))
		}
	}
	return errors.Join(errs...)
}

// intact implements backend.
func (v *vxlan) intact() bool {
	for name, index := range v.index {
		if link, err := netlink.LinkByName(name); err != nil || link.Attrs().Index != index {
			return false
		}
	}
	return true
}
