package gateway

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"
	v1 "sigs.k8s.io/gateway-api/apis/v1"
)

// house is a Gateway with a listener for each thing that attachment looks at.
const house = `
kind: Gateway
metadata: {namespace: a, name: main}
spec:
  gatewayClassName: skiff
  allowedListeners: {namespaces: {from: Selector, selector: {matchLabels: {team: blue}}}}
  listeners:
  - {name: own, port: 80, protocol: HTTP, hostname: own.example.com}
  - {name: blue, port: 80, protocol: HTTP, hostname: blue.example.com, allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {team: blue}}}}}
  - {name: calls, port: 81, protocol: HTTP, allowedRoutes: {kinds: [{kind: GRPCRoute}], namespaces: {from: All}}}
---
kind: Gateway
metadata: {namespace: a, name: foreign}
spec: {gatewayClassName: other, listeners: [{name: http, port: 80, protocol: HTTP}]}
---
kind: ListenerSet
metadata: {namespace: b, name: more}
spec:
  parentRef: {name: main, namespace: a}
  listeners: [{name: set, port: 82, protocol: HTTP}]
---
kind: ListenerSet
metadata: {namespace: a, name: refused}
spec:
  parentRef: {name: main}
  listeners: [{name: set, port: 83, protocol: HTTP}]
---
`

func TestAttach(t *testing.T) {
	for _, test := range []struct {
		name, namespace, ref, hosts string
		want                        string // the reason of Accepted, with no status at all if empty
		on                          string // listeners that have it
	}{
		{name: "own namespace", namespace: "a", ref: "{name: main}", want: "Accepted", on: "own "},
		{name: "chosen namespace", namespace: "b", ref: "{name: main, namespace: a}", want: "Accepted", on: "blue "},
		{name: "by section", namespace: "a", ref: "{name: main, sectionName: own}", want: "Accepted", on: "own "},
		{name: "by section and port", namespace: "a", ref: "{name: main, sectionName: own, port: 81}", want: "NoMatchingParent"},
		{name: "no such section", namespace: "a", ref: "{name: main, sectionName: x}", want: "NoMatchingParent"},
		{name: "no such port", namespace: "a", ref: "{name: main, port: 99}", want: "NoMatchingParent"},
		{name: "section of a set by the Gateway", namespace: "b", ref: "{name: main, namespace: a, sectionName: set}", want: "NoMatchingParent"},
		{name: "namespace not let in", namespace: "a", ref: "{name: main, sectionName: blue}", want: "NotAllowedByListeners"},
		{name: "kind not let in", namespace: "a", ref: "{name: main, sectionName: calls}", want: "NotAllowedByListeners"},
		{name: "no common host", namespace: "a", ref: "{name: main}", hosts: "[other.example.com]", want: "NoMatchingListenerHostname"},
		{name: "common host", namespace: "a", ref: "{name: main}", hosts: "['*.example.com']", want: "Accepted", on: "own "},
		{name: "on a set", namespace: "b", ref: "{kind: ListenerSet, name: more}", want: "Accepted", on: "set "},
		{name: "on a set that is not let in", namespace: "a", ref: "{kind: ListenerSet, name: refused}", want: "NoMatchingParent"},
		{name: "another class", namespace: "a", ref: "{name: foreign}"},
		{name: "no such Gateway", namespace: "a", ref: "{name: nothing}"},
		{name: "a Service", namespace: "a", ref: "{group: '', kind: Service, name: web}"},
	} {
		t.Run(test.name, func(t *testing.T) {
			hosts := test.hosts
			if hosts == "" {
				hosts = "[]"
			}
			s := newStage(t, house+"kind: HTTPRoute\nmetadata: {namespace: "+test.namespace+", name: r}\nspec: {parentRefs: ["+test.ref+"], hostnames: "+hosts+", rules: [{backendRefs: []}]}\n")
			w := s.translate().world
			got, on := "", ""
			for _, p := range w.routes[0].parents {
				got = p.accepted.reason
				if p.accepted.ok() {
					got = "Accepted"
				}
			}
			for _, l := range w.gateways[0].all {
				if l.attached > 0 {
					on += string(l.spec.Name) + " "
				}
			}
			if got != test.want || on != test.on {
				t.Errorf("%q on %q, want %q on %q", got, on, test.want, test.on)
			}
		})
	}
}

