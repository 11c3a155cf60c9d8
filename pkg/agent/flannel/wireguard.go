package flannel

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"skiff/internal/atomicfile"
)

const (
	wireguardPort = 51820
	// keepAlive is how often a router that translates addresses is reminded of
	// us, where nodes reach each other by external addresses.
	keepAlive = 25 * time.Second
)

// wireGuard encrypts packets for other nodes' pods. One interface serves both
// families of pods, whichever of its addresses a node is reached by; the
// kernel takes a packet from a node only if it comes from one of its pods.
type wireGuard struct {
	keyFile   string
	keepAlive bool

	index int
	own   []netip.Prefix
	key   wgtypes.Key
	v4    bool // nodes are reached by IPv4, if they can
}

var _ backend = (*wireGuard)(nil)

// publicKey is what others must know.
type publicKey struct{ PublicKey string }

// prepare implements backend.
func (w *wireGuard) prepare(n network, u underlay) (v4, v6 []byte, err error) {
	if w.key, err = loadKey(w.keyFile); err != nil {
		return nil, nil, err
	}
	w.own, w.v4 = n.PodCIDR, u.v4.IsValid()
	if err := addWireGuard(); err != nil {
		return nil, nil, err
	}
	link, err := netlink.LinkByName(wireguard)
	if err != nil {
		return nil, nil, fmt.Errorf("find interface %s: %w", wireguard, err)
	}
	w.index = link.Attrs().Index
	if err := netlink.LinkSetMTU(link, n.MTU); err != nil {
		return nil, nil, fmt.Errorf("set MTU of %s to %d: %w", wireguard, n.MTU, err)
	}
	var first []*net.IPNet
	for _, p := range n.PodCIDR {
		first = append(first, ipNet(netip.PrefixFrom(p.Masked().Addr(), p.Addr().BitLen())))
	}
	if err := ensureAddresses(link, first); err != nil {
		return nil, nil, fmt.Errorf("interface %s: %w", wireguard, err)
	}
	port := wireguardPort
	if err := configure(wgtypes.Config{PrivateKey: &w.key, ListenPort: &port}); err != nil {
		return nil, nil, err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return nil, nil, fmt.Errorf("set interface %s up: %w", wireguard, err)
	}
	data, err := json.Marshal(publicKey{w.key.PublicKey().String()})
	if err != nil {
		return nil, nil, fmt.Errorf("encode the public key: %w", err)
	}
	if u.v4.IsValid() {
		v4 = data
	}
	if u.v6.IsValid() {
		v6 = data
	}
	return v4, v6, nil
}

// addWireGuard makes the interface, with the kernel's module if need be.
func addWireGuard() error {
	add := func() error {
		return netlink.LinkAdd(&netlink.Wireguard{LinkAttrs: netlink.LinkAttrs{Name: wireguard}})
	}
	err := add()
	if errors.Is(err, unix.EOPNOTSUPP) {
		if missing := loadModule(wireguardModule); missing != nil {
			return fmt.Errorf("the kernel has no WireGuard, which --flannel-backend=%s needs: %w; Linux has the module wireguard since 5.6: install the kernel's package of modules (try: modprobe wireguard), or use --flannel-backend=vxlan on every server", BackendWireGuard, missing)
		}
		err = add()
	}
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add interface %s: %w", wireguard, err)
	}
	return nil
}

// wireguardModule is what the kernel calls it.
const wireguardModule = "wireguard"

// loadKey reads the node's private key, or makes one. It never leaves the node.
func loadKey(file string) (wgtypes.Key, error) {
	data, err := os.ReadFile(file)
	if err == nil {
		key, err := wgtypes.ParseKey(strings.TrimSpace(string(data)))
		if err == nil {
			return key, nil
		}
		// A new one takes the place of what was cut off by a loss of power.
	} else if !errors.Is(err, fs.ErrNotExist) {
		return wgtypes.Key{}, fmt.Errorf("read the WireGuard key: %w", err)
	}
	key, err := wgtypes.GeneratePrivateKey()
	if err == nil {
		err = atomicfile.Write(file, []byte(key.String()+"\n"), 0o600)
	}
	if err != nil {
		return wgtypes.Key{}, fmt.Errorf("make a WireGuard key: %w", err)
	}
	return key, nil
}

func configure(c wgtypes.Config) error {
	client, err := wgctrl.New()
	if err != nil {
		return fmt.Errorf("configure %s: %w", wireguard, err)
	}
	defer func() { _ = client.Close() }()
	if err := client.ConfigureDevice(wireguard, c); err != nil {
		return fmt.Errorf("configure %s: %w", wireguard, err)
	}
	return nil
}

