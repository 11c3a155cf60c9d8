package gateway

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"skiff/pkg/agent/ingress/catalog"
	"skiff/pkg/agent/ingress/edge"
)

func TestTranslateHTTP(t *testing.T) {
	s := newStage(t, `
kind: Gateway
metadata: {namespace: a, name: main}
spec:
  gatewayClassName: skiff
  listeners: [{name: http, port: 80, protocol: HTTP, hostname: '*.Example.com', allowedRoutes: {namespaces: {from: All}}}]
---
kind: HTTPRoute
metadata: {namespace: a, name: site}
spec:
  parentRefs: [{name: main}, {name: main, sectionName: http}]
  hostnames: [www.example.com, elsewhere.org]
  rules:
  - matches:
    - path: {type: Exact, value: /x}
      method: GET
      headers: [{name: A, value: '1'}, {name: a, value: '2'}]
      queryParams: [{name: q, value: v.*, type: RegularExpression}]
    filters:
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X, value: v}], remove: [Z]}}
    - {type: URLRewrite, urlRewrite: {hostname: in.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /in}}}
    - {type: RequestMirror, requestMirror: {backendRef: {name: web, port: 81}, percent: 5}}
    backendRefs:
    - {name: web, port: 80, weight: 3}
    - {name: api, namespace: b, port: 8080}
    timeouts: {request: 1m30s, backendRequest: 500ms}
  - filters: [{type: RequestRedirect, requestRedirect: {scheme: https, port: 8443, statusCode: 301}}]
  - filters: [{type: CORS, cors: {allowOrigins: ['*'], maxAge: 7}}]
    backendRefs: [{name: web, port: 81}]
---
kind: GRPCRoute
metadata: {namespace: b, name: calls}
spec:
  parentRefs: [{name: main, namespace: a}]
  rules:
  - matches: [{method: {service: s.S, method: M}}]
    backendRefs: [{name: api, port: 8080}]
---
kind: ReferenceGrant
metadata: {namespace: b, name: open}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: a}]
  to: [{group: '', kind: Service}]
`)
	r := s.translate()
	want := []edge.Listener{{
		Name: "gateway/a/main/http", Port: 80, Protocol: edge.HTTP, Hostname: "*.example.com",
		Hosts: []edge.VirtualHost{
			{Hosts: []string{"www.example.com"}, Routes: []edge.Route{
				{
					Name: "httproute/a/site",
					Matches: []edge.Match{{
						Path: edge.PathMatch{Kind: edge.PathExact, Value: "/x"}, Method: "GET",
						Headers: []edge.ValueMatch{{Name: "A", Value: "1"}}, Query: []edge.ValueMatch{{Name: "q", Value: "v.*", Regexp: true}},
					}},
					Filters: []edge.Filter{
						{RequestHeaders: &edge.HeaderEdit{Set: []edge.Header{{Name: "X", Value: "v"}}, Remove: []string{"Z"}}},
						{Rewrite: &edge.Rewrite{Hostname: "in.example", Path: &edge.PathEdit{Kind: edge.PathReplacePrefix, Value: "/in"}}},
						{Mirror: &edge.Mirror{Backend: "a/web:81|h2c", Numerator: 5, Denominator: 100}},
					},
					Backends: []edge.WeightedBackend{{Backend: "a/web:80", Weight: 3}, {Backend: "b/api:8080", Weight: 1}},
					Timeouts: edge.Timeouts{Request: 90 * time.Second, BackendRequest: 500 * time.Millisecond},
				},
				{Name: "httproute/a/site", Filters: []edge.Filter{{Redirect: &edge.Redirect{Scheme: "https", Port: 8443, Status: 301}}}},
				{
					Name: "httproute/a/site", Filters: []edge.Filter{{CORS: &edge.CORS{AllowOrigins: []string{"*"}, MaxAge: 7 * time.Second}}},
					Backends: []edge.WeightedBackend{{Backend: "a/web:81|h2c", Weight: 1}},
				},
			}},
			{Hosts: []string{"*.example.com"}, Routes: []edge.Route{{
				Name: "grpcroute/b/calls", Matches: []edge.Match{{Path: edge.PathMatch{Kind: edge.PathExact, Value: "/s.S/M"}}},
				Backends: []edge.WeightedBackend{{Backend: "b/api:8080|h2c", Weight: 1}},
			}}},
		},
	}}
	if d := cmp.Diff(want, r.Listeners); d != "" {
		t.Errorf("listeners (-want +got):\n%s", d)
	}
	var keys []string
	for k := range r.Targets {
		keys = append(keys, k)
	}
	if d := cmp.Diff([]string{"a/web:80", "a/web:81|h2c", "b/api:8080", "b/api:8080|h2c"}, keys, cmpopts.SortSlices(func(a, b string) bool { return a < b })); d != "" {
		t.Errorf("targets (-want +got):\n%s", d)
	}
	wantTarget := catalog.Target{Service: key(s.services[key(s.services[r.Targets["a/web:81|h2c"].Service])]), Port: "h2c", Backend: edge.Backend{Protocol: edge.BackendH2C}}
	if d := cmp.Diff(wantTarget, r.Targets["a/web:81|h2c"]); d != "" {
		t.Errorf("target (-want +got):\n%s", d)
	}
}

