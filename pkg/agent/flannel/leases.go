package flannel

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/flannel-io/flannel/pkg/ip"
	"github.com/flannel-io/flannel/pkg/lease"
	"github.com/flannel-io/flannel/pkg/subnet"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// Annotations by which flannel's nodes tell each other about themselves. They
// are upstream's names, which tools know.
const (
	annotationManaged  = "flannel.alpha.coreos.com/kube-subnet-manager"
	annotationType     = "flannel.alpha.coreos.com/backend-type"
	annotationData     = "flannel.alpha.coreos.com/backend-data"
	annotationDataV6   = "flannel.alpha.coreos.com/backend-v6-data"
	annotationPublic   = "flannel.alpha.coreos.com/public-ip"
	annotationPublicV6 = "flannel.alpha.coreos.com/public-ipv6"
)

// leases tells flannel's back ends about nodes. Unlike flannel's own manager
// for Kubernetes it is bound to a context, polls nothing and reads no
// environment.
type leases struct {
	client   kubernetes.Interface
	nodeName string
	pods     []netip.Prefix // this node's
	config   *subnet.Config
	logger   *slog.Logger
}

var _ subnet.Manager = (*leases)(nil)

// Name implements subnet.Manager.
func (l *leases) Name() string { return "skiff" }

// GetNetworkConfig implements subnet.Manager.
func (l *leases) GetNetworkConfig(context.Context) (*subnet.Config, error) { return l.config, nil }

// HandleSubnetFile implements subnet.Manager: the file is for flannel's CNI
// plug-in, which skiff does not use.
func (l *leases) HandleSubnetFile(string, *subnet.Config, bool, ip.IP4Net, ip.IP6Net, int) error {
	return nil
}

// AcquireLease implements subnet.Manager: it writes down for the other nodes
// how this one's pods are reached.
func (l *leases) AcquireLease(ctx context.Context, attrs *lease.LeaseAttrs) (*lease.Lease, error) {
	own := &lease.Lease{Attrs: *attrs, Expiration: time.Now().Add(24 * time.Hour)}
	l.setSubnets(own, l.pods)
	notes := map[string]*string{
		annotationManaged: new("true"),
		annotationType:    &attrs.BackendType,
	}
	if l.config.EnableIPv4 {
		notes[annotationData] = text(attrs.BackendData)
		notes[annotationPublic] = new(attrs.PublicIP.String())
	}
	if l.config.EnableIPv6 && attrs.PublicIPv6 != nil {
		notes[annotationDataV6] = text(attrs.BackendV6Data)
		notes[annotationPublicV6] = new(attrs.PublicIPv6.String())
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": notes}})
	if err != nil {
		return nil, fmt.Errorf("annotate node: %w", err)
	}
	if l.written(ctx, notes) {
		return own, nil
	}
	if _, err := l.client.CoreV1().Nodes().Patch(ctx, l.nodeName, types.MergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil {
		return nil, fmt.Errorf("annotate node: %w", err)
	}
	return own, nil
}

// written reports whether the node says so already: a start needs no write, nor
// a server that could take it.
func (l *leases) written(ctx context.Context, notes map[string]*string) bool {
	n, err := l.client.CoreV1().Nodes().Get(ctx, l.nodeName, metav1.GetOptions{})
	if err != nil {
		return false // The write will say why.
	}
	for key, want := range notes {
		if have, ok := n.Annotations[key]; !ok || have != *want {
			return false
		}
	}
	return true
}

func text(raw json.RawMessage) *string {
	if raw == nil {
		return new("null")
	}
	return new(string(raw))
}

func (l *leases) setSubnets(to *lease.Lease, pods []netip.Prefix) {
	for _, p := range pods {
		ipnet := &net.IPNet{IP: p.Masked().Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
		switch {
		case p.Addr().Is4() && l.config.EnableIPv4:
			to.EnableIPv4, to.Subnet = true, ip.FromIPNet(ipnet)
		case p.Addr().Is6() && l.config.EnableIPv6:
			to.EnableIPv6, to.IPv6Subnet = true, ip.FromIP6Net(ipnet)
		}
	}
}

// WatchLeases implements subnet.Manager. As flannel expects, it closes
// receiver when ctx has ended.
func (l *leases) WatchLeases(ctx context.Context, receiver chan []lease.LeaseWatchResult) error {
	defer close(receiver)
	factory := informers.NewSharedInformerFactory(l.client, 0)
	informer := factory.Core().V1().Nodes().Informer()
	var (
		mu    sync.Mutex
		queue []lease.Event
		kick  = make(chan struct{}, 1)
	)
	add := func(kind lease.EventType, obj any) {
		event, ok := l.event(kind, obj)
		if !ok {
			return
		}
		mu.Lock()
		queue = append(queue, event)
		mu.Unlock()
		select {
		case kick <- struct{}{}:
		default:
		}
	}
	if err := informer.SetTransform(slim); err != nil {
		return fmt.Errorf("watch nodes: %w", err)
	}
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) { add(lease.EventAdded, obj) },
		UpdateFunc: func(before, after any) {
			if !sameNode(before, after) {
				add(lease.EventAdded, after)
			}
		},
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			add(lease.EventRemoved, obj)
		},
	}); err != nil {
		return fmt.Errorf("watch nodes: %w", err)
	}
	factory.StartWithContext(ctx)
	defer factory.Shutdown()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-kick:
		}
		mu.Lock()
		batch := queue
		queue = nil
		mu.Unlock()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case receiver <- []lease.LeaseWatchResult{{Events: batch}}:
		}
	}
}

