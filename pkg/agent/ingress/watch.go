package ingress

import (
	"fmt"
	"maps"
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"skiff/pkg/agent/ingress/catalog"
	"skiff/pkg/agent/ingress/edge"
	"skiff/pkg/kube/reconcile"
)

// byService is the index of EndpointSlices by the Service they are of.
const byService = "service"

// watch makes the informers.
func (c *controller) watch(factory informers.SharedInformerFactory) error {
	c.ingresses = factory.Networking().V1().Ingresses().Informer()
	c.classes = factory.Networking().V1().IngressClasses().Informer()
	c.services = factory.Core().V1().Services().Informer()
	c.slices = factory.Discovery().V1().EndpointSlices().Informer()
	c.namespaces = factory.Core().V1().Namespaces().Informer()
	if err := c.slices.AddIndexers(cache.Indexers{byService: func(object any) ([]string, error) {
		s, ok := object.(*discoveryv1.EndpointSlice)
		if !ok {
			return nil, fmt.Errorf("index EndpointSlices: got a %T", object)
		}
		return []string{s.Namespace + "/" + s.Labels[discoveryv1.LabelServiceName]}, nil
	}}); err != nil {
		return fmt.Errorf("index EndpointSlices: %w", err)
	}
	if err := reconcile.OnChange(c.changed, matters, c.ingresses, c.classes, c.services, c.namespaces); err != nil {
		return err
	}
	return reconcile.OnChange(c.moved.Send, nil, c.slices)
}

// matters reports whether routes may depend on the difference: not when only the
// status has changed, except for that of our own Services.
func matters(before, after any) bool {
	switch b := before.(type) {
	case *networkingv1.Ingress:
		a, ok := after.(*networkingv1.Ingress)
		return !ok || a.Generation != b.Generation || !maps.Equal(a.Annotations, b.Annotations) ||
			!reflect.DeepEqual(a.DeletionTimestamp, b.DeletionTimestamp)
	case *corev1.Service:
		a, ok := after.(*corev1.Service)
		return !ok || !reflect.DeepEqual(a.Spec, b.Spec) || a.Labels[managedByLabel] == managedBy
	case *corev1.Namespace:
		a, ok := after.(*corev1.Namespace)
		return !ok || !maps.Equal(a.Labels, b.Labels)
	}
	return true
}

// trim drops what is not looked at, before it is kept.
func trim(object any) (any, error) {
	m, err := meta.Accessor(object)
	if err != nil {
		return object, nil // a tombstone
	}
	m.SetManagedFields(nil)
	switch o := object.(type) {
	case *discoveryv1.EndpointSlice:
		o.Annotations, o.OwnerReferences = nil, nil
		for i, e := range o.Endpoints {
			o.Endpoints[i] = discoveryv1.Endpoint{Addresses: e.Addresses, Conditions: e.Conditions}
		}
	case *corev1.Service:
		if gateway, ok := o.Annotations[gatewayAnnotation]; ok {
			o.Annotations = map[string]string{gatewayAnnotation: gateway}
		} else {
			o.Annotations = nil
		}
	case *corev1.Namespace:
		o.Annotations, o.Spec = nil, corev1.NamespaceSpec{}
	}
	return object, nil
}

// objects are all that an informer has.
func objects[T any](i cache.SharedIndexInformer) []*T {
	list := i.GetStore().List()
	out := make([]*T, 0, len(list))
	for _, object := range list {
		if o, ok := object.(*T); ok {
			out = append(out, o)
		}
	}
	return out
}

func lookup[T any](i cache.SharedIndexInformer) func(name string) *T {
	return func(name string) *T {
		object, _, _ := i.GetStore().GetByKey(name)
		o, _ := object.(*T)
		return o
	}
}

func lookupIn[T any](i cache.SharedIndexInformer) func(namespace, name string) *T {
	byKey := lookup[T](i)
	return func(namespace, name string) *T { return byKey(namespace + "/" + name) }
}

// setTargets notes what is proxied to, and where that is.
func (c *controller) setTargets(r round) {
	c.targets = make(catalog.Targets, len(r.rules.Targets)+len(r.gateway.Targets))
	maps.Copy(c.targets, r.rules.Targets)
	maps.Copy(c.targets, r.gateway.Targets)
	c.endpoints = make(map[string][]edge.Endpoint, len(c.targets))
	for key, t := range c.targets {
		c.endpoints[key] = c.locate(t)
	}
}

// move gives the proxy the endpoints that have changed.
func (c *controller) move() {
	for key, t := range c.targets {
		if now := c.locate(t); !slices.Equal(now, c.endpoints[key]) {
			c.endpoints[key] = now
			c.edge.SetEndpoints(key, now)
		}
	}
}

func (c *controller) locate(t catalog.Target) []edge.Endpoint {
	// The index exists: watch has added it.
	list, _ := c.slices.GetIndexer().ByIndex(byService, t.Service.String())
	found := make([]*discoveryv1.EndpointSlice, 0, len(list))
	for _, object := range list {
		if s, ok := object.(*discoveryv1.EndpointSlice); ok {
			found = append(found, s)
		}
	}
	return catalog.Endpoints(found, t.Port)
}

// ownServices are the Services that this package has made.
func (c *controller) ownServices() []*corev1.Service {
	var out []*corev1.Service
	for _, s := range objects[corev1.Service](c.services) {
		if s.Namespace == metav1.NamespaceSystem && s.Labels[managedByLabel] == managedBy {
			out = append(out, s)
		}
	}
	return out
}
