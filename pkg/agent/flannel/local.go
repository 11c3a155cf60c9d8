package flannel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"sigs.k8s.io/knftables"

	"skiff/internal/atomicfile"
)

// conflistName sorts before what a person may put beside it: containerd takes
// the first file only.
const conflistName = "10-flannel.conflist"

func (f *Flannel) load() (*network, error) {
	data, err := os.ReadFile(f.Layout.Network())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read pod network: %w", err)
	}
	var n network
	if err := json.Unmarshal(data, &n); err != nil || len(n.PodCIDR) == 0 {
		// It is only a copy of what the Node object says.
		f.Logger.Warn("remembered pod network ignored", "file", f.Layout.Network(), "error", err)
		return nil, nil
	}
	for _, p := range n.PodCIDR {
		if !within(f.PodCIDR, p) {
			return nil, nil
		}
	}
	return &n, nil
}

func (f *Flannel) save(n network) error {
	data, err := json.Marshal(n)
	if err != nil {
		return fmt.Errorf("save pod network: %w", err)
	}
	if err := atomicfile.Write(f.Layout.Network(), data, 0o600); err != nil {
		return fmt.Errorf("save pod network: %w", err)
	}
	return nil
}

// ensureBridge makes the bridge as the bridge plug-in would when the first pod
// comes, so that the node's side of it can be listened on before.
func ensureBridge(n network) error {
	link, err := netlink.LinkByName(Bridge)
	var missing netlink.LinkNotFoundError
	switch {
	case errors.As(err, &missing):
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = Bridge, n.MTU
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return fmt.Errorf("add bridge %s: %w", Bridge, err)
		}
		if link, err = netlink.LinkByName(Bridge); err != nil {
			return fmt.Errorf("find bridge %s: %w", Bridge, err)
		}
		// An address set by hand stays; by itself it changes with the ports,
		// and pods would have to ask for it again.
		if err := netlink.LinkSetHardwareAddr(link, link.Attrs().HardwareAddr); err != nil {
			return fmt.Errorf("set address of bridge %s: %w", Bridge, err)
		}
	case err != nil:
		return fmt.Errorf("find bridge %s: %w", Bridge, err)
	case link.Type() != "bridge":
		return fmt.Errorf("there is an interface %s that is not a bridge but of type %q; remove it by: ip link delete %s", Bridge, link.Type(), Bridge)
	}
	if link.Attrs().MTU != n.MTU {
		if err := netlink.LinkSetMTU(link, n.MTU); err != nil {
			return fmt.Errorf("set MTU of bridge %s to %d: %w", Bridge, n.MTU, err)
		}
	}
	if err := ensureAddresses(link, gateways(n.PodCIDR)); err != nil {
		return fmt.Errorf("bridge %s: %w", Bridge, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set bridge %s up: %w", Bridge, err)
	}
	return nil
}

// gateways are the first addresses of each range.
func gateways(pods []netip.Prefix) []*net.IPNet {
	var out []*net.IPNet
	for _, p := range pods {
		out = append(out, gateway(p))
	}
	return out
}

// ensureAddresses gives link the addresses, and removes others of global scope,
// which are of ranges this node had before.
func ensureAddresses(link netlink.Link, addrs []*net.IPNet) error {
	want := map[string]*net.IPNet{}
	for _, a := range addrs {
		want[a.String()] = a
	}
	have, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range have {
		if a.Scope != unix.RT_SCOPE_UNIVERSE {
			continue
		}
		if want[a.IPNet.String()] != nil {
			delete(want, a.IPNet.String())
			continue
		}
		if err := netlink.AddrDel(link, &a); err != nil {
			return fmt.Errorf("remove address %s: %w", a.IPNet, err)
		}
	}
	for _, ipnet := range want {
		a := &netlink.Addr{IPNet: ipnet}
		if ipnet.IP.To4() == nil {
			a.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(link, a); err != nil {
			return fmt.Errorf("add address %s: %w", ipnet, err)
		}
	}
	return nil
}

// routeServices sends what this host sends to a Service towards the bridge,
// with the node's address as the source. It never gets there: kube-proxy puts
// an endpoint's address in place of the Service's on the way out. But without
// any route the kernel would refuse before that.
func (f *Flannel) routeServices() error {
	link, err := netlink.LinkByName(Bridge)
	if err != nil {
		return fmt.Errorf("route Services: %w", err)
	}
	for _, s := range f.ServiceCIDR {
		for _, ip := range f.NodeIP() {
			if ip.Is4() != s.Addr().Is4() {
				continue
			}
			route := &netlink.Route{
				LinkIndex: link.Attrs().Index,
				Dst:       &net.IPNet{IP: s.Masked().Addr().AsSlice(), Mask: net.CIDRMask(s.Bits(), ip.BitLen())},
				Src:       ip.AsSlice(),
				Scope:     netlink.SCOPE_LINK,
			}
			if err := netlink.RouteReplace(route); err != nil {
				return fmt.Errorf("route Services %s: %w", s, err)
			}
			break
		}
	}
	return nil
}

// gateway is the first address of a range, with the range's mask.
func gateway(p netip.Prefix) *net.IPNet {
	a := p.Masked().Addr().Next()
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(p.Bits(), a.BitLen())}
}