func TestTranslateStreams(t *testing.T) {
	s := newStage(t, `
kind: Gateway
metadata: {namespace: a, name: main}
spec:
  gatewayClassName: skiff
  listeners:
  - {name: pass, port: 443, protocol: TLS, hostname: pass.example.com, tls: {mode: Passthrough}}
  - {name: end, port: 443, protocol: TLS, hostname: end.example.com, tls: {certificateRefs: [{name: cert}]}}
  - {name: raw, port: 5432, protocol: TCP, hostname: ignored.example.com}
---
kind: TLSRoute
metadata: {namespace: a, name: secret}
spec:
  parentRefs: [{name: main}]
  hostnames: ['*.example.com']
  rules: [{backendRefs: [{name: web, port: 80}]}]
---
kind: TCPRoute
metadata: {namespace: a, name: db}
spec:
  parentRefs: [{name: main, port: 5432}]
  rules: [{backendRefs: [{name: web, port: 80}, {name: missing, port: 1, weight: 2}]}]
---
kind: BackendTLSPolicy
metadata: {namespace: a, name: web}
spec:
  targetRefs: [{group: '', kind: Service, name: web}]
  validation: {hostname: web.internal, wellKnownCACertificates: System}
`)
	s.certify(t, "a")
	r := s.translate()
	var securedKey string
	for k, target := range r.Targets {
		if target.Backend.TLS != nil {
			securedKey = k
			if d := cmp.Diff(&edge.BackendTLS{ServerName: "web.internal"}, target.Backend.TLS, cmpopts.IgnoreUnexported(edge.BackendTLS{})); d != "" {
				t.Errorf("TLS to the backend (-want +got):\n%s", d)
			}
		}
	}
	if securedKey == "" {
		t.Fatalf("no target is reached by TLS: %v", r.Targets)
	}
	want := []edge.Listener{
		{Name: "gateway/a/main/pass", Port: 443, Protocol: edge.TLSPassthrough, Hostname: "pass.example.com", Streams: []edge.StreamRoute{
			{Name: "tlsroute/a/secret", Hosts: []string{"pass.example.com"}, Backends: []edge.WeightedBackend{{Backend: "a/web:80", Weight: 1}}},
		}},
		{Name: "gateway/a/main/end", Port: 443, Protocol: edge.TLSTerminate, Hostname: "end.example.com", Streams: []edge.StreamRoute{
			{Name: "tlsroute/a/secret", Hosts: []string{"end.example.com"}, Backends: []edge.WeightedBackend{{Backend: securedKey, Weight: 1}}},
		}},
		{Name: "gateway/a/main/raw", Port: 5432, Protocol: edge.TCP, Streams: []edge.StreamRoute{
			{Name: "tcproute/a/db", Backends: []edge.WeightedBackend{{Backend: "a/web:80", Weight: 1}, {Weight: 2}}},
		}},
	}
	if d := cmp.Diff(want, r.Listeners, cmpopts.IgnoreFields(edge.Listener{}, "Certificates")); d != "" {
		t.Errorf("listeners (-want +got):\n%s", d)
	}
}

func TestGRPCPath(t *testing.T) {
	text := func(s string) *string { return &s }
	for _, test := range []struct {
		name            string
		service, method *string
		want            edge.PathMatch
	}{
		{"all", nil, nil, edge.PathMatch{Kind: edge.PathPrefix, Value: "/"}},
		{"service", text("p.S"), nil, edge.PathMatch{Kind: edge.PathPrefix, Value: "/p.S"}},
		{"method", nil, text("M"), edge.PathMatch{Kind: edge.PathRegexp, Value: "/[^/]+/M"}},
		{"both", text("p.S"), text("M"), edge.PathMatch{Kind: edge.PathExact, Value: "/p.S/M"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if d := cmp.Diff(test.want, grpcPath(grpcMethod(test.service, test.method))); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

func TestIntersect(t *testing.T) {
	for _, test := range []struct {
		name     string
		listener string
		route    []string
		want     []string
		none     bool
	}{
		{name: "neither says a host"},
		{name: "the listener alone", listener: "*.Example.com", want: []string{"*.example.com"}},
		{name: "the route alone", route: []string{"a.example.com", "*.b.org"}, want: []string{"a.example.com", "*.b.org"}},
		{name: "equal but for case", listener: "a.example.com", route: []string{"A.example.com"}, want: []string{"a.example.com"}},
		{name: "below the listener's wildcard", listener: "*.example.com", route: []string{"a.b.example.com", "example.com", "example.org"}, want: []string{"a.b.example.com"}},
		{name: "narrower wildcard", listener: "*.example.com", route: []string{"*.b.example.com"}, want: []string{"*.b.example.com"}},
		{name: "wider wildcard", listener: "*.b.example.com", route: []string{"*.example.com"}, want: []string{"*.b.example.com"}},
		{name: "the listener's host below the route's wildcard", listener: "a.example.com", route: []string{"*.example.com"}, want: []string{"a.example.com"}},
		{name: "a name that ends alike", listener: "*.example.com", route: []string{"notexample.com"}, none: true},
		{name: "nothing in common", listener: "a.example.com", route: []string{"b.example.com"}, none: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, ok := intersect(test.listener, hostnames(test.route))
			if ok == test.none {
				t.Errorf("ok = %v", ok)
			}
			if d := cmp.Diff(test.want, got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}