// What becomes of the references of a route.
func TestBackends(t *testing.T) {
	for _, test := range []struct{ name, ref, want, backend string }{
		{"fine", "{name: web, port: 80}", "", "a/web:80"},
		{"no such Service", "{name: x, port: 80}", "BackendNotFound", ""},
		{"no such port", "{name: web, port: 99}", "BackendNotFound", ""},
		{"not TCP", "{name: web, port: 53}", "BackendNotFound", ""},
		{"kind", "{group: x.org, kind: Bucket, name: web, port: 80}", "InvalidKind", ""},
		{"not granted", "{name: api, namespace: b, port: 8080}", "RefNotPermitted", ""},
		{"protocol", "{name: web, port: 82}", "UnsupportedProtocol", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newStage(t, house+"kind: HTTPRoute\nmetadata: {namespace: a, name: r}\nspec: {parentRefs: [{name: main}], rules: [{backendRefs: ["+test.ref+"]}]}\n")
			r := s.translate()
			if got := r.world.routes[0].parents[0].built.resolved.reason; got != test.want {
				t.Errorf("reason %q, want %q", got, test.want)
			}
			if got := r.Listeners[0].Hosts[0].Routes[0].Backends[0].Backend; got != test.backend {
				t.Errorf("backend %q, want %q", got, test.backend)
			}
		})
	}
}

func TestGranted(t *testing.T) {
	from := reference{group: v1.GroupName, kind: "HTTPRoute", namespace: "a"}
	for _, test := range []struct {
		name, spec string
		want       bool
	}{
		{"all of the kind", "from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: a}]\n  to: [{group: '', kind: Service}]", true},
		{"by name", "from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: a}]\n  to: [{group: '', kind: Service, name: api}]", true},
		{"another name", "from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: a}]\n  to: [{group: '', kind: Service, name: x}]", false},
		{"another kind", "from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: a}]\n  to: [{group: '', kind: Secret}]", false},
		{"another namespace", "from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: c}]\n  to: [{group: '', kind: Service}]", false},
		{"another route", "from: [{group: gateway.networking.k8s.io, kind: GRPCRoute, namespace: a}]\n  to: [{group: '', kind: Service}]", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := &world{objects: newStage(t, "kind: ReferenceGrant\nmetadata: {namespace: b, name: g}\nspec:\n  "+test.spec+"\n").objects}
			if got := w.granted(from, "Service", types.NamespacedName{Namespace: "b", Name: "api"}); got != test.want {
				t.Errorf("granted: %v", got)
			}
		})
	}
}

// Older Gateways and sets win, and only one policy counts.
func TestPrecedence(t *testing.T) {
	s := newStage(t, `
kind: Gateway
metadata: {namespace: a, name: old}
spec:
  gatewayClassName: skiff
  allowedListeners: {namespaces: {from: Same}}
  listeners: [{name: http, port: 80, protocol: HTTP}]
---
kind: Gateway
metadata: {namespace: a, name: young}
spec:
  gatewayClassName: skiff
  listeners: [{name: merged, port: 80, protocol: HTTP}, {name: late, port: 80, protocol: TCP, hostname: x}, {name: set, port: 90, protocol: TCP}]
---
kind: ListenerSet
metadata: {namespace: a, name: first}
spec: {parentRef: {name: old}, listeners: [{name: bad, port: 80, protocol: HTTP}, {name: good, port: 90, protocol: HTTP}]}
---
kind: ListenerSet
metadata: {namespace: a, name: second}
spec: {parentRef: {name: old}, listeners: [{name: bad, port: 90, protocol: HTTP}]}
---
kind: HTTPRoute
metadata: {namespace: a, name: r}
spec: {parentRefs: [{name: old}], rules: [{backendRefs: [{name: web, port: 80}]}]}
---
kind: BackendTLSPolicy
metadata: {namespace: a, name: one}
spec: {targetRefs: [{group: '', kind: Service, name: web}], validation: {hostname: x, caCertificateRefs: [{group: '', kind: ConfigMap, name: cert}]}}
---
kind: BackendTLSPolicy
metadata: {namespace: a, name: two}
spec: {targetRefs: [{group: '', kind: Service, name: web}], validation: {hostname: y, wellKnownCACertificates: System}}
---
kind: BackendTLSPolicy
metadata: {namespace: a, name: port}
spec: {targetRefs: [{group: '', kind: Service, name: web, sectionName: http}], validation: {hostname: z, caCertificateRefs: [{group: '', kind: ConfigMap, name: nothing}]}}
`)
	s.certify(t, "a")
	r := s.translate()
	got := make(map[string]string)
	for _, g := range r.world.gateways {
		for _, l := range g.all {
			got[l.name] = l.accepted.reason
		}
	}
	for _, x := range r.world.sets {
		got["set "+x.object.Name] = x.accepted.reason
	}
	for _, p := range r.world.policies.all {
		got["policy "+p.object.Name] = p.accepted.reason + " " + p.resolved.reason
	}
	want := map[string]string{
		"gateway/a/old/http": "", "gateway/a/young/merged": "ProtocolConflict", "gateway/a/young/late": "ProtocolConflict", "gateway/a/young/set": "PortUnavailable",
		"listenerset/a/first/bad": "HostnameConflict", "listenerset/a/first/good": "", "listenerset/a/second/bad": "HostnameConflict",
		"set first": "", "set second": "ListenersNotValid",
		"policy one": " ", "policy two": "Conflicted ", "policy port": "NoValidCACertificate InvalidCACertificateRef",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("reasons (-want +got):\n%s", d)
	}
	// The policy of the port counts, and cannot be met: nothing is sent there.
	if b := r.Listeners[0].Hosts[0].Routes[0].Backends[0].Backend; b != "" {
		t.Errorf("backend %q, want none", b)
	}
}