// writeCNI writes the network configuration that containerd gives to the
// plug-ins.
//
// Source: CNI specification 1.0.0 and the plug-ins' documentation on
// cni.dev/plugins.
func (f *Flannel) writeCNI(n network) error {
	type m = map[string]any
	var ranges []any
	for _, p := range n.PodCIDR {
		ranges = append(ranges, []m{{"subnet": p.Masked().String()}})
	}
	ipam := m{
		// It hands on to host-local.
		"type":   "announce",
		"gate":   f.Gate,
		"ranges": ranges,
		// Below /run, so that a reboot frees the addresses of pods that were
		// not taken down.
		"dataDir": f.allocations(),
		// Pods get them again, though: Services lead there.
		"memory": f.Layout.PodAddresses(),
	}
	list := m{
		"cniVersion": "1.0.0",
		"name":       networkName,
		"plugins": []m{
			{
				"type":             "bridge",
				"bridge":           Bridge,
				"isDefaultGateway": true,
				"hairpinMode":      true,
				"mtu":              n.MTU,
				"ipam":             ipam,
			},
			{"type": "portmap", "backend": "nftables", "snat": true, "capabilities": m{"portMappings": true}},
			{"type": "bandwidth", "capabilities": m{"bandwidth": true}},
			// Ours, see payload/announce.
			{"type": "announce"},
		},
	}
	data, err := json.MarshalIndent(list, "", "  ")
	if err != nil {
		return fmt.Errorf("write CNI configuration: %w", err)
	}
	if err := os.MkdirAll(f.Layout.CNIConf(), 0o755); err != nil {
		return fmt.Errorf("write CNI configuration: %w", err)
	}
	if err := atomicfile.Write(filepath.Join(f.Layout.CNIConf(), conflistName), append(data, '\n'), 0o644); err != nil {
		return fmt.Errorf("write CNI configuration: %w", err)
	}
	return nil
}

// networkName is that of the CNI network.
const networkName = "cbr0"

// allocations is where host-local keeps a file for each address of a pod, in a
// directory named like the network.
func (f *Flannel) allocations() string { return filepath.Join(f.Layout.CNIState(), "networks") }

// Allocated reports whether an address is given to a pod of this node.
func (f *Flannel) Allocated(ip netip.Addr) bool {
	_, err := os.Stat(filepath.Join(f.allocations(), networkName, ip.String()))
	return err == nil
}

// tableName is the nftables table that hides pods behind the node's address
// when they talk to the world outside of the cluster.
const tableName = "skiff-masquerade"

func (f *Flannel) masquerade(n network) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	nft, err := knftables.New(knftables.InetFamily, tableName)
	if err != nil {
		return fmt.Errorf("set up masquerading: %w", err)
	}
	tx := nft.NewTransaction()
	tx.Add(&knftables.Table{Comment: new("pods to the outside, written by skiff")})
	chain := &knftables.Chain{
		Name:     "postrouting",
		Type:     new(knftables.NATType),
		Hook:     new(knftables.PostroutingHook),
		Priority: new(knftables.SNATPriority),
	}
	tx.Add(chain)
	tx.Flush(chain)
	for _, rule := range f.rules(n) {
		tx.Add(&knftables.Rule{Chain: chain.Name, Rule: rule})
	}
	if err := nft.Run(ctx, tx); err != nil {
		return fmt.Errorf("set up masquerading: %w", err)
	}
	return nil
}

// rules are those of the postrouting chain.
func (f *Flannel) rules(n network) []string {
	var rules []string
	for _, own := range n.PodCIDR {
		family, multicast := "ip", "224.0.0.0/4"
		if own.Addr().Is6() {
			family, multicast = "ip6", "ff00::/8"
		}
		var cluster string
		for _, c := range f.PodCIDR {
			if c.Addr().Is4() == own.Addr().Is4() {
				cluster = c.Masked().String()
			}
		}
		if f.hides(own) {
			rules = append(rules, strings.Join([]string{family, "saddr", own.Masked().String(), family, "daddr != {", cluster, ",", multicast, "} masquerade fully-random"}, " "))
		}
		rules = append(rules,
			// From outside to a pod of another node, which would answer
			// past us.
			strings.Join([]string{family, "saddr !=", cluster, family, "daddr", cluster, family, "daddr !=", own.Masked().String(), "masquerade fully-random"}, " "))
	}
	return rules
}

// hides reports whether pods talk to the outside by the node's address. IPv6
// pods with addresses that are valid in the whole internet need not: answers
// find them. fc00::/7 is valid at home only.
func (f *Flannel) hides(pods netip.Prefix) bool {
	return pods.Addr().Is4() || pods.Addr().IsPrivate() || f.IPv6Masquerade
}
