package hostchange

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/sys/mountinfo"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// newTable is NFT_MSG_NEWTABLE.
const newTable = unix.NFNL_SUBSYS_NFTABLES << 8

// ownNetwork moves the test into a network namespace of its own. The thread is
// never unlocked, so that it ends with the test.
func ownNetwork(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("a network namespace takes root")
	}
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("make a network namespace: %v", err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func names(t *testing.T) []string {
	t.Helper()
	links, err := netlink.LinkList()
	must(t, err)
	var out []string
	for _, l := range links {
		if l.Type() == "veth" || l.Type() == "bridge" {
			out = append(out, l.Attrs().Name)
		}
	}
	return out
}

func TestUndoNetwork(t *testing.T) {
	ownNetwork(t)
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "cni0"}}
	must(t, netlink.LinkAdd(bridge))
	link, err := netlink.LinkByName("cni0")
	must(t, err)
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "pod", MasterIndex: link.Attrs().Index}, PeerName: "peer"}))
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "port"}))
	eth0, err := netlink.LinkByName("eth0")
	must(t, err)
	must(t, netlink.LinkSetUp(eth0))
	mine := &net.IPNet{IP: net.IPv4(10, 9, 0, 0), Mask: net.CIDRMask(24, 32)}
	theirs := &net.IPNet{IP: net.IPv4(10, 8, 0, 0), Mask: net.CIDRMask(24, 32)}
	must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Dst: mine, Scope: netlink.SCOPE_LINK, Protocol: 83}))
	must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Dst: theirs, Scope: netlink.SCOPE_LINK}))
	for _, table := range []string{"kube-proxy", "theirs"} {
		must(t, batch(newTable, append(nfgenmsg(unix.NFPROTO_INET, 0), nl.NewRtAttr(tableName, nl.ZeroTerminated(table)).Serialize()...)))
	}

	layout := machine(t)
	r := mustOpen(t, layout)
	addr := netip.MustParseAddr("10.99.0.1")
	must(t, r.AddLoopbackAddress(addr))
	must(t, r.AddLoopbackAddress(addr))
	must(t, r.Record(
		Change{Kind: Interface, Value: "cni0"}, Change{Kind: Interface, Value: "flannel.1"}, Change{Kind: Routes, Value: "83"},
		Change{Kind: Table, Value: "inet kube-proxy"}, Change{Kind: Table, Value: "ip kube-proxy"},
	))
	for range 2 { // Undone is undone.
		u := &Undo{Recorder: r, Run: noRun}
		must(t, u.all(t.Context(), r.Fleeting()))
	}
	if diff := cmp.Diff([]string{"port", "eth0"}, names(t)); diff != "" {
		t.Error(diff)
	}
	for table, want := range map[string]bool{"inet kube-proxy": false, "inet theirs": true, "ip theirs": false} {
		if got, err := HasTable(table); err != nil || got != want {
			t.Errorf("table %s is there: %v, %v", table, got, err)
		}
	}
	routes, err := netlink.RouteList(eth0, netlink.FAMILY_V4)
	must(t, err)
	if len(routes) != 1 || routes[0].Dst.String() != theirs.String() {
		t.Errorf("routes %v", routes)
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	must(t, err)
	for _, a := range addrs {
		if a.IP.Equal(addr.AsSlice()) {
			t.Errorf("address %s is there", a.IP)
		}
	}
}

// settings reads some kernel settings of this network namespace.
func settings(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, pattern := range []string{"net/ipv4/conf/*/forwarding", "net/ipv4/conf/*/accept_redirects", "net/ipv6/conf/*/forwarding", "net/ipv4/ip_forward"} {
		files, err := filepath.Glob(filepath.Join("/proc/sys", pattern))
		must(t, err)
		for _, f := range files {
			value, err := readSysctl(f)
			must(t, err)
			out[f] = value
		}
	}
	return out
}

// TestForward switches forwarding on and back, which by itself would leave a
// machine that is open to what its owner has closed it for.
func TestForward(t *testing.T) {
	ownNetwork(t)
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0.5"}, PeerName: "port"}))
	set := func(name, value string) { must(t, os.WriteFile(sysctlFile(name), []byte(value), 0)) }
	set("net.ipv4.ip_forward", "0")
	set("net.ipv4.conf.all.accept_redirects", "0")
	set("net.ipv4.conf.eth0/5.forwarding", "1")
	before := settings(t)
	r := mustOpen(t, machine(t))
	for _, family := range []string{"ipv4", "ipv6"} {
		if changed, err := r.Forward(family); err != nil || !changed {
			t.Fatalf("%s: changed %v, %v", family, changed, err)
		}
		if changed, err := r.Forward(family); err != nil || changed {
			t.Fatalf("%s again: changed %v, %v", family, changed, err)
		}
	}
	if now := settings(t); now["/proc/sys/net/ipv4/ip_forward"] != "1" || now["/proc/sys/net/ipv6/conf/all/forwarding"] != "1" {
		t.Errorf("it does not forward: %v", now)
	}
	u := &Undo{Recorder: r, Run: noRun}
	must(t, u.all(t.Context(), r.Fleeting()))
	if diff := cmp.Diff(before, settings(t)); diff != "" {
		t.Error(diff)
	}
}

// TestSysctl does not take back what somebody has changed since.
func TestSysctl(t *testing.T) {
	ownNetwork(t)
	r := mustOpen(t, machine(t))
	const name = "net.ipv4.ip_default_ttl"
	if changed, err := r.SetSysctl(name, "61"); err != nil || !changed {
		t.Fatalf("changed %v, %v", changed, err)
	}
	must(t, os.WriteFile(sysctlFile(name), []byte("62"), 0))
	u := &Undo{Recorder: r, Run: noRun}
	must(t, u.all(t.Context(), r.Fleeting()))
	if have, _ := readSysctl(sysctlFile(name)); have != "62" {
		t.Errorf("it is %s", have)
	}
	must(t, os.WriteFile(sysctlFile(name), []byte("61"), 0))
	must(t, u.all(t.Context(), r.Fleeting()))
	if have, _ := readSysctl(sysctlFile(name)); have != "64" {
		t.Errorf("it is %s", have)
	}
	if err := r.RecordSysctl("net.ipv4.no_such_thing", "1"); err != nil {
		t.Error(err)
	}
}

func TestPropagates(t *testing.T) {
	for optional, want := range map[string][2]bool{"": {}, "shared:1": {true, false}, "master:3": {false, true}, "shared:1 master:3": {true, true}, "unbindable": {}} {
		if shared, slave := propagates(&mountinfo.Info{Optional: optional}); shared != want[0] || slave != want[1] {
			t.Errorf("%q: shared %v, slave %v", optional, shared, slave)
		}
	}
}
