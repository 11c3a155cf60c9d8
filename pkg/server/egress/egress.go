// Package egress says by which way the API server reaches what it calls: the
// kubelets of nodes elsewhere through the tunnel that these nodes keep open,
// and, where the user asks for it, also webhooks and aggregated APIs in their
// pods. It must not know how the tunnel works, nor who calls. Start reading at
// Egress.Kubelet.
package egress

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"skiff/internal/pause"
)

// Modes, the values of --egress-selector-mode.
const (
	Agent    = "agent"    // kubelets through the tunnel
	Pod      = "pod"      // and pods, found by their nodes' ranges
	Cluster  = "cluster"  // and pods, found by their addresses, host networks included
	Disabled = "disabled" // nothing
)

// Options is what New needs.
type Options struct {
	Mode string
	// OwnNode is the node in this process, which is reached directly; "" if
	// there is none.
	OwnNode string
	// Tunnel connects to an address on a node, or that this node can reach.
	Tunnel func(ctx context.Context, node, target string) (net.Conn, error)
	// Direct connects without a tunnel; default net.Dialer.
	Direct func(ctx context.Context, network, addr string) (net.Conn, error)
	Logger *slog.Logger
}

// Egress finds the way. Use comes before the first connection.
type Egress struct {
	o      Options
	nodes  corelisters.NodeLister
	pods   corelisters.PodLister
	synced []cache.InformerSynced

	mu     sync.Mutex
	shared map[string]bool // addresses of several nodes that have been told; guarded by mu
}

// New returns an Egress.
func New(o Options) *Egress {
	if o.Direct == nil {
		o.Direct = (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext
	}
	return &Egress{o: o, shared: make(map[string]bool)}
}

// Use takes nodes and pods from informers that run anyway.
func (e *Egress) Use(f informers.SharedInformerFactory) {
	nodes, pods := f.Core().V1().Nodes(), f.Core().V1().Pods()
	e.nodes, e.pods = nodes.Lister(), pods.Lister()
	e.synced = []cache.InformerSynced{nodes.Informer().HasSynced, pods.Informer().HasSynced}
}

const (
	// patience is how long informers may take at the start, and notYet how far
	// they may lag behind the API server that has just read a Node.
	patience  = 5 * time.Second
	notYet    = time.Second
	lookPause = 50 * time.Millisecond
)

func (e *Egress) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if !cache.WaitForCacheSync(ctx.Done(), e.synced...) {
		return fmt.Errorf("the API server does not know its nodes yet, after %s", patience)
	}
	return nil
}

// Kubelet connects to a kubelet at one of its node's addresses.
func (e *Egress) Kubelet(ctx context.Context, network, addr string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("connect to kubelet: %w", err)
	}
	if err := e.ready(ctx); err != nil {
		return nil, err
	}
	node := e.nodeAt(host)
	for end := time.Now().Add(notYet); node == nil && time.Now().Before(end) && pause.For(ctx, lookPause); {
		node = e.nodeAt(host)
	}
	if node == nil || e.direct(node) {
		return e.o.Direct(ctx, network, addr)
	}
	// On its loopback address a kubelet listens whatever its node's addresses are.
	return e.o.Tunnel(ctx, node.Name, net.JoinHostPort("127.0.0.1", port))
}

// direct reports whether a node has no tunnel to here: servers reach one
// another.
func (e *Egress) direct(n *corev1.Node) bool {
	_, server := n.Labels["node-role.kubernetes.io/control-plane"]
	return n.Name == e.o.OwnNode || server
}

// nodeAt returns the node that has an address. Of several the oldest has it:
// a node says itself what addresses it has, and must not take another's.
func (e *Egress) nodeAt(host string) *corev1.Node {
	all, err := e.nodes.List(labels.Everything())
	if err != nil {
		return nil // A lister of memory does not fail.
	}
	var found *corev1.Node
	several := false
	for _, n := range all {
		if !hasAddress(n, host) {
			continue
		}
		several = several || found != nil
		if found == nil || older(n, found) {
			found = n
		}
	}
	e.tellShared(host, found, several)
	return found
}

func hasAddress(n *corev1.Node, host string) bool {
	for _, a := range n.Status.Addresses {
		if a.Address == host {
			return true
		}
	}
	return false
}

func older(a, b *corev1.Node) bool {
	if a.CreationTimestamp.Equal(&b.CreationTimestamp) {
		return a.Name < b.Name
	}
	return a.CreationTimestamp.Before(&b.CreationTimestamp)
}

// tellShared logs once that nodes share an address, which cannot work.
func (e *Egress) tellShared(host string, has *corev1.Node, several bool) {
	e.mu.Lock()
	was := e.shared[host]
	if several {
		e.shared[host] = true
	} else {
		delete(e.shared, host)
	}
	e.mu.Unlock()
	if several && !was {
		e.o.Logger.Warn("several nodes claim the same address, the oldest is believed; set --node-ip on the others", "address", host, "node", has.Name)
	}
}

// Cluster connects to pods, and to whatever else the API server calls in the
// cluster.
func (e *Egress) Cluster(ctx context.Context, network, addr string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("connect into the cluster: %w", err)
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return e.o.Direct(ctx, network, addr) // A name: not of this cluster.
	}
	if err := e.ready(ctx); err != nil {
		return nil, err
	}
	n := e.nodeAt(host)
	if n != nil && port == strconv.Itoa(int(n.Status.DaemonEndpoints.KubeletEndpoint.Port)) {
		return e.Kubelet(ctx, network, addr)
	}
	if n != nil && e.o.Mode == Pod {
		return e.o.Direct(ctx, network, addr) // Nodes' own addresses are not pods'.
	}
	if n == nil {
		n = e.nodeOf(ip)
	}
	if n == nil || e.direct(n) {
		return e.o.Direct(ctx, network, addr)
	}
	return e.o.Tunnel(ctx, n.Name, net.JoinHostPort(ip.Unmap().String(), port))
}

// nodeOf returns the node on which a pod has an address.
func (e *Egress) nodeOf(ip netip.Addr) *corev1.Node {
	if e.o.Mode == Cluster {
		if n := e.nodeOfPod(ip); n != nil {
			return n
		}
	}
	all, err := e.nodes.List(labels.Everything())
	if err != nil {
		return nil // As in nodeAt.
	}
	var found *corev1.Node
	for _, n := range all {
		for _, text := range n.Spec.PodCIDRs {
			if r, err := netip.ParsePrefix(text); err == nil && r.Contains(ip.Unmap()) && (found == nil || older(n, found)) {
				found = n
			}
		}
	}
	return found
}

func (e *Egress) nodeOfPod(ip netip.Addr) *corev1.Node {
	all, err := e.pods.List(labels.Everything())
	if err != nil {
		return nil // As in nodeAt.
	}
	for _, p := range all {
		if p.Spec.HostNetwork || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
			continue
		}
		for _, a := range p.Status.PodIPs {
			if have, err := netip.ParseAddr(a.IP); err == nil && have == ip.Unmap() {
				n, err := e.nodes.Get(p.Spec.NodeName)
				if err == nil {
					return n
				}
			}
		}
	}
	return nil
}
