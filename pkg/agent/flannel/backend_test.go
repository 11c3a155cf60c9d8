package flannel

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// ownNetwork moves the test into a network namespace of its own, with an
// interface eth0. The thread is never unlocked, so that it ends with the test.
func ownNetwork(t *testing.T) *Flannel {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("a network namespace takes root")
	}
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("make a network namespace: %v", err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0", MTU: 1400}, PeerName: "port"}))
	for _, name := range []string{"lo", "eth0", "port"} {
		link, err := netlink.LinkByName(name)
		must(err)
		must(netlink.LinkSetUp(link))
	}
	eth0, err := netlink.LinkByName("eth0")
	must(err)
	for _, a := range []string{"192.0.2.1/24", "192.0.2.11/24", "2001:db8::1/64"} {
		addr, err := netlink.ParseAddr(a)
		must(err)
		addr.Flags = unix.IFA_F_NODAD
		must(netlink.AddrAdd(eth0, addr))
	}
	must(ensureBridge(ownPart()))
	return &Flannel{
		NodeIP:  nodeIP,
		PodCIDR: prefixes("10.42.0.0/16", "fd00:42::/56"), Backend: BackendVXLAN, Logger: slog.New(slog.DiscardHandler),
	}
}

func nodeIP() []netip.Addr {
	return []netip.Addr{netip.MustParseAddr("192.0.2.11"), netip.MustParseAddr("2001:db8::1")}
}

func (f *Flannel) mustUnderlay(t *testing.T) underlay {
	t.Helper()
	u, err := f.underlay()
	if err != nil || u == nil {
		t.Fatalf("underlay = %v, %v", u, err)
	}
	return *u
}

func ownPart() network {
	return network{PodCIDR: prefixes("10.42.0.0/24", "fd00:42::/64"), MTU: 1330, MAC: "02:00:00:00:00:01"}
}

func other(name, number, mac string) peer {
	data := []byte(`{"VNI":1,"VtepMAC":"` + mac + `"}`)
	return peer{
		name: name, backend: BackendVXLAN, pods: prefixes("10.42."+number+".0/24", "fd00:42:0:"+number+"::/64"),
		v4: end{netip.MustParseAddr("192.0.2." + number), data}, v6: end{netip.MustParseAddr("2001:db8::" + number), data},
	}
}

// kernel lists the routes, neighbours and forwarding entries there are for
// other nodes.
func kernel(t *testing.T) []string {
	t.Helper()
	got := []string{}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Protocol: protocol}, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		got = append(got, fmt.Sprintf("route %s via %s", r.Dst, r.Gw))
	}
	for _, name := range []string{tunnelV4, tunnelV6} {
		link, err := netlink.LinkByName(name)
		if err != nil {
			continue
		}
		for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6, unix.AF_BRIDGE} {
			list, err := netlink.NeighList(link.Attrs().Index, family)
			if err != nil {
				t.Fatal(err)
			}
			kind := "neighbour"
			if family == unix.AF_BRIDGE {
				kind = "forward"
			}
			for _, n := range list {
				if n.IP != nil && !n.IP.IsUnspecified() && n.State == netlink.NUD_PERMANENT {
					got = append(got, fmt.Sprintf("%s %s %s %s", kind, name, n.IP, n.HardwareAddr))
				}
			}
		}
	}
	slices.Sort(got)
	return got
}

func want(number, mac string) []string {
	return []string{
		"route 10.42." + number + ".0/24 via 10.42." + number + ".0", "route fd00:42:0:" + number + "::/64 via fd00:42:0:" + number + "::",
		"neighbour flannel.1 10.42." + number + ".0 " + mac, "neighbour flannel-v6.1 fd00:42:0:" + number + ":: " + mac,
		"forward flannel.1 192.0.2." + number + " " + mac, "forward flannel-v6.1 2001:db8::" + number + " " + mac,
	}
}

