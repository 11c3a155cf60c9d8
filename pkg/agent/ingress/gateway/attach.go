package gateway

import (
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	v1 "sigs.k8s.io/gateway-api/apis/v1"

	"skiff/pkg/agent/ingress/edge"
)

// route is a route of any kind.
type route struct {
	kind      v1.Kind
	meta      *metav1.ObjectMeta
	spec      v1.CommonRouteSpec
	hostnames []v1.Hostname
	// compile turns the rules into what the edge does for a Gateway.
	compile  func(*builder)
	compiled map[*gateway]*built
	parents  []*parent
}

// parent is what became of one parentRef that names one of our Gateways.
type parent struct {
	ref      v1.ParentReference
	accepted verdict
	built    *built
}

// name is the route's in the edge.
func (r *route) name() string {
	return strings.ToLower(string(r.kind)) + "/" + key(r.meta).String()
}

// makeRoutes attaches all routes, the oldest first whatever its kind.
func (w *world) makeRoutes() {
	for _, o := range w.http {
		w.routes = append(w.routes, &route{kind: "HTTPRoute", meta: &o.ObjectMeta, spec: o.Spec.CommonRouteSpec, hostnames: o.Spec.Hostnames, compile: func(b *builder) { b.httpRules(o.Spec.Rules) }})
	}
	for _, o := range w.grpc {
		w.routes = append(w.routes, &route{kind: "GRPCRoute", meta: &o.ObjectMeta, spec: o.Spec.CommonRouteSpec, hostnames: o.Spec.Hostnames, compile: func(b *builder) { b.grpcRules(o.Spec.Rules) }})
	}
	for _, o := range w.tls {
		w.routes = append(w.routes, &route{kind: "TLSRoute", meta: &o.ObjectMeta, spec: o.Spec.CommonRouteSpec, hostnames: o.Spec.Hostnames, compile: func(b *builder) { b.tlsRules(o.Spec.Rules) }})
	}
	for _, o := range w.tcp {
		w.routes = append(w.routes, &route{kind: "TCPRoute", meta: &o.ObjectMeta, spec: o.Spec.CommonRouteSpec, compile: func(b *builder) { b.tcpRules(o.Spec.Rules) }})
	}
	slices.SortStableFunc(w.routes, func(a, b *route) int { return precedence(a.meta, b.meta) })
	for _, r := range w.routes {
		if r.meta.DeletionTimestamp != nil {
			continue
		}
		seen := make(map[*listener]bool)
		for _, ref := range r.spec.ParentRefs {
			if g, listeners, ok := w.parentListeners(r, ref); ok {
				w.attach(r, ref, g, listeners, seen)
			}
		}
	}
}

// parentListeners finds what a parentRef names. It is not ours to judge unless
// ok.
func (w *world) parentListeners(r *route, ref v1.ParentReference) (g *gateway, listeners []*listener, ok bool) {
	if or(ref.Group, v1.GroupName) != v1.GroupName {
		return nil, nil, false
	}
	name := types.NamespacedName{Namespace: string(or(ref.Namespace, v1.Namespace(r.meta.Namespace))), Name: string(ref.Name)}
	switch or(ref.Kind, "Gateway") {
	case "Gateway":
		if g := w.gateway(name); g != nil {
			return g, g.own, true
		}
	case "ListenerSet":
		if s := w.set(name); s != nil {
			return s.gateway, s.listeners, true
		}
	}
	return nil, nil, false
}

// attach puts the route on the listeners that the reference names and that want
// it. One that two references name gets the route once.
func (w *world) attach(r *route, ref v1.ParentReference, g *gateway, listeners []*listener, seen map[*listener]bool) {
	p := &parent{ref: ref, built: w.build(r, g)}
	r.parents = append(r.parents, p)
	named, allowed, attached := 0, 0, 0
	for _, l := range listeners {
		if ref.SectionName != nil && *ref.SectionName != l.spec.Name || ref.Port != nil && *ref.Port != l.spec.Port {
			continue
		}
		named++
		if !w.lets(l, r) {
			continue
		}
		allowed++
		hosts, ok := intersect(l.hostname(), r.hostnames)
		if !ok {
			continue
		}
		attached++
		if !seen[l] {
			seen[l] = true
			l.attached++
			p.built.putOn(l, hosts)
			w.use(p.built, g)
		}
	}
	at := key(g.object)
	switch {
	case attached > 0:
		p.accepted = p.built.unusable
	case named == 0:
		p.accepted.fail(string(v1.RouteReasonNoMatchingParent), "Gateway %s has no listener with the sectionName and port of this parentRef", at)
	case allowed == 0:
		p.accepted.fail(string(v1.RouteReasonNotAllowedByListeners), "allowedRoutes of the listeners of Gateway %s do not let a %s of namespace %s in", at, r.kind, r.meta.Namespace)
	default:
		p.accepted.fail(string(v1.RouteReasonNoMatchingListenerHostname), "none of the hostnames is one of the listeners of Gateway %s", at)
	}
}

// lets reports whether a listener's allowedRoutes let the route in.
func (w *world) lets(l *listener, r *route) bool {
	if !slices.ContainsFunc(l.kinds, func(k v1.RouteGroupKind) bool { return k.Kind == r.kind }) {
		return false
	}
	var n namespaces
	if a := l.spec.AllowedRoutes; a != nil && a.Namespaces != nil {
		n = namespaces{from: a.Namespaces.From, selector: a.Namespaces.Selector}
	}
	return w.allows(n, l.namespace(), r.meta.Namespace)
}

// build compiles a route for a Gateway, once.
func (w *world) build(r *route, g *gateway) *built {
	if b := r.compiled[g]; b != nil {
		return b
	}
	b := &builder{w: w, route: r, gateway: g, built: &built{}}
	r.compile(b)
	if r.compiled == nil {
		r.compiled = make(map[*gateway]*built)
	}
	r.compiled[g] = b.built
	return b.built
}

// use notes that the Gateway needs what the route refers to.
func (w *world) use(b *built, g *gateway) {
	maps.Copy(w.targets, b.targets)
	for _, p := range b.policies {
		if !slices.Contains(p.ancestors, g) {
			p.ancestors = append(p.ancestors, g)
		}
	}
}

// putOn adds the route to a listener.
func (b *built) putOn(l *listener, hosts []string) {
	if len(b.routes) > 0 {
		l.edge.Hosts = append(l.edge.Hosts, edge.VirtualHost{Hosts: hosts, Routes: b.routes})
	}
	streams := b.streams
	if l.protocol == edge.TLSTerminate {
		streams = b.ended
	}
	for _, s := range streams {
		s.Hosts = hosts
		l.edge.Streams = append(l.edge.Streams, s)
	}
}

// intersect returns the hosts that both a listener and a route want: none of
// them means any host.
func intersect(listener string, route []v1.Hostname) (hosts []string, ok bool) {
	listener = strings.ToLower(listener)
	if len(route) == 0 {
		if listener == "" {
			return nil, true
		}
		return []string{listener}, true
	}
	for _, h := range route {
		host := strings.ToLower(string(h))
		switch {
		case listener == "" || host == listener || within(host, listener):
			hosts = append(hosts, host)
		case within(listener, host):
			hosts = append(hosts, listener)
		}
	}
	return hosts, len(hosts) > 0
}

// within reports whether all that host stands for is below the wildcard.
func within(host, wildcard string) bool {
	suffix, ok := strings.CutPrefix(wildcard, "*")
	return ok && strings.HasSuffix(host, suffix) && len(host) > len(suffix)
}
