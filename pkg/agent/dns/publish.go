package dns

import (
	"context"
	"errors"
	"net/netip"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	discoveryac "k8s.io/client-go/applyconfigurations/discovery/v1"
	metaac "k8s.io/client-go/applyconfigurations/meta/v1"
	"k8s.io/client-go/tools/cache"

	"skiff/internal/signal"
)

const (
	serviceName  = "kube-dns"
	fieldManager = "skiff-dns"
	managedBy    = "dns.skiff.dev"
)

// sliceNames are the names of the EndpointSlices of one node: for the cluster's
// first IP family and for the second.
func sliceNames(node string) []string {
	return []string{serviceName + "-" + node, serviceName + "2-" + node}
}

// publishAll publishes each address until ctx ends, and removes what is left of
// a second one.
func publishAll(ctx context.Context, c *client, o Options, listen []netip.AddrPort) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for i, name := range sliceNames(o.NodeName) {
		if i < len(listen) {
			wg.Go(func() { publish(ctx, c, o, name, listen[i]) })
			continue
		}
		wg.Go(func() {
			// The error is that ctx has ended.
			_ = retryUntil(ctx, o.Logger, "remove an old endpoint of cluster DNS", func(ctx context.Context) error { return removeSlice(ctx, c, name) })
		})
	}
}

// publish keeps one EndpointSlice of this node as it should be until ctx ends.
// It is re-created when somebody deletes it. It is not removed at the end: pods
// keep running while skiff restarts, and the same address is used again.
func publish(ctx context.Context, c *client, o Options, name string, listen netip.AddrPort) {
	lw := cache.NewListWatchFromClient(c.DiscoveryV1().RESTClient(), "endpointslices", metav1.NamespaceSystem,
		fields.OneTermEqualSelector("metadata.name", name))
	informer := cache.NewSharedIndexInformer(lw, &discoveryv1.EndpointSlice{}, 0, cache.Indexers{})
	touched := signal.New()
	// The error is for informers that have stopped; this one has not started.
	_, _ = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		UpdateFunc: func(_, n any) {
			if s, ok := n.(*discoveryv1.EndpointSlice); ok && !pointsTo(s, listen) {
				touched.Send()
			}
		},
		DeleteFunc: func(any) { touched.Send() },
	})
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { informer.RunWithContext(ctx) })

	for {
		err := retryUntil(ctx, o.Logger, "publish cluster DNS", func(ctx context.Context) error {
			return applySlice(ctx, c, o.NodeName, name, listen)
		})
		if err != nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-touched:
		}
	}
}

// applySlice writes the EndpointSlice. It belongs to the Node, so that the
// garbage collector removes it with the node.
func applySlice(ctx context.Context, c *client, node, name string, listen netip.AddrPort) error {
	n, err := c.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
	if err != nil {
		return err
	}
	kind := discoveryv1.AddressTypeIPv4
	if listen.Addr().Is6() {
		kind = discoveryv1.AddressTypeIPv6
	}
	port := func(name string, p corev1.Protocol) *discoveryac.EndpointPortApplyConfiguration {
		return discoveryac.EndpointPort().WithName(name).WithProtocol(p).WithPort(int32(listen.Port()))
	}
	s := discoveryac.EndpointSlice(name, metav1.NamespaceSystem).
		WithLabels(map[string]string{discoveryv1.LabelServiceName: serviceName, discoveryv1.LabelManagedBy: managedBy}).
		WithOwnerReferences(metaac.OwnerReference().WithAPIVersion("v1").WithKind("Node").WithName(n.Name).WithUID(n.UID)).
		WithAddressType(kind).
		WithPorts(port("dns", corev1.ProtocolUDP), port("dns-tcp", corev1.ProtocolTCP)).
		WithEndpoints(discoveryac.Endpoint().WithAddresses(listen.Addr().String()).WithNodeName(node).
			WithConditions(discoveryac.EndpointConditions().WithReady(true).WithServing(true).WithTerminating(false)))
	_, err = c.DiscoveryV1().EndpointSlices(metav1.NamespaceSystem).Apply(ctx, s, metav1.ApplyOptions{FieldManager: fieldManager, Force: true})
	return err
}

// pointsTo reports whether s says what applySlice wrote.
func pointsTo(s *discoveryv1.EndpointSlice, listen netip.AddrPort) bool {
	if len(s.Endpoints) != 1 || len(s.Endpoints[0].Addresses) != 1 || len(s.Ports) != 2 ||
		s.Labels[discoveryv1.LabelServiceName] != serviceName {
		return false
	}
	for _, p := range s.Ports {
		if p.Port == nil || *p.Port != int32(listen.Port()) {
			return false
		}
	}
	return s.Endpoints[0].Addresses[0] == listen.Addr().String()
}

// unpublish removes the EndpointSlices.
func unpublish(ctx context.Context, c *client, node string) error {
	var errs []error
	for _, name := range sliceNames(node) {
		errs = append(errs, removeSlice(ctx, c, name))
	}
	return errors.Join(errs...)
}

func removeSlice(ctx context.Context, c *client, name string) error {
	err := c.DiscoveryV1().EndpointSlices(metav1.NamespaceSystem).Delete(ctx, name, metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
