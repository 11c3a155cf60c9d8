package flannel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/flannel-io/flannel/pkg/backend"
	"github.com/flannel-io/flannel/pkg/lease"
	"github.com/flannel-io/flannel/pkg/subnet"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The tunnel's interfaces, as flannel names them for its default VNI.
const (
	tunnelV4 = "flannel.1"
	tunnelV6 = "flannel-v6.1"
)

// tunnel is flannel's VXLAN back end with a loop of our own. Flannel's, as of
// 0.28.4, reads from netlink without looking whether the subscription has
// ended, which the kernel does to it when a hundred pods start at once, and
// takes the whole process down; making a lost interface again does the same on
// a host without IPv6. Interface and lease are still flannel's.
type tunnel struct {
	backend.Network

	leases subnet.Manager
	config *subnet.Config
	logger *slog.Logger
}

var _ backend.Network = (*tunnel)(nil)

// Run implements backend.Network: it keeps a route to the pods of each other
// node until ctx ends.
func (t *tunnel) Run(ctx context.Context) {
	events := make(chan []lease.Event)
	var wg sync.WaitGroup
	wg.Go(func() { subnet.WatchLeases(ctx, t.leases, t.Lease(), events) })
	defer wg.Wait()
	retry := time.NewTicker(retryAfter)
	defer retry.Stop()
	failed := map[string]lease.Event{}
	for {
		var batch []lease.Event
		select {
		case more, ok := <-events: // closed when ctx ends
			if !ok {
				return
			}
			batch = more
		case <-retry.C:
			for _, e := range failed {
				batch = append(batch, e)
			}
		}
		for _, e := range batch {
			key := e.Lease.Subnet.String() + " " + e.Lease.IPv6Subnet.String()
			delete(failed, key)
			if err := t.apply(e); err != nil {
				t.logger.Error("the pods of another node cannot be reached; trying again", "node", e.Lease.Attrs.PublicIP.String(), "error", err)
				failed[key] = e
			}
		}
	}
}

// apply adds or removes what leads to one node.
func (t *tunnel) apply(e lease.Event) error {
	attrs := e.Lease.Attrs
	if attrs.BackendType != BackendVXLAN {
		t.logger.Warn("a node has another --flannel-backend; its pods cannot be reached", "node", attrs.PublicIP.String(), "backend", attrs.BackendType)
		return nil
	}
	var errs []error
	if e.Lease.EnableIPv4 {
		errs = append(errs, change(e.Type, peer{tunnelV4, e.Lease.Subnet.ToIPNet(), attrs.PublicIP.ToIP(), attrs.BackendData}))
	}
	if e.Lease.EnableIPv6 && attrs.PublicIPv6 != nil {
		errs = append(errs, change(e.Type, peer{tunnelV6, e.Lease.IPv6Subnet.ToIPNet(), attrs.PublicIPv6.ToIP(), attrs.BackendV6Data}))
	}
	return errors.Join(errs...)
}

// peer is another node in one address family.
type peer struct {
	tunnel string
	pods   *net.IPNet
	node   net.IP
	data   json.RawMessage // of the lease: holds the address of the node's tunnel
}

// change sets or removes the three entries a tunnel needs for a node: the
// route to its pods by way of their first address, that address's link-layer
// address, and the node behind that.
func change(kind lease.EventType, p peer) error {
	var data struct{ VtepMAC string }
	if err := json.Unmarshal(p.data, &data); err != nil {
		return fmt.Errorf("read the lease of %s: %w", p.node, err)
	}
	mac, err := net.ParseMAC(data.VtepMAC)
	if err != nil {
		return fmt.Errorf("read the lease of %s: %w", p.node, err)
	}
	link, err := netlink.LinkByName(p.tunnel)
	if err != nil {
		return fmt.Errorf("find interface %s: %w", p.tunnel, err)
	}
	index := link.Attrs().Index
	neighbour := &netlink.Neigh{LinkIndex: index, State: netlink.NUD_PERMANENT, Type: unix.RTN_UNICAST, IP: p.pods.IP, HardwareAddr: mac}
	forward := &netlink.Neigh{LinkIndex: index, State: netlink.NUD_PERMANENT, Family: unix.AF_BRIDGE, Flags: netlink.NTF_SELF, IP: p.node, HardwareAddr: mac}
	route := &netlink.Route{LinkIndex: index, Scope: netlink.SCOPE_UNIVERSE, Dst: p.pods, Gw: p.pods.IP, Flags: int(netlink.FLAG_ONLINK)}
	// The route is the last to come and the first to go: the kernel would ask
	// for what is missing behind it.
	steps := []step{
		{"neighbour", func() error { return netlink.NeighSet(neighbour) }, func() error { return netlink.NeighDel(neighbour) }},
		{"forwarding entry", func() error { return netlink.NeighSet(forward) }, func() error { return netlink.NeighDel(forward) }},
		{"route", func() error { return netlink.RouteReplace(route) }, func() error { return netlink.RouteDel(route) }},
	}
	var errs []error
	if kind != lease.EventRemoved {
		for _, s := range steps {
			if err := s.set(); err != nil {
				errs = append(errs, fmt.Errorf("set %s for %s in %s: %w", s.name, p.pods, p.tunnel, err))
			}
		}
		return errors.Join(errs...)
	}
	for _, s := range slices.Backward(steps) {
		// What is gone, somebody else has removed.
		if err := s.remove(); err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("remove %s for %s from %s: %w", s.name, p.pods, p.tunnel, err))
		}
	}
	return errors.Join(errs...)
}

// step is one entry in the kernel's tables.
type step struct {
	name        string
	set, remove func() error
}

// intact reports whether the tunnel's interfaces are there; somebody may have
// removed them.
func (t *tunnel) intact() bool {
	for name, wanted := range map[string]bool{tunnelV4: t.config.EnableIPv4, tunnelV6: t.config.EnableIPv6} {
		if !wanted {
			continue
		}
		if _, err := netlink.LinkByName(name); errors.As(err, &netlink.LinkNotFoundError{}) {
			return false
		}
	}
	return true
}