// slim keeps of a Node what leases read, so that a cluster's nodes cost little
// memory on each of them.
func slim(obj any) (any, error) {
	n, ok := obj.(*corev1.Node)
	if !ok {
		return obj, nil
	}
	small := &corev1.Node{}
	small.Name, small.ResourceVersion, small.UID = n.Name, n.ResourceVersion, n.UID
	small.Spec.PodCIDRs = n.Spec.PodCIDRs
	small.Annotations = map[string]string{}
	for _, key := range annotations() {
		if v, ok := n.Annotations[key]; ok {
			small.Annotations[key] = v
		}
	}
	return small, nil
}

func annotations() []string {
	return []string{annotationManaged, annotationType, annotationData, annotationDataV6, annotationPublic, annotationPublicV6}
}

func sameNode(before, after any) bool {
	a, ok1 := before.(*corev1.Node)
	b, ok2 := after.(*corev1.Node)
	if !ok1 || !ok2 || len(a.Spec.PodCIDRs) != len(b.Spec.PodCIDRs) {
		return false
	}
	for _, key := range annotations() {
		if a.Annotations[key] != b.Annotations[key] {
			return false
		}
	}
	return true
}

// event turns a node into an event about its lease; ok is false for a node
// that has not yet said how it is reached, and for this one.
func (l *leases) event(kind lease.EventType, obj any) (lease.Event, bool) {
	n, ok := obj.(*corev1.Node)
	if !ok || n.Name == l.nodeName || n.Annotations[annotationManaged] != "true" {
		return lease.Event{}, false
	}
	var pods []netip.Prefix
	for _, s := range n.Spec.PodCIDRs {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			l.logger.Warn("node ignored: its pod range cannot be read", "node", n.Name, "error", err)
			return lease.Event{}, false
		}
		pods = append(pods, p)
	}
	e := lease.Event{Type: kind}
	l.setSubnets(&e.Lease, pods)
	e.Lease.Attrs.BackendType = n.Annotations[annotationType]
	e.Lease.Attrs.BackendData = json.RawMessage(n.Annotations[annotationData])
	e.Lease.Attrs.BackendV6Data = json.RawMessage(n.Annotations[annotationDataV6])
	if e.Lease.EnableIPv4 {
		a, err := ip.ParseIP4(n.Annotations[annotationPublic])
		if err != nil {
			return lease.Event{}, false
		}
		e.Lease.Attrs.PublicIP = a
	}
	if e.Lease.EnableIPv6 {
		a, err := ip.ParseIP6(n.Annotations[annotationPublicV6])
		if err != nil {
			return lease.Event{}, false
		}
		e.Lease.Attrs.PublicIPv6 = a
	}
	return e, e.Lease.EnableIPv4 || e.Lease.EnableIPv6
}

// GetStoredMacAddresses implements subnet.Manager: the address of the tunnel's
// end stays the same over restarts, so that other nodes need not learn anew.
func (l *leases) GetStoredMacAddresses(ctx context.Context) (v4, v6 string) {
	n, err := l.client.CoreV1().Nodes().Get(ctx, l.nodeName, metav1.GetOptions{})
	if err != nil {
		l.logger.Debug("read the tunnel's hardware address", "error", err)
		return "", ""
	}
	return mac(n.Annotations[annotationData]), mac(n.Annotations[annotationDataV6])
}

func mac(data string) string {
	var v struct{ VtepMAC string }
	if err := json.Unmarshal([]byte(data), &v); err != nil {
		return ""
	}
	return v.VtepMAC
}

// GetStoredPublicIP implements subnet.Manager.
func (l *leases) GetStoredPublicIP(context.Context) (v4, v6 string) { return "", "" }

// CompleteLease implements subnet.Manager.
func (l *leases) CompleteLease(context.Context, *lease.Lease, *sync.WaitGroup) error { return nil }

// RenewLease implements subnet.Manager.
func (l *leases) RenewLease(context.Context, *lease.Lease) error { return errNotNeeded }

// WatchLease implements subnet.Manager.
func (l *leases) WatchLease(context.Context, ip.IP4Net, ip.IP6Net, chan []lease.LeaseWatchResult) error {
	return errNotNeeded
}
