package gateway

import (
	"crypto/tls"
	"fmt"
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/types"
	v1 "sigs.k8s.io/gateway-api/apis/v1"

	"skiff/pkg/agent/ingress/catalog"
	"skiff/pkg/agent/ingress/edge"
)

// objects are those of the API, each kind in the order of precedence.
type objects struct {
	classes  []*v1.GatewayClass
	gateways []*v1.Gateway
	sets     []*v1.ListenerSet
	http     []*v1.HTTPRoute
	grpc     []*v1.GRPCRoute
	tls      []*v1.TLSRoute
	tcp      []*v1.TCPRoute
	grants   []*v1.ReferenceGrant
	policies []*v1.BackendTLSPolicy
}

// world is a translation while it is made, and what its statuses are made of.
type world struct {
	objects
	in       Inputs
	gateways []*gateway
	sets     []*set
	routes   []*route
	policies policies
	targets  catalog.Targets
}

// verdict is the state of a condition: good until it fails, and then for the
// first reason given.
type verdict struct{ reason, message string }

func (v *verdict) ok() bool { return v.reason == "" }

func (v *verdict) fail(reason, format string, args ...any) {
	if v.reason == "" {
		v.reason, v.message = reason, fmt.Sprintf(format, args...)
	}
}

// gateway is a Gateway of one of our classes.
type gateway struct {
	object *v1.Gateway
	// own are the listeners of the Gateway itself, all those of its sets too.
	own, all []*listener
	accepted verdict
	resolved verdict
	// apart from the other Gateways, on addresses of its own.
	apart bool
	// addresses are those of its status; address says why there is none.
	addresses []v1.GatewayStatusAddress
	address   verdict
	insecure  string // which client validation lets everybody in
	// client is the certificate shown to backends.
	client *tls.Certificate
}

// set is a ListenerSet that asks for one of our Gateways.
type set struct {
	object    *v1.ListenerSet
	gateway   *gateway
	accepted  verdict
	listeners []*listener
}

// listener is one of a Gateway or a ListenerSet.
type listener struct {
	gateway *gateway
	set     *set // nil for the Gateway's own
	spec    v1.Listener
	name    string
	// protocol is the edge's; of what is not supported kinds is empty.
	protocol edge.Protocol
	kinds    []v1.RouteGroupKind

	accepted, resolved, conflicted verdict
	attached                       int32
	edge                           edge.Listener
}

// serves reports whether the edge gets the listener.
func (l *listener) serves() bool {
	secure := l.protocol == edge.HTTPS || l.protocol == edge.TLSTerminate
	return l.gateway.accepted.ok() && (l.set == nil || l.set.accepted.ok()) &&
		l.accepted.ok() && len(l.kinds) > 0 && (!secure || len(l.edge.Certificates) > 0)
}

func (l *listener) hostname() string {
	if l.spec.Hostname == nil || l.protocol == edge.TCP {
		return ""
	}
	return string(*l.spec.Hostname)
}

func translate(o objects, in Inputs) Result {
	w := &world{objects: o, in: in, targets: make(catalog.Targets), policies: indexPolicies(o.policies)}
	w.makeGateways()
	w.makeSets()
	w.resolveConflicts()
	w.makeRoutes()
	r := Result{Targets: w.targets, Apart: make(map[string]types.NamespacedName), Kept: make(map[string]types.NamespacedName), world: w}
	for _, g := range w.gateways {
		w.assignAddresses(g)
		for _, l := range g.all {
			if !l.serves() {
				continue
			}
			r.Listeners = append(r.Listeners, l.edge)
			switch {
			case g.apart:
				r.Apart[l.name] = key(g.object)
			case len(w.ownAddresses(g)) > 0:
				r.Kept[l.name] = key(g.object)
			}
		}
	}
	return r
}

// makeGateways finds the Gateways that are ours and judges them and their
// listeners, each by itself.
func (w *world) makeGateways() {
	ours := make(map[string]bool)
	for _, c := range w.classes {
		ours[c.Name] = c.Spec.ControllerName == Controller && c.Spec.ParametersRef == nil
	}
	for _, o := range w.objects.gateways {
		if !ours[string(o.Spec.GatewayClassName)] || o.DeletionTimestamp != nil {
			continue
		}
		g := &gateway{object: o}
		w.gateways = append(w.gateways, g)
		w.judgeGateway(g)
		for _, spec := range o.Spec.Listeners {
			l := w.makeListener(g, nil, spec)
			g.own = append(g.own, l)
		}
		g.all = append(g.all, g.own...)
	}
}