// lead implements backend.
func (w *wireGuard) lead(peers []peer) error {
	link, err := netlink.LinkByName(wireguard)
	if err != nil {
		return fmt.Errorf("find interface %s: %w", wireguard, err)
	}
	configs, ranges, problem := w.peers(peers)
	var want []*netlink.Route
	for _, p := range ranges {
		want = append(want, &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(p), Scope: netlink.SCOPE_LINK, Src: source(w.own, p), Protocol: protocol})
	}
	var have []netlink.Route
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		list, err := netlink.RouteListFiltered(family, &netlink.Route{LinkIndex: link.Attrs().Index, Protocol: protocol}, netlink.RT_FILTER_OIF|netlink.RT_FILTER_PROTOCOL)
		if err != nil {
			return errors.Join(problem, fmt.Errorf("list routes: %w", err))
		}
		have = append(have, list...)
	}
	return errors.Join(problem, routes(have, want, func() error { return w.replacePeers(configs) }))
}

// peers are the other ends of the tunnel, and the ranges behind them.
func (w *wireGuard) peers(all []peer) (configs []wgtypes.PeerConfig, ranges []netip.Prefix, problem error) {
	var errs []error
	taken := map[wgtypes.Key]string{w.key.PublicKey(): "this node"}
	for _, p := range all {
		e := p.v6
		if w.v4 && p.v4.addr.IsValid() || !e.addr.IsValid() {
			e = p.v4
		}
		var data publicKey
		err := json.Unmarshal(e.data, &data)
		var key wgtypes.Key
		if err == nil {
			key, err = wgtypes.ParseKey(data.PublicKey)
		}
		if other, ok := taken[key]; err == nil && ok {
			err = fmt.Errorf("it has the key of %s", other)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("reach the pods of node %s: read what it says of its tunnel: %w", p.name, err))
			continue
		}
		taken[key] = p.name
		c := wgtypes.PeerConfig{
			PublicKey: key, Endpoint: net.UDPAddrFromAddrPort(netip.AddrPortFrom(e.addr, wireguardPort)), ReplaceAllowedIPs: true,
		}
		if w.keepAlive {
			c.PersistentKeepaliveInterval = new(keepAlive)
		}
		for _, pods := range p.pods {
			c.AllowedIPs = append(c.AllowedIPs, *ipNet(pods))
		}
		configs = append(configs, c)
		ranges = append(ranges, p.pods...)
	}
	return configs, ranges, errors.Join(errs...)
}

// replacePeers gives the kernel the peers that it has not, as they are, and
// takes away others. Those that are right are left alone, with their sessions.
func (w *wireGuard) replacePeers(want []wgtypes.PeerConfig) error {
	client, err := wgctrl.New()
	if err != nil {
		return fmt.Errorf("configure %s: %w", wireguard, err)
	}
	defer func() { _ = client.Close() }()
	device, err := client.Device(wireguard)
	if err != nil {
		return fmt.Errorf("look at %s: %w", wireguard, err)
	}
	change := difference(device.Peers, want)
	if len(change) == 0 {
		return nil
	}
	if err := client.ConfigureDevice(wireguard, wgtypes.Config{Peers: change}); err != nil {
		return fmt.Errorf("configure %s: %w", wireguard, err)
	}
	return nil
}

func difference(have []wgtypes.Peer, want []wgtypes.PeerConfig) []wgtypes.PeerConfig {
	var change []wgtypes.PeerConfig
	old := map[wgtypes.Key]wgtypes.Peer{}
	for _, p := range have {
		if slices.ContainsFunc(want, func(c wgtypes.PeerConfig) bool { return c.PublicKey == p.PublicKey }) {
			old[p.PublicKey] = p
			continue
		}
		change = append(change, wgtypes.PeerConfig{PublicKey: p.PublicKey, Remove: true})
	}
	text := func(nets []net.IPNet) string {
		all := make([]string, len(nets))
		for i, n := range nets {
			all[i] = n.String()
		}
		slices.Sort(all)
		return strings.Join(all, " ")
	}
	for _, c := range want {
		p, ok := old[c.PublicKey]
		if ok && p.Endpoint != nil && p.Endpoint.String() == c.Endpoint.String() && text(p.AllowedIPs) == text(c.AllowedIPs) {
			continue
		}
		change = append(change, c)
	}
	return change
}

// intact implements backend.
func (w *wireGuard) intact() bool {
	link, err := netlink.LinkByName(wireguard)
	return err == nil && link.Attrs().Index == w.index
}
