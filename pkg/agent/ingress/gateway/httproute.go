package gateway

import (
	"strings"
	"time"

	v1 "sigs.k8s.io/gateway-api/apis/v1"

	"skiff/pkg/agent/ingress/edge"
)

func (b *builder) httpRules(rules []v1.HTTPRouteRule) {
	for i, rule := range rules {
		b.built.routes = append(b.built.routes, b.httpRule(rule, ruleName(i, rule.Name)))
	}
}

func (b *builder) httpRule(rule v1.HTTPRouteRule, name string) edge.Route {
	r := edge.Route{Name: b.route.name()}
	for _, m := range rule.Matches {
		r.Matches = append(r.Matches, httpMatch(m))
	}
	filters, ok := b.httpFilters(rule.Filters, name)
	r.Filters = filters
	for _, ref := range rule.BackendRefs {
		backend := b.weighted(ref.BackendRef, overHTTP)
		own, usable := b.httpFilters(ref.Filters, name)
		backend.Filters = own
		if !usable {
			backend = edge.WeightedBackend{Weight: backend.Weight}
		}
		r.Backends = append(r.Backends, backend)
	}
	if rule.Timeouts != nil {
		r.Timeouts.Request = b.duration(rule.Timeouts.Request, name, "timeouts.request")
		r.Timeouts.BackendRequest = b.duration(rule.Timeouts.BackendRequest, name, "timeouts.backendRequest")
	}
	if rule.Retry != nil {
		r.Retry = &edge.Retry{Attempts: or(rule.Retry.Attempts, 1), Backoff: b.duration(rule.Retry.Backoff, name, "retry.backoff")}
		for _, code := range rule.Retry.Codes {
			r.Retry.Statuses = append(r.Retry.Statuses, int(code))
		}
	}
	r.Session = b.session(rule.SessionPersistence, name)
	if !ok {
		// A filter that cannot be applied must not be skipped: such requests fail.
		r.Filters, r.Backends = nil, nil
	}
	return r
}

// httpMatch translates a match. Of headers and parameters that are named twice
// the first counts.
func httpMatch(m v1.HTTPRouteMatch) edge.Match {
	out := edge.Match{Path: edge.PathMatch{Kind: edge.PathPrefix, Value: "/"}, Method: string(or(m.Method, ""))}
	if p := m.Path; p != nil {
		out.Path.Value = or(p.Value, "/")
		switch or(p.Type, v1.PathMatchPathPrefix) {
		case v1.PathMatchExact:
			out.Path.Kind = edge.PathExact
		case v1.PathMatchRegularExpression:
			out.Path.Kind = edge.PathRegexp
		}
	}
	seen := make(map[string]bool)
	for _, h := range m.Headers {
		if name := strings.ToLower(string(h.Name)); !seen[name] {
			seen[name] = true
			out.Headers = append(out.Headers, edge.ValueMatch{Name: string(h.Name), Value: h.Value, Regexp: or(h.Type, v1.HeaderMatchExact) == v1.HeaderMatchRegularExpression})
		}
	}
	seen = make(map[string]bool)
	for _, q := range m.QueryParams {
		if name := string(q.Name); !seen[name] {
			seen[name] = true
			out.Query = append(out.Query, edge.ValueMatch{Name: name, Value: q.Value, Regexp: or(q.Type, v1.QueryParamMatchExact) == v1.QueryParamMatchRegularExpression})
		}
	}
	return out
}

// duration reads a GEP-2257 duration, which is one of Go's too.
func (b *builder) duration(d *v1.Duration, rule, field string) time.Duration {
	if d == nil {
		return 0
	}
	out, err := time.ParseDuration(string(*d))
	if err != nil {
		b.built.partial.fail(string(v1.RouteReasonUnsupportedValue), "%s: %s: %v", rule, field, err)
	}
	return out
}

func (b *builder) session(s *v1.SessionPersistence, rule string) *edge.Session {
	if s == nil {
		return nil
	}
	if t := or(s.Type, v1.CookieBasedSessionPersistence); t != v1.CookieBasedSessionPersistence {
		b.built.partial.fail(string(v1.RouteReasonUnsupportedValue), "%s: sessionPersistence of type %s is not supported, use %s", rule, t, v1.CookieBasedSessionPersistence)
		return nil
	}
	out := &edge.Session{Cookie: or(s.SessionName, "")}
	if c := s.CookieConfig; c != nil && or(c.LifetimeType, v1.SessionCookieLifetimeType) == v1.PermanentCookieLifetimeType {
		out.MaxAge = b.duration(s.AbsoluteTimeout, rule, "sessionPersistence.absoluteTimeout")
	}
	return out
}
