package gateway

import (
	"regexp"
	"strings"

	v1 "sigs.k8s.io/gateway-api/apis/v1"

	"skiff/pkg/agent/ingress/edge"
)

// grpcRules compiles rules of methods into rules of paths: gRPC sends
// /SERVICE/METHOD.
func (b *builder) grpcRules(rules []v1.GRPCRouteRule) {
	for i, rule := range rules {
		b.built.routes = append(b.built.routes, b.grpcRule(rule, ruleName(i, rule.Name)))
	}
}

func (b *builder) grpcRule(rule v1.GRPCRouteRule, name string) edge.Route {
	r := edge.Route{Name: b.route.name()}
	for _, m := range rule.Matches {
		r.Matches = append(r.Matches, grpcMatch(m))
	}
	filters, ok := b.grpcFilters(rule.Filters, name)
	r.Filters = filters
	for _, ref := range rule.BackendRefs {
		backend := b.weighted(ref.BackendRef, overGRPC)
		own, usable := b.grpcFilters(ref.Filters, name)
		backend.Filters = own
		if !usable {
			backend = edge.WeightedBackend{Weight: backend.Weight}
		}
		r.Backends = append(r.Backends, backend)
	}
	r.Session = b.session(rule.SessionPersistence, name)
	if !ok {
		r.Filters, r.Backends = nil, nil
	}
	return r
}

func grpcMatch(m v1.GRPCRouteMatch) edge.Match {
	out := edge.Match{Path: edge.PathMatch{Kind: edge.PathPrefix, Value: "/"}}
	if m.Method != nil {
		out.Path = grpcPath(*m.Method)
	}
	seen := make(map[string]bool)
	for _, h := range m.Headers {
		if name := strings.ToLower(string(h.Name)); !seen[name] {
			seen[name] = true
			out.Headers = append(out.Headers, edge.ValueMatch{Name: string(h.Name), Value: h.Value, Regexp: or(h.Type, v1.GRPCHeaderMatchExact) == v1.GRPCHeaderMatchRegularExpression})
		}
	}
	return out
}

// grpcPath is the path of a method, or of what is said of it.
func grpcPath(m v1.GRPCMethodMatch) edge.PathMatch {
	const any = "[^/]+"
	service, method := or(m.Service, ""), or(m.Method, "")
	if or(m.Type, v1.GRPCMethodMatchExact) == v1.GRPCMethodMatchRegularExpression {
		if service == "" {
			service = any
		}
		if method == "" {
			method = any
		}
		return edge.PathMatch{Kind: edge.PathRegexp, Value: "/(?:" + service + ")/(?:" + method + ")"}
	}
	switch {
	case service == "" && method == "":
		return edge.PathMatch{Kind: edge.PathPrefix, Value: "/"}
	case method == "":
		return edge.PathMatch{Kind: edge.PathPrefix, Value: "/" + service}
	case service == "":
		return edge.PathMatch{Kind: edge.PathRegexp, Value: "/" + any + "/" + regexp.QuoteMeta(method)}
	default:
		return edge.PathMatch{Kind: edge.PathExact, Value: "/" + service + "/" + method}
	}
}

func (b *builder) grpcFilters(filters []v1.GRPCRouteFilter, rule string) (out []edge.Filter, ok bool) {
	ok = true
	for _, f := range filters {
		switch {
		case f.Type == v1.GRPCRouteFilterRequestHeaderModifier && f.RequestHeaderModifier != nil:
			out = append(out, edge.Filter{RequestHeaders: headerEdit(*f.RequestHeaderModifier)})
		case f.Type == v1.GRPCRouteFilterResponseHeaderModifier && f.ResponseHeaderModifier != nil:
			out = append(out, edge.Filter{ResponseHeaders: headerEdit(*f.ResponseHeaderModifier)})
		case f.Type == v1.GRPCRouteFilterRequestMirror && f.RequestMirror != nil:
			out = b.mirror(out, *f.RequestMirror, overGRPC)
		default:
			b.unsupported(rule, string(f.Type), f.ExtensionRef)
			ok = false
		}
	}
	return out, ok
}