// A Gateway that cannot be told from an older one has addresses of its own.
func TestApart(t *testing.T) {
	s := newStage(t, `
kind: Gateway
metadata: {namespace: a, name: old}
spec: {gatewayClassName: skiff, listeners: [{name: http, port: 80, protocol: HTTP}]}
---
kind: Gateway
metadata: {namespace: a, name: same}
spec: {gatewayClassName: skiff, listeners: [{name: http, port: 80, protocol: HTTP}, {name: other, port: 81, protocol: HTTP}]}
---
kind: Gateway
metadata: {namespace: a, name: host}
spec: {gatewayClassName: skiff, listeners: [{name: http, port: 80, protocol: HTTP, hostname: x.org}, {name: other, port: 81, protocol: TCP}]}
---
kind: Gateway
metadata: {namespace: a, name: tcp}
spec: {gatewayClassName: skiff, listeners: [{name: tcp, port: 80, protocol: TCP}]}
`)
	s.apart = func(g types.NamespacedName) []string {
		if g.Name == "same" {
			return []string{"198.51.100.1"}
		}
		return nil
	}
	r := s.translate()
	want := map[string]types.NamespacedName{
		"gateway/a/same/http": {Namespace: "a", Name: "same"}, "gateway/a/same/other": {Namespace: "a", Name: "same"},
		"gateway/a/tcp/tcp": {Namespace: "a", Name: "tcp"},
	}
	if d := cmp.Diff(want, r.Apart); d != "" {
		t.Errorf("apart (-want +got):\n%s", d)
	}
	addresses := make(map[string]string)
	for _, g := range r.world.gateways {
		for _, a := range g.addresses {
			addresses[g.object.Name] += a.Value
		}
		addresses[g.object.Name] += g.address.reason
	}
	// Without the older one it shares the node's address, and keeps its own.
	s.gateways = s.gateways[1:]
	r2 := s.translate()
	if d := cmp.Diff(map[string]types.NamespacedName{"gateway/a/same/http": {Namespace: "a", Name: "same"}, "gateway/a/same/other": {Namespace: "a", Name: "same"}}, r2.Kept); d != "" {
		t.Errorf("kept (-want +got):\n%s", d)
	}
	if n := len(r2.world.gateways[0].addresses); n != 2 {
		t.Errorf("%d addresses, want the node's and its own", n)
	}
	wantAddresses := map[string]string{"old": "192.0.2.1", "same": "198.51.100.1", "host": "192.0.2.1", "tcp": "AddressNotAssigned"}
	if d := cmp.Diff(wantAddresses, addresses); d != "" {
		t.Errorf("addresses (-want +got):\n%s", d)
	}
}