// judgeGateway decides on what is not about a listener.
func (w *world) judgeGateway(g *gateway) {
	o := g.object
	if i := o.Spec.Infrastructure; i != nil && i.ParametersRef != nil {
		g.accepted.fail(string(v1.GatewayReasonInvalidParameters), "infrastructure.parametersRef: skiff knows no kind %s.%s", i.ParametersRef.Kind, i.ParametersRef.Group)
	}
	for _, a := range o.Spec.Addresses {
		if a.Type != nil && *a.Type != v1.IPAddressType {
			g.accepted.fail(string(v1.GatewayReasonUnsupportedAddress), "address %q: type %s is not supported, use %s", a.Value, *a.Type, v1.IPAddressType)
		}
	}
	if o.Spec.TLS != nil && o.Spec.TLS.Backend != nil && o.Spec.TLS.Backend.ClientCertificateRef != nil {
		from := reference{group: v1.GroupName, kind: "Gateway", namespace: o.Namespace}
		g.client = w.certificate(from, *o.Spec.TLS.Backend.ClientCertificateRef, &g.resolved, string(v1.GatewayReasonInvalidClientCertificateRef))
	}
}

// assignAddresses gives the Gateway the addresses it asks for, or all.
func (w *world) assignAddresses(g *gateway) {
	have := w.ownAddresses(g)
	if !g.apart {
		have = append(slices.Clone(w.in.Addresses), have...)
	}
	asked := false
	for _, a := range g.object.Spec.Addresses {
		switch {
		case a.Value == "":
		case !slices.Contains(have, a.Value):
			asked = true
			g.address.fail(string(v1.GatewayReasonAddressNotUsable), "address %s does not lead to this Gateway, which can have %q", a.Value, have)
		default:
			asked = true
			g.addresses = append(g.addresses, statusAddress(a.Value))
		}
	}
	if !asked {
		for _, a := range have {
			g.addresses = append(g.addresses, statusAddress(a))
		}
	}
	if len(g.addresses) == 0 {
		g.address.fail(string(v1.GatewayReasonAddressNotAssigned), "the ingress has no address for it yet")
	}
}

func (w *world) ownAddresses(g *gateway) []string {
	if w.in.Apart == nil {
		return nil
	}
	return w.in.Apart(key(g.object))
}

// statusAddress is an IP, or the name that some load balancers give.
func statusAddress(value string) v1.GatewayStatusAddress {
	kind := v1.IPAddressType
	if _, err := netip.ParseAddr(value); err != nil {
		kind = v1.HostnameAddressType
	}
	return v1.GatewayStatusAddress{Type: &kind, Value: value}
}

// makeSets adds the listeners of ListenerSets to their Gateways.
func (w *world) makeSets() {
	for _, o := range w.objects.sets {
		ref := o.Spec.ParentRef
		if or(ref.Group, v1.GroupName) != v1.GroupName || or(ref.Kind, "Gateway") != "Gateway" {
			continue
		}
		g := w.gateway(types.NamespacedName{Namespace: string(or(ref.Namespace, v1.Namespace(o.Namespace))), Name: string(ref.Name)})
		if g == nil || o.DeletionTimestamp != nil {
			continue
		}
		s := &set{object: o, gateway: g}
		w.sets = append(w.sets, s)
		var from *v1.FromNamespaces
		none := v1.NamespacesFromNone
		allowed := namespaces{from: &none}
		if a := g.object.Spec.AllowedListeners; a != nil && a.Namespaces != nil {
			if from = a.Namespaces.From; from != nil {
				allowed = namespaces{from: from, selector: a.Namespaces.Selector}
			}
		}
		if !w.allows(allowed, g.object.Namespace, o.Namespace) {
			s.accepted.fail(string(v1.ListenerSetReasonNotAllowed), "allowedListeners of Gateway %s does not let ListenerSets of namespace %s in", key(g.object), o.Namespace)
			continue
		}
		for _, e := range o.Spec.Listeners {
			l := w.makeListener(g, s, v1.Listener(e))
			s.listeners = append(s.listeners, l)
			g.all = append(g.all, l)
		}
	}
}

func (w *world) gateway(name types.NamespacedName) *gateway {
	for _, g := range w.gateways {
		if key(g.object) == name {
			return g
		}
	}
	return nil
}

func (w *world) set(name types.NamespacedName) *set {
	for _, s := range w.sets {
		if key(s.object) == name {
			return s
		}
	}
	return nil
}

// or is *p, or what counts where nothing is given.
func or[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}
