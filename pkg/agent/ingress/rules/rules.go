// Package rules turns Ingress objects (networking.k8s.io/v1) into routes of the
// edge. It is a function of what it is given; it must not know where objects
// come from nor write any. Start reading at Translate; annotations.go has the
// table of annotations.
package rules

import (
	"cmp"
	"crypto/tls"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"

	"skiff/pkg/agent/ingress/catalog"
	"skiff/pkg/agent/ingress/edge"
)

const (
	// Controller is the spec.controller of the IngressClasses that are ours.
	Controller = "skiff.dev/ingress"
	// ClassName is the IngressClass that comes with skiff.
	ClassName = "skiff"

	// HTTPPort and HTTPSPort are where Ingresses are served.
	HTTPPort  = 80
	HTTPSPort = 443

	// noBackend is what an Ingress answers where the Service is missing.
	noBackend = 503
)

// Inputs are all that the routes depend on.
type Inputs struct {
	Ingresses    []*networkingv1.Ingress
	Classes      []*networkingv1.IngressClass
	Lookup       catalog.Lookup
	Certificates *catalog.Certificates
}

// Problem is what is wrong with an Ingress, in words for its owner.
type Problem struct{ Reason, Message string }

// Want is a certificate that an Ingress wants from an ACME authority.
type Want struct {
	Ingress *networkingv1.Ingress
	Secret  types.NamespacedName
	Hosts   []string
}

// Result is what Ingresses come to.
type Result struct {
	// Listeners are those of port 80 and 443.
	Listeners []edge.Listener
	Targets   catalog.Targets
	// Mine are the Ingresses that are served, oldest first.
	Mine []*networkingv1.Ingress
	// Problems are by Ingress; those without any are not in it.
	Problems map[types.NamespacedName][]Problem
	Wants    []Want
}

