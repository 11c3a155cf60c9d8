// Package flannel makes the pod network of this node: the bridge that pods are
// attached to, the CNI configuration, masquerading, and the routes to the pods
// of other nodes, in the ways that flannel has and by its names, so that its
// tools and habits apply. It knows nothing about the kubelet or the runtime.
// Start reading at Flannel; local.go is this node's part of the network,
// remote.go the other nodes', and backend.go says what a back end does.
package flannel

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"

	"skiff/pkg/component"
	"skiff/pkg/hostchange"
	"skiff/pkg/paths"
	"skiff/pkg/status"
)

// Back ends, the values of --flannel-backend.
const (
	BackendVXLAN     = "vxlan"
	BackendHostGW    = "host-gw"
	BackendWireGuard = "wireguard-native"
	BackendNone      = "none"
)

// Bridge is the name of the bridge that pods are attached to.
const Bridge = "cni0"

// Flannel is the pod network. Its exported fields must not change once Run has
// been called. With BackendNone do not run it: the network is the user's.
type Flannel struct {
	Layout   paths.Layout
	NodeName string
	NodeIP   func() []netip.Addr // the node's addresses at this moment
	// Moved returns a channel that is closed when they change.
	Moved   func() <-chan struct{}
	PodCIDR []netip.Prefix // of the whole cluster, at most one per family
	// ServiceCIDR is where Services' addresses are. The host itself reaches
	// them also if it has no default route.
	ServiceCIDR []netip.Prefix
	Backend     string
	// Interface is the one by which other nodes are reached; "" is the one with
	// the node's address.
	Interface string
	// ExternalIP are the addresses that other nodes send to, if not those of
	// the interface; at most one per family.
	ExternalIP []netip.Addr
	// IPv6Masquerade hides pods with public IPv6 addresses behind the node's.
	IPv6Masquerade bool
	Notes          status.Notes // may be nil
	// Gate is the socket on which pods' addresses are announced before pods get
	// them, "" for none; see payload/announce.
	Gate       string
	Kubeconfig string // of an identity that may watch all nodes and annotate this one
	// NodePodCIDR waits until the Node object says which part of PodCIDR is
	// this node's.
	NodePodCIDR func(context.Context) ([]netip.Prefix, error)
	Changes     *hostchange.Recorder
	Logger      *slog.Logger

	once sync.Once
	up   chan struct{} // closed when the bridge has its address

	mu  sync.Mutex
	net network // valid once up is closed
}

var (
	_ component.Component = (*Flannel)(nil)
	_ component.Readier   = (*Flannel)(nil)
)

// network is what this node must remember of its network: with it pods start
// before the API server has been reached.
type network struct {
	PodCIDR []netip.Prefix `json:"podCIDR"`
	MTU     int            `json:"mtu"`
	// MAC is the link-layer address of the tunnel, the same for ever, so that
	// other nodes need not learn anew.
	MAC string `json:"mac,omitempty"`
}

// Name implements component.Component.
func (f *Flannel) Name() string { return "flannel" }

// Run implements component.Component.
func (f *Flannel) Run(ctx context.Context) error {
	if err := f.recordChanges(); err != nil {
		return err
	}
	if err := f.sysctls(); err != nil {
		return err
	}
	last, err := f.load()
	if err != nil {
		return err
	}
	if last != nil {
		if err := f.apply(*last); err != nil {
			return err
		}
		f.Logger.Info("pod network as before", "pods", last.PodCIDR, "mtu", last.MTU)
	}
	pods, err := f.NodePodCIDR(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("wait for the node's pod addresses: %w", err)
	}
	now := network{PodCIDR: pods, MTU: defaultMTU - f.overhead()}
	if last != nil {
		now.MTU, now.MAC = last.MTU, last.MAC
	}
	// Where there is no interface yet, the usual size has to do.
	if u, err := f.underlay(); err == nil && u != nil {
		now.MTU = u.mtu - f.overhead()
	}
	if now.MAC == "" {
		now.MAC = newMAC()
	}
	if last == nil || !slices.Equal(last.PodCIDR, now.PodCIDR) || last.MTU != now.MTU || last.MAC != now.MAC {
		if err := f.apply(now); err != nil {
			return err
		}
		f.Logger.Info("pod network set up", "pods", now.PodCIDR, "mtu", now.MTU, "backend", f.Backend)
	}
	return f.remote(ctx, now)
}

// apply makes the node's own part of the network, and remembers it.
func (f *Flannel) apply(n network) error {
	for _, p := range n.PodCIDR {
		if !within(f.PodCIDR, p) {
			return fmt.Errorf("the node's pod range %s lies outside of --cluster-cidr %v; delete the Node object, or restore the old --cluster-cidr", p, f.PodCIDR)
		}
	}
	if err := ensureBridge(n); err != nil {
		return err
	}
	if err := f.routeServices(); err != nil {
		return err
	}
	if err := f.masquerade(n); err != nil {
		return err
	}
	if err := f.save(n); err != nil {
		return err
	}
	f.mu.Lock()
	f.net = n
	f.mu.Unlock()
	select {
	case <-f.done():
	default:
		close(f.done())
	}
	// The last, because the node is ready when it is there.
	return f.writeCNI(n)
}

// newMAC makes a link-layer address: not a group's, and nobody's by right.
func newMAC() string {
	mac := make(net.HardwareAddr, 6)
	_, _ = rand.Read(mac) // never fails
	mac[0] = mac[0]&^1 | 2
	return mac.String()
}

// Ready implements component.Readier: pods can get addresses. Routes to other
// nodes are not waited for.
func (f *Flannel) Ready(context.Context) error {
	select {
	case <-f.done():
		return nil
	default:
		return errors.New("the Node object has no pod range (spec.podCIDR) yet")
	}
}

// Gateways waits until the bridge is up, and returns the addresses on it by
// which pods reach this node: one for each family that pods have, in the order
// of the cluster.
func (f *Flannel) Gateways(ctx context.Context) ([]netip.Addr, error) {
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-f.done():
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make([]netip.Addr, 0, len(f.net.PodCIDR))
	for _, p := range f.net.PodCIDR {
		out = append(out, p.Addr().Next())
	}
	return out, nil
}

func (f *Flannel) done() chan struct{} {
	f.once.Do(func() { f.up = make(chan struct{}) })
	return f.up
}
