// Package catalog is what the translators of routes (Ingress, Gateway API) share:
// how they look up the Services and Secrets that objects refer to, and how they
// name the backends that the edge sends requests to. It must not know how
// objects get here nor what a route is. Start reading at Lookup and Target.
package catalog

import (
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"skiff/pkg/agent/ingress/edge"
)

// Lookup finds objects by namespace and name. Its functions return nil for what
// does not exist, and what they return must not be changed. What was asked for
// is watched from then on: when it changes, routes are translated anew.
type Lookup struct {
	Namespace func(name string) *corev1.Namespace
	Service   func(namespace, name string) *corev1.Service
	Secret    func(namespace, name string) *corev1.Secret
	ConfigMap func(namespace, name string) *corev1.ConfigMap
}

// Target is a port of a Service, reached in one way. The controller fills in the
// endpoints.
type Target struct {
	Service types.NamespacedName
	// Port is the name of the Service's port, which may be empty: EndpointSlices
	// call it the same.
	Port string
	// Backend is all but the endpoints.
	Backend edge.Backend
}

// Targets are the backends by the key that routes use.
type Targets map[string]Target

// Add notes the target and returns its key. Variant tells targets of one port
// apart that are reached in different ways; it is empty for plain HTTP.
func (t Targets) Add(service *corev1.Service, port corev1.ServicePort, variant string, backend edge.Backend) string {
	key := fmt.Sprintf("%s/%s:%d", service.Namespace, service.Name, port.Port)
	if variant != "" {
		key += "|" + variant
	}
	t[key] = Target{Service: types.NamespacedName{Namespace: service.Namespace, Name: service.Name}, Port: port.Name, Backend: backend}
	return key
}

// Endpoints are the ready addresses of a Service's port in its slices. While
// none is ready, those that still serve though they are to end are taken.
func Endpoints(slices []*discoveryv1.EndpointSlice, port string) []edge.Endpoint {
	ready, serving := make(map[netip.AddrPort]bool), make(map[netip.AddrPort]bool)
	for _, s := range slices {
		number, ok := portNumber(s, port)
		if !ok {
			continue
		}
		for _, e := range s.Endpoints {
			for _, a := range e.Addresses {
				addr, err := netip.ParseAddr(a)
				if err != nil {
					continue // an FQDN slice
				}
				switch at := netip.AddrPortFrom(addr, number); {
				case e.Conditions.Ready == nil || *e.Conditions.Ready:
					ready[at] = true
				case e.Conditions.Serving != nil && *e.Conditions.Serving:
					serving[at] = true
				}
			}
		}
	}
	if len(ready) == 0 {
		ready = serving
	}
	return sorted(ready)
}

func portNumber(s *discoveryv1.EndpointSlice, name string) (uint16, bool) {
	for _, p := range s.Ports {
		if p.Port == nil || *p.Port < 1 || *p.Port > 65535 {
			continue
		}
		if p.Name == nil && name == "" || p.Name != nil && *p.Name == name {
			return uint16(*p.Port), true
		}
	}
	return 0, false
}
