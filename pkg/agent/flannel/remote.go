package flannel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/flannel-io/flannel/pkg/backend"
	"github.com/flannel-io/flannel/pkg/backend/hostgw"
	"github.com/flannel-io/flannel/pkg/backend/vxlan"
	"github.com/flannel-io/flannel/pkg/ip"
	"github.com/flannel-io/flannel/pkg/subnet"
	"github.com/vishvananda/netlink"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// Sizes that flannel does not export.
const (
	vxlanOverhead = 50
	defaultMTU    = 1500
	retryAfter    = 10 * time.Second
)

// remote keeps the routes to other nodes' pods up to date until ctx ends. On a
// host without a network interface there is nothing to do, until one appears.
func (f *Flannel) remote(ctx context.Context, n network) error {
	cfg, err := clientcmd.BuildConfigFromFlags("", f.Kubeconfig)
	if err != nil {
		return fmt.Errorf("make client for flannel: %w", err)
	}
	cfg.ContentType = "application/vnd.kubernetes.protobuf"
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return fmt.Errorf("make client for flannel: %w", err)
	}
	changes := make(chan struct{}, 1)
	var wg sync.WaitGroup
	wg.Go(func() { f.watchAddresses(ctx, changes, netlink.AddrSubscribe) })
	defer wg.Wait() // All returns below mean that ctx has ended.
	waiting := false
	for {
		ext := f.external()
		if ext == nil {
			if !waiting {
				f.Logger.Info("no network interface but loopback: waiting for one to reach other nodes")
			}
			waiting = true
			if !wait(ctx, changes, time.Hour) {
				return nil
			}
			continue
		}
		waiting = false
		if err := f.routeServices(); err != nil {
			f.Logger.Debug("Services cannot be routed yet", "error", err)
		}
		if f.runBackend(ctx, client, n, ext, changes) {
			return nil
		}
	}
}

// runBackend runs flannel's back end over one interface address, until that
// changes. It returns true when ctx has ended.
func (f *Flannel) runBackend(ctx context.Context, client kubernetes.Interface, n network, ext *backend.ExternalInterface, changes <-chan struct{}) bool {
	inner, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	log := f.Logger.With("interface", ext.Iface.Name, "address", ext.ExtAddr)
	nw, err := f.register(inner, &wg, client, n, ext)
	if err != nil {
		if ctx.Err() != nil {
			return true
		}
		log.Error("pods of other nodes cannot be reached yet; trying again", "error", err)
		return !wait(ctx, changes, retryAfter)
	}
	log.Info("routes to other nodes are kept", "backend", f.Backend)
	wg.Go(func() { nw.Run(inner) })
	for {
		if !wait(ctx, changes, time.Hour) {
			return true
		}
		if now := f.external(); now == nil || !same(now, ext) {
			log.Info("the interface to other nodes has changed")
			return false
		}
		// The kernel takes the route away together with its source address.
		if err := f.routeServices(); err != nil {
			log.Debug("Services cannot be routed yet", "error", err)
		}
		if t, ok := nw.(*tunnel); ok && !t.intact() {
			log.Warn("the tunnel's interface has been removed, making it again")
			return false
		}
	}
}

func (f *Flannel) register(ctx context.Context, wg *sync.WaitGroup, client kubernetes.Interface, n network, ext *backend.ExternalInterface) (backend.Network, error) {
	cfg := &subnet.Config{BackendType: f.Backend}
	for _, c := range f.PodCIDR {
		_, ipnet, err := net.ParseCIDR(c.Masked().String())
		if err != nil {
			return nil, err
		}
		if c.Addr().Is4() {
			cfg.EnableIPv4, cfg.Network = true, ip.FromIPNet(ipnet)
		} else if ext.ExtV6Addr != nil {
			cfg.EnableIPv6, cfg.IPv6Network = true, ip.FromIP6Net(ipnet)
		}
	}
	var err error
	if cfg.Backend, err = json.Marshal(map[string]string{"Type": f.Backend}); err != nil {
		return nil, err
	}
	leases := &leases{client: client, nodeName: f.NodeName, pods: n.PodCIDR, config: cfg, logger: f.Logger}
	newBackend := vxlan.New
	if f.Backend == BackendHostGW {
		newBackend = hostgw.New
	}
	be, err := newBackend(leases, ext)
	if err != nil {
		return nil, err
	}
	nw, err := be.RegisterNetwork(ctx, wg, cfg)
	if err != nil || f.Backend != BackendVXLAN {
		return nw, err
	}
	return &tunnel{Network: nw, leases: leases, config: cfg, logger: f.Logger}, nil
}

// mtu is the size of pods' packets. Without an interface to go by it is that
// of Ethernet.
func (f *Flannel) mtu() int {
	mtu := defaultMTU
	if ext := f.external(); ext != nil {
		mtu = ext.Iface.MTU
	}
	if f.Backend == BackendVXLAN {
		mtu -= vxlanOverhead
	}
	return mtu
}

// external is the interface that other nodes are reached by: the one with the
// node's address, or on a host whose node address lies on the loopback
// interface, the first real one. It is nil if there is none.
func (f *Flannel) external() *backend.ExternalInterface {
	links, err := net.Interfaces()
	if err != nil {
		return nil
	}
	var found *backend.ExternalInterface
	for _, link := range links {
		if link.Flags&net.FlagLoopback != 0 || link.Flags&net.FlagUp == 0 || ours(link.Name) {
			continue
		}
		ext := addressesOf(link)
		if ext == nil {
			continue
		}
		for _, a := range f.NodeIP() {
			if ext.IfaceAddr.Equal(a.AsSlice()) || ext.IfaceV6Addr.Equal(a.AsSlice()) {
				return ext
			}
		}
		if found == nil {
			found = ext
		}
	}
	return found
}

// ours reports whether an interface is a part of the pod network itself, or of
// another container engine.
func ours(name string) bool {
	for _, prefix := range []string{Bridge, "flannel", "veth", "docker", "br-", "virbr", "kube-"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

func addressesOf(link net.Interface) *backend.ExternalInterface {
	addrs, err := link.Addrs()
	if err != nil {
		return nil
	}
	ext := &backend.ExternalInterface{Iface: &link, IfaceName: link.Name}
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a.String())
		if err != nil || !p.Addr().IsGlobalUnicast() {
			continue
		}
		switch addr := net.IP(p.Addr().AsSlice()); {
		case p.Addr().Is4() && ext.IfaceAddr == nil:
			ext.IfaceAddr, ext.ExtAddr = addr, addr
		case p.Addr().Is6() && ext.IfaceV6Addr == nil:
			ext.IfaceV6Addr, ext.ExtV6Addr = addr, addr
		}
	}
	if ext.IfaceAddr == nil && ext.IfaceV6Addr == nil {
		return nil
	}
	return ext
}

func same(a, b *backend.ExternalInterface) bool {
	return a.Iface.Index == b.Iface.Index && a.Iface.MTU == b.Iface.MTU && a.ExtAddr.Equal(b.ExtAddr) && a.ExtV6Addr.Equal(b.ExtV6Addr)
}

// wait returns when an address has changed or d has passed, and false when ctx
// has ended.
func wait(ctx context.Context, changes <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-changes:
	case <-t.C:
	}
	return ctx.Err() == nil
}

func isIPv6(p netip.Prefix) bool { return p.Addr().Is6() }

var errNotNeeded = errors.New("not needed by the back ends in use")