// Translate makes the routes of all Ingresses of our class. Where two want the
// same host and path, the older one gets it.
func Translate(in Inputs) Result {
	t := &translation{
		Inputs: in, hosts: make(map[string]*host), certificates: make(map[types.NamespacedName]bool),
		out: Result{Targets: make(catalog.Targets), Problems: make(map[types.NamespacedName][]Problem)},
	}
	for _, i := range in.Ingresses {
		if ours(i, in.Classes) && i.DeletionTimestamp == nil {
			t.out.Mine = append(t.out.Mine, i)
		}
	}
	if len(t.out.Mine) == 0 {
		return t.out
	}
	slices.SortFunc(t.out.Mine, func(a, b *networkingv1.Ingress) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	for _, i := range t.out.Mine {
		t.ingress(i)
	}
	t.listeners()
	return t.out
}

// ours reports whether an Ingress is of a class of ours. One without a class is
// ours if ours is the default one: it was made before the class was.
func ours(i *networkingv1.Ingress, classes []*networkingv1.IngressClass) bool {
	name := i.Annotations["kubernetes.io/ingress.class"]
	if i.Spec.IngressClassName != nil {
		name = *i.Spec.IngressClassName
	}
	return slices.ContainsFunc(classes, func(c *networkingv1.IngressClass) bool {
		if c.Spec.Controller != Controller {
			return false
		}
		return name == c.Name || name == "" && c.Annotations[networkingv1.AnnotationIsDefaultIngressClass] == "true"
	})
}

// translation is one call of Translate.
type translation struct {
	Inputs

	out   Result
	hosts map[string]*host
	order []string // hosts as they came
	// fallback answers what fits no rule at all.
	fallback     *edge.Route
	fallbackOf   string
	certificates map[types.NamespacedName]bool
	shown        []*tls.Certificate
}

// host has the routes of one host name.
type host struct {
	routes []edge.Route
	// rest are the default backends: only what no route fits is theirs.
	rest  []edge.Route
	paths map[string]string // who has a path
}

func (t *translation) problem(i *networkingv1.Ingress, reason, format string, args ...any) {
	key := types.NamespacedName{Namespace: i.Namespace, Name: i.Name}
	p := Problem{reason, fmt.Sprintf(format, args...)}
	if !slices.Contains(t.out.Problems[key], p) {
		t.out.Problems[key] = append(t.out.Problems[key], p)
	}
}

// ingress adds what one Ingress asks for.
func (t *translation) ingress(i *networkingv1.Ingress) {
	settings := t.settings(i)
	t.tls(i, settings)
	for _, r := range i.Spec.Rules {
		h := t.host(r.Host)
		if r.HTTP != nil {
			for _, p := range r.HTTP.Paths {
				t.path(i, settings, h, r.Host, p)
			}
		}
		if i.Spec.DefaultBackend != nil {
			h.rest = append(h.rest, t.route(i, settings, edge.PathMatch{}, *i.Spec.DefaultBackend))
		}
	}
	if len(i.Spec.Rules) == 0 && i.Spec.DefaultBackend != nil {
		name := i.Namespace + "/" + i.Name
		if t.fallback != nil {
			t.problem(i, "Conflict", "requests that fit no rule go to the default backend of Ingress %s, which is older", t.fallbackOf)
			return
		}
		route := t.route(i, settings, edge.PathMatch{}, *i.Spec.DefaultBackend)
		t.fallback, t.fallbackOf = &route, name
	}
}

func (t *translation) host(name string) *host {
	name = strings.ToLower(name)
	h, ok := t.hosts[name]
	if !ok {
		h = &host{paths: make(map[string]string)}
		t.hosts[name] = h
		t.order = append(t.order, name)
	}
	return h
}

// path adds one path of a rule.
func (t *translation) path(i *networkingv1.Ingress, s settings, h *host, hostname string, p networkingv1.HTTPIngressPath) {
	match := edge.PathMatch{Kind: edge.PathPrefix, Value: p.Path}
	switch {
	case p.PathType != nil && *p.PathType == networkingv1.PathTypeExact:
		match.Kind = edge.PathExact
	case s.regexp && (p.PathType == nil || *p.PathType == networkingv1.PathTypeImplementationSpecific):
		// As nginx has it: the start of the path must fit.
		match = edge.PathMatch{Kind: edge.PathRegexp, Value: p.Path, FoldCase: true}
		if !strings.HasSuffix(p.Path, "$") {
			match.Value += ".*"
		}
	}
	// What the class makes of its own type is a prefix, as people expect.
	key := fmt.Sprint(match.Kind, strings.TrimSuffix(match.Value, "/"))
	if match.Kind == edge.PathExact {
		key = fmt.Sprint(match.Kind, match.Value)
	}
	name := i.Namespace + "/" + i.Name
	if other, taken := h.paths[key]; taken {
		t.problem(i, "Conflict", "path %s of host %q is served by Ingress %s, which is older or names it first", p.Path, hostname, other)
		return
	}
	h.paths[key] = name
	h.routes = append(h.routes, t.route(i, s, match, p.Backend))
	if s.appRoot != "" && !s.appRootSet[hostname] {
		s.appRootSet[hostname] = true
		h.routes = append(h.routes, edge.Route{
			Name: name, Matches: []edge.Match{{Path: edge.PathMatch{Kind: edge.PathExact, Value: "/"}}}, Policy: s.policy,
			Filters: []edge.Filter{{Redirect: &edge.Redirect{Path: &edge.PathEdit{Kind: edge.PathFull, Value: s.appRoot}}}},
		})
	}
}

// route is a route with all that the Ingress's annotations say.
func (t *translation) route(i *networkingv1.Ingress, s settings, path edge.PathMatch, b networkingv1.IngressBackend) edge.Route {
	r := edge.Route{
		Name: i.Namespace + "/" + i.Name, Matches: []edge.Match{{Path: path}},
		Filters: slices.Clone(s.filters), Timeouts: s.timeouts, Session: s.session, Policy: s.policy,
	}
	if s.rewrite != "" {
		edit := &edge.PathEdit{Kind: edge.PathFull, Value: s.rewrite}
		if path.Kind == edge.PathRegexp {
			edit.Kind = edge.PathTemplate
		}
		r.Filters = append(r.Filters, edge.Filter{Rewrite: &edge.Rewrite{Path: edit}})
	}
	r.Backends = []edge.WeightedBackend{{Backend: t.backend(i, s, b), Weight: 1, Status: noBackend}}
	return r
}

// backend is the key of a backend; empty if there is none, which answers 503.
func (t *translation) backend(i *networkingv1.Ingress, s settings, b networkingv1.IngressBackend) string {
	if b.Service == nil {
		t.problem(i, "UnsupportedBackend", "a backend is a %s; skiff sends requests to Services only", b.Resource.Kind)
		return ""
	}
	service := t.Lookup.Service(i.Namespace, b.Service.Name)
	if service == nil {
		t.problem(i, "ServiceNotFound", "Service %s/%s does not exist; requests for it are answered with %d", i.Namespace, b.Service.Name, noBackend)
		return ""
	}
	if service.Spec.Type == corev1.ServiceTypeExternalName {
		t.problem(i, "UnsupportedBackend", "Service %s/%s is an ExternalName, which an Ingress cannot be trusted to choose; requests for it are answered with %d",
			i.Namespace, b.Service.Name, noBackend)
		return ""
	}
	for _, p := range service.Spec.Ports {
		if b.Service.Port.Name != "" && p.Name == b.Service.Port.Name || b.Service.Port.Name == "" && p.Port == b.Service.Port.Number {
			return t.target(service, p, s)
		}
	}
	port := b.Service.Port.Name
	if port == "" {
		port = fmt.Sprint(b.Service.Port.Number)
	}
	t.problem(i, "PortNotFound", "Service %s/%s has no port %s; requests for it are answered with %d", i.Namespace, b.Service.Name, port, noBackend)
	return ""
}

// target notes how the port of a Service is reached.
func (t *translation) target(service *corev1.Service, port corev1.ServicePort, s settings) string {
	b := edge.Backend{HashClient: service.Spec.SessionAffinity == corev1.ServiceAffinityClientIP, HostRewrite: s.upstreamHost}
	protocol := s.protocol
	if protocol == "" && port.AppProtocol != nil {
		switch *port.AppProtocol {
		case "kubernetes.io/h2c", "grpc":
			protocol = "GRPC"
		case "https", "kubernetes.io/wss":
			protocol = "HTTPS"
		}
	}
	switch protocol {
	case "GRPC":
		b.Protocol = edge.BackendH2C
	case "HTTPS", "GRPCS":
		// Nothing in an Ingress says whom to trust, as nginx sees it too.
		b.TLS = &edge.BackendTLS{Insecure: true}
	default:
		protocol = ""
	}
	variant := protocol
	if s.upstreamHost != "" {
		variant += "@" + s.upstreamHost
	}
	return t.out.Targets.Add(service, port, variant, b)
}

// tls collects the certificates of an Ingress.
func (t *translation) tls(i *networkingv1.Ingress, s settings) {
	for _, entry := range i.Spec.TLS {
		if entry.SecretName == "" {
			continue // the default certificate
		}
		key := types.NamespacedName{Namespace: i.Namespace, Name: entry.SecretName}
		if s.acme && len(entry.Hosts) > 0 {
			t.out.Wants = append(t.out.Wants, Want{Ingress: i, Secret: key, Hosts: entry.Hosts})
		}
		if t.certificates[key] {
			continue
		}
		secret := t.Lookup.Secret(key.Namespace, key.Name)
		if secret == nil {
			if !s.acme {
				t.problem(i, "SecretNotFound", "Secret %s does not exist; the default certificate is shown for %s", key, strings.Join(entry.Hosts, ", "))
			}
			continue
		}
		certificate, err := t.Certificates.Of(secret)
		if err != nil {
			t.problem(i, "InvalidCertificate", "%v; the default certificate is shown for %s", err, strings.Join(entry.Hosts, ", "))
			continue
		}
		t.certificates[key] = true
		t.shown = append(t.shown, certificate)
	}
}

// listeners puts all together. Both ports have the same routes.
func (t *translation) listeners() {
	var hosts []edge.VirtualHost
	for _, name := range t.order {
		h := t.hosts[name]
		v := edge.VirtualHost{WildcardOneLabel: true, Routes: append(h.routes, h.rest...)}
		if name != "" {
			v.Hosts = []string{name}
		}
		hosts = append(hosts, v)
	}
	t.out.Listeners = []edge.Listener{
		{Name: "ingress/http", Port: HTTPPort, Protocol: edge.HTTP, Hosts: hosts, Default: t.fallback},
		{Name: "ingress/https", Port: HTTPSPort, Protocol: edge.HTTPS, Hosts: hosts, Default: t.fallback, Certificates: t.shown},
	}
}
