package flannel

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime"
	"testing"

	"github.com/flannel-io/flannel/pkg/ip"
	"github.com/flannel-io/flannel/pkg/lease"
	"github.com/flannel-io/flannel/pkg/subnet"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

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
	// Without any address there is no table of local addresses, and no route.
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		t.Fatal(err)
	}
}

// addTunnel makes the interface that flannel makes.
func addTunnel(t *testing.T) netlink.Link {
	t.Helper()
	mac, err := net.ParseMAC("02:00:00:00:00:01")
	if err != nil {
		t.Fatal(err)
	}
	link := &netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: tunnelV4, HardwareAddr: mac}, VxlanId: 1, Port: 8472}
	if err := netlink.LinkAdd(link); err != nil {
		t.Skipf("make a VXLAN interface: %v", err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		t.Fatal(err)
	}
	return link
}

func event(kind lease.EventType, pods, node string) lease.Event {
	_, ipnet, err := net.ParseCIDR(pods)
	if err != nil {
		panic(err)
	}
	return lease.Event{Type: kind, Lease: lease.Lease{
		EnableIPv4: true, Subnet: ip.FromIPNet(ipnet),
		Attrs: lease.LeaseAttrs{BackendType: BackendVXLAN, PublicIP: ip.FromIP(net.ParseIP(node)), BackendData: []byte(`{"VNI":1,"VtepMAC":"02:00:00:00:00:02"}`)},
	}}
}

// entries lists what the kernel holds for the tunnel.
func entries(t *testing.T, link netlink.Link) []string {
	t.Helper()
	got := []string{}
	routes, err := netlink.RouteList(link, netlink.FAMILY_V4)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		got = append(got, fmt.Sprintf("route %s via %s", r.Dst, r.Gw))
	}
	for name, family := range map[string]int{"neighbour": netlink.FAMILY_V4, "forward": unix.AF_BRIDGE} {
		list, err := netlink.NeighList(link.Attrs().Index, family)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range list {
			if n.IP != nil && n.State == netlink.NUD_PERMANENT {
				got = append(got, fmt.Sprintf("%s %s %s", name, n.IP, n.HardwareAddr))
			}
		}
	}
	return got
}

func set(list []string) map[string]bool {
	m := map[string]bool{}
	for _, s := range list {
		m[s] = true
	}
	return m
}

func TestTunnelFollowsLeases(t *testing.T) {
	ownNetwork(t)
	link := addTunnel(t)
	tn := &tunnel{logger: slog.New(slog.DiscardHandler), config: &subnet.Config{EnableIPv4: true}}
	add, remove := event(lease.EventAdded, "10.42.7.0/24", "192.0.2.7"), event(lease.EventRemoved, "10.42.7.0/24", "192.0.2.7")
	want := []string{"route 10.42.7.0/24 via 10.42.7.0", "neighbour 10.42.7.0 02:00:00:00:00:02", "forward 192.0.2.7 02:00:00:00:00:02"}
	for range 2 { // a second time changes nothing
		if err := tn.apply(add); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(set(want), set(entries(t, link))); diff != "" {
			t.Errorf("added (-want +got):\n%s", diff)
		}
	}
	for range 2 {
		if err := tn.apply(remove); err != nil {
			t.Fatal(err)
		}
		if got := entries(t, link); len(got) > 0 {
			t.Errorf("left behind: %v", got)
		}
	}
	other := add
	other.Lease.Attrs.BackendType = BackendHostGW
	if err := tn.apply(other); err != nil || len(entries(t, link)) > 0 {
		t.Errorf("a node with another back end: %v, %v", err, entries(t, link))
	}
	if !tn.intact() {
		t.Error("the interface is there, but not intact")
	}
	if err := netlink.LinkDel(link); err != nil {
		t.Fatal(err)
	}
	if tn.intact() {
		t.Error("the interface is gone, but intact")
	}
	if err := tn.apply(add); err == nil {
		t.Error("a route through an interface that is gone")
	}
}