func checkKernel(t *testing.T, what string, lists ...[]string) {
	t.Helper()
	all := slices.Concat(lists...)
	if all == nil {
		all = []string{}
	}
	slices.Sort(all)
	if diff := cmp.Diff(all, kernel(t)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestVXLAN(t *testing.T) {
	f := ownNetwork(t)
	u := f.mustUnderlay(t)
	v := &vxlan{logger: f.Logger}
	prepare := func() {
		t.Helper()
		v4, v6, err := v.prepare(ownPart(), u)
		if err != nil {
			t.Fatal(err)
		}
		if said := `{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}`; string(v4) != said || string(v6) != said {
			t.Errorf("said %s, %s, want %s", v4, v6, said)
		}
	}
	lead := func(peers ...peer) {
		t.Helper()
		if err := v.lead(peers); err != nil {
			t.Fatal(err)
		}
	}
	prepare()
	first := v.index[tunnelV4]
	if offloads(t, tunnelV4) || offloads(t, tunnelV6) {
		t.Error("checksums are left to the network card")
	}
	a, b := other("a", "2", "02:00:00:00:00:02"), other("b", "3", "02:00:00:00:00:03")
	for range 2 { // a second time changes nothing
		lead(a, b)
		checkKernel(t, "two nodes", want("2", "02:00:00:00:00:02"), want("3", "02:00:00:00:00:03"))
	}
	// Started again: the interface stays, and what is not right any more goes.
	v = &vxlan{logger: f.Logger}
	prepare()
	if v.index[tunnelV4] != first {
		t.Error("the interface was made again, though it was right")
	}
	b = other("b", "3", "02:00:00:00:00:33")
	b.v4.addr, b.v6.addr = netip.MustParseAddr("192.0.2.4"), netip.MustParseAddr("2001:db8::4")
	lead(b)
	moved := strings.NewReplacer("192.0.2.3", "192.0.2.4", "2001:db8::3", "2001:db8::4")
	list := want("3", "02:00:00:00:00:33")
	for i := range list {
		list[i] = moved.Replace(list[i])
	}
	checkKernel(t, "one has gone, one has another address and interface", list)
	thief := other("thief", "5", "02:00:00:00:00:33")
	if err := v.lead([]peer{b, thief}); err == nil || !strings.Contains(err.Error(), "thief") {
		t.Errorf("two nodes with one link-layer address: %v", err)
	}
	checkKernel(t, "the younger of two nodes that say the same is not believed", list)
	lead()
	checkKernel(t, "no other node")

	link, err := netlink.LinkByName(tunnelV4)
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkDel(link); err != nil {
		t.Fatal(err)
	}
	if v.intact() {
		t.Error("the interface is gone, but intact")
	}
	prepare()
	lead(a)
	checkKernel(t, "made again", want("2", "02:00:00:00:00:02"))
	if err := removeOthers(BackendHostGW); err != nil {
		t.Fatal(err)
	}
	checkKernel(t, "another back end")
}

// offloads reports whether checksums are left to the network card.
func offloads(t *testing.T, name string) bool {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	const getTXChecksum = 0x16
	value := &ethtoolValue{command: getTXChecksum, data: 9}
	request := ethtoolRequest{value: value}
	copy(request.name[:], name)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
		t.Fatal(errno)
	}
	runtime.KeepAlive(value)
	return value.data != 0
}

func TestHostGW(t *testing.T) {
	f := ownNetwork(t)
	h := &hostGW{}
	if _, _, err := h.prepare(ownPart(), f.mustUnderlay(t)); err != nil {
		t.Fatal(err)
	}
	a, b := other("a", "2", ""), other("b", "3", "")
	route := func(number string) []string {
		return []string{"route 10.42." + number + ".0/24 via 192.0.2." + number, "route fd00:42:0:" + number + "::/64 via 2001:db8::" + number}
	}
	for range 2 {
		if err := h.lead([]peer{a, b}); err != nil {
			t.Fatal(err)
		}
		checkKernel(t, "two nodes", route("2"), route("3"))
	}
	far := other("far", "4", "")
	far.v4.addr, far.v6.addr = netip.MustParseAddr("198.51.100.4"), netip.MustParseAddr("2001:db8:1::4")
	err := h.lead([]peer{b, far})
	if !errors.Is(err, errNotOnLink) || !strings.Contains(err.Error(), "node far") {
		t.Errorf("a node behind a router: %v", err)
	}
	checkKernel(t, "one has gone", route("3"))
	if err := removeOthers(BackendVXLAN); err != nil {
		t.Fatal(err)
	}
	checkKernel(t, "another back end")
}

func TestUnderlay(t *testing.T) {
	f := ownNetwork(t)
	eth0 := f.mustUnderlay(t)
	if eth0.name != "eth0" || eth0.mtu != 1400 || eth0.v4 != nodeIP()[0] || eth0.v6 != nodeIP()[1] {
		t.Errorf("underlay = %+v", eth0)
	}
	f.NodeIP = func() []netip.Addr { return nil }
	if u := f.mustUnderlay(t); u.v4.String() != "192.0.2.1" {
		t.Errorf("without the node's address: %+v", u)
	}
	f.Interface = "eth7"
	if u, err := f.underlay(); u != nil || err != nil {
		t.Errorf("an interface that is not there: %+v, %v", u, err)
	}
	f.Interface = "eth0"
	f.mustUnderlay(t)
	n := network{PodCIDR: prefixes("10.42.0.0/24"), MAC: "02:00:00:00:00:01"}
	for _, b := range []backend{&vxlan{logger: f.Logger}, &hostGW{}} {
		if _, _, err := b.prepare(n, underlay{name: "eth0", v6: eth0.v6}); err == nil || !strings.Contains(err.Error(), "no IPv4 address") {
			t.Errorf("%T without an address of the pods' family: %v", b, err)
		}
	}
}

func TestWireGuardMissing(t *testing.T) {
	ownNetwork(t)
	err := addWireGuard()
	if err == nil {
		t.Skip("this kernel has WireGuard")
	}
	for _, says := range []string{"module wireguard", "--flannel-backend=vxlan", "modprobe"} {
		if !strings.Contains(err.Error(), says) {
			t.Errorf("%q does not say %q", err, says)
		}
	}
}

func TestWireGuardPeers(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	own, err := loadKey(file)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := loadKey(file); err != nil || again != own {
		t.Errorf("the key has changed: %v", err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key's file: %v %v", info.Mode(), err)
	}
	key, err := wgtypes.GeneratePrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	data := []byte(`{"PublicKey":"` + key.PublicKey().String() + `"}`)
	a := other("a", "2", "")
	a.v4.data, a.v6.data = data, data
	thief := other("thief", "3", "")
	thief.v4.data, thief.v6.data = data, data
	w := &wireGuard{key: own, v4: true}
	configs, ranges, problem := w.peers([]peer{a, thief, other("dumb", "4", "")})
	if problem == nil || !strings.Contains(problem.Error(), "thief") || !strings.Contains(problem.Error(), "dumb") {
		t.Errorf("problem = %v", problem)
	}
	if len(configs) != 1 || configs[0].Endpoint.String() != "192.0.2.2:51820" || len(ranges) != 2 || len(configs[0].AllowedIPs) != 2 {
		t.Fatalf("got %+v, %v", configs, ranges)
	}
	w.v4 = false
	if configs, _, _ := w.peers([]peer{a}); configs[0].Endpoint.String() != "[2001:db8::2]:51820" {
		t.Errorf("endpoint = %s", configs[0].Endpoint)
	}
	stale, err := wgtypes.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	have := []wgtypes.Peer{
		{PublicKey: stale}, {PublicKey: key.PublicKey(), Endpoint: &net.UDPAddr{IP: net.ParseIP("192.0.2.2"), Port: 51820}, AllowedIPs: configs[0].AllowedIPs},
	}
	if got := difference(have, configs); len(got) != 1 || !got[0].Remove || got[0].PublicKey != stale {
		t.Errorf("a stale peer: %+v", got)
	}
	have[1].Endpoint.IP = net.ParseIP("192.0.2.99")
	if got := difference(have[1:], configs); len(got) != 1 || got[0].Remove {
		t.Errorf("a peer with another address: %+v", got)
	}
}
