package gateway

import (
	"cmp"
	"encoding/hex"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	v1 "sigs.k8s.io/gateway-api/apis/v1"

	"skiff/pkg/agent/ingress/catalog"
	"skiff/pkg/agent/ingress/edge"
)

// What Services say their port speaks, in appProtocol.
const (
	appH2C = "kubernetes.io/h2c"
	appWS  = "kubernetes.io/ws"
	appWSS = "kubernetes.io/wss"
)

// builder compiles one route for one Gateway.
type builder struct {
	w       *world
	route   *route
	gateway *gateway
	built   *built
}

// built is a compiled route.
type built struct {
	routes  []edge.Route
	streams []edge.StreamRoute // of connections passed on as they are
	ended   []edge.StreamRoute // of connections whose TLS ended here
	// resolved is about references, unusable about what makes the whole route
	// useless, partial about single rules.
	resolved, unusable, partial verdict
	targets                     catalog.Targets
	policies                    []*policy // all that are about the backends
}

// reach is how a route wants to speak to its backends.
type reach int

const (
	overHTTP   reach = iota
	overGRPC         // HTTP/2 always
	overStream       // no TLS of ours
	overTLS          // a stream, in TLS if a policy says so
)

func (b *builder) reference() reference {
	return reference{group: v1.GroupName, kind: b.route.kind, namespace: b.route.meta.Namespace}
}

// backend returns the key of the backend that is referred to. It is empty, and
// the verdict says why, when there is none.
func (b *builder) backend(ref v1.BackendObjectReference, how reach) string {
	v := &b.built.resolved
	if or(ref.Group, "") != "" || or(ref.Kind, "Service") != "Service" {
		v.fail(string(v1.RouteReasonInvalidKind), "backend %s: kind %s is not supported, use a Service", ref.Name, or(ref.Kind, "Service"))
		return ""
	}
	name := types.NamespacedName{Namespace: string(or(ref.Namespace, v1.Namespace(b.route.meta.Namespace))), Name: string(ref.Name)}
	if !b.w.granted(b.reference(), "Service", name) {
		v.fail(string(v1.RouteReasonRefNotPermitted), "no ReferenceGrant in %s lets a %s of %s use Service %s", name.Namespace, b.route.kind, b.route.meta.Namespace, name.Name)
		return ""
	}
	service := b.w.in.Lookup.Service(name.Namespace, name.Name)
	if service == nil {
		v.fail(string(v1.RouteReasonBackendNotFound), "service %s does not exist", name)
		return ""
	}
	if service.Spec.Type == corev1.ServiceTypeExternalName {
		v.fail(string(v1.RouteReasonUnsupportedValue), "service %s is of type ExternalName, which has no endpoints", name)
		return ""
	}
	for _, port := range service.Spec.Ports {
		if ref.Port != nil && port.Port == *ref.Port && cmp.Or(port.Protocol, corev1.ProtocolTCP) == corev1.ProtocolTCP {
			return b.target(service, port, how)
		}
	}
	v.fail(string(v1.RouteReasonBackendNotFound), "service %s has no TCP port %d", name, or(ref.Port, 0))
	return ""
}

// target adds a way to reach a port of a Service.
func (b *builder) target(service *corev1.Service, port corev1.ServicePort, how reach) string {
	var backend edge.Backend
	variant, app := "", or(port.AppProtocol, "")
	if how != overStream {
		p, wanted := b.policy(service, port)
		switch {
		case wanted && p == nil:
			return "" // to speak without TLS would tell secrets: better an error
		case wanted:
			backend.TLS, variant = b.clientTLS(p)
		}
	}
	switch {
	case how == overStream || how == overTLS || backend.TLS != nil:
	case app == appWSS:
		b.built.resolved.fail(string(v1.RouteReasonUnsupportedProtocol), "port %d of service %s/%s speaks %s: a BackendTLSPolicy must say whom to trust", port.Port, service.Namespace, service.Name, app)
		return ""
	case how == overGRPC || app == appH2C:
		backend.Protocol, variant = edge.BackendH2C, "h2c"
	}
	if b.built.targets == nil {
		b.built.targets = make(catalog.Targets)
	}
	return b.built.targets.Add(service, port, variant, backend)
}

// clientTLS is how the Gateway speaks TLS to the backends of a policy. The
// variant is another for each other way to.
func (b *builder) clientTLS(p *policy) (*edge.BackendTLS, string) {
	t := p.tls
	variant := "tls:" + p.sum
	if c := b.gateway.client; c != nil {
		t.Certificate = c
		variant += ":" + hex.EncodeToString(digest(c.Certificate[0]))
	}
	return &t, variant
}

// weighted is the backends of a rule of any kind.
func (b *builder) weighted(ref v1.BackendRef, how reach) edge.WeightedBackend {
	return edge.WeightedBackend{Backend: b.backend(ref.BackendObjectReference, how), Weight: int(or(ref.Weight, 1))}
}

// tlsRules compiles the rules of a TLSRoute for both modes of TLS listeners.
func (b *builder) tlsRules(rules []v1.TLSRouteRule) {
	for _, rule := range rules {
		passed, ended := edge.StreamRoute{Name: b.route.name()}, edge.StreamRoute{Name: b.route.name()}
		for _, ref := range rule.BackendRefs {
			passed.Backends = append(passed.Backends, b.weighted(ref, overStream))
			ended.Backends = append(ended.Backends, b.weighted(ref, overTLS))
		}
		b.built.streams = append(b.built.streams, passed)
		b.built.ended = append(b.built.ended, ended)
	}
}

func (b *builder) tcpRules(rules []v1.TCPRouteRule) {
	for _, rule := range rules {
		s := edge.StreamRoute{Name: b.route.name()}
		for _, ref := range rule.BackendRefs {
			s.Backends = append(s.Backends, b.weighted(ref, overStream))
		}
		b.built.streams = append(b.built.streams, s)
	}
}

// ruleName is how a message calls a rule.
func ruleName(i int, name *v1.SectionName) string {
	if name != nil {
		return fmt.Sprintf("rule %q", *name)
	}
	return fmt.Sprintf("rule %d", i)
}
