package gateway

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	v1 "sigs.k8s.io/gateway-api/apis/v1"
)

func hostnames(list []string) (out []v1.Hostname) {
	for _, h := range list {
		out = append(out, v1.Hostname(h))
	}
	return out
}

func grpcMethod(service, method *string) v1.GRPCMethodMatch {
	return v1.GRPCMethodMatch{Service: service, Method: method}
}

// brief are conditions as "Type=Status/Reason".
func brief(list []metav1.Condition) (out []string) {
	for _, c := range list {
		out = append(out, fmt.Sprintf("%s=%s/%s", c.Type, c.Status, c.Reason))
	}
	return out
}

// A listener by itself, and the Gateway that has it.
func TestListenerStatus(t *testing.T) {
	good := []string{"Accepted=True/Accepted", "Programmed=True/Programmed", "ResolvedRefs=True/ResolvedRefs", "Conflicted=False/NoConflicts"}
	for _, test := range []struct {
		name, listener string
		gateway        []string // the Gateway's Accepted and Programmed
		want           []string
		kinds          int
	}{
		{"HTTP", `{name: l, port: 80, protocol: HTTP}`, []string{"Accepted=True/Accepted", "Programmed=True/Programmed"}, good, 2},
		{"HTTPS", `{name: l, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: cert}]}}`, []string{"Accepted=True/Accepted", "Programmed=True/Programmed"}, good, 2},
		{
			"protocol", `{name: l, port: 80, protocol: INVALID}`,
			[]string{"Accepted=False/ListenersNotValid", "Programmed=False/Invalid"},
			[]string{"Accepted=False/UnsupportedProtocol", "Programmed=False/Invalid", "ResolvedRefs=True/ResolvedRefs", "Conflicted=False/NoConflicts"},
			0,
		},
		{
			"missing certificate", `{name: l, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: nothing}]}}`,
			[]string{"Accepted=True/ListenersNotValid", "Programmed=False/Invalid"},
			[]string{"Accepted=True/Accepted", "Programmed=False/Invalid", "ResolvedRefs=False/InvalidCertificateRef", "Conflicted=False/NoConflicts"},
			2,
		},
		{
			"one certificate of two", `{name: l, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: nothing}, {name: cert}]}}`,
			[]string{"Accepted=True/ListenersNotValid", "Programmed=True/Programmed"},
			[]string{"Accepted=True/Accepted", "Programmed=True/Programmed", "ResolvedRefs=False/InvalidCertificateRef", "Conflicted=False/NoConflicts"},
			2,
		},
		{
			"another namespace's certificate", `{name: l, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: cert, namespace: b}]}}`,
			[]string{"Accepted=True/ListenersNotValid", "Programmed=False/Invalid"},
			[]string{"Accepted=True/Accepted", "Programmed=False/Invalid", "ResolvedRefs=False/RefNotPermitted", "Conflicted=False/NoConflicts"},
			2,
		},
		{
			"one kind of two", `{name: l, port: 80, protocol: HTTP, allowedRoutes: {kinds: [{kind: HTTPRoute}, {kind: TLSRoute}]}}`,
			[]string{"Accepted=True/ListenersNotValid", "Programmed=True/Programmed"},
			[]string{"Accepted=True/Accepted", "Programmed=True/Programmed", "ResolvedRefs=False/InvalidRouteKinds", "Conflicted=False/NoConflicts"},
			1,
		},
		{
			"two that cannot be told apart", `{name: l, port: 80, protocol: HTTP}, {name: m, port: 80, protocol: TCP}`,
			[]string{"Accepted=False/ListenersNotValid", "Programmed=False/Invalid"},
			[]string{"Accepted=False/ProtocolConflict", "Programmed=False/ProtocolConflict", "ResolvedRefs=True/ResolvedRefs", "Conflicted=True/ProtocolConflict"},
			2,
		},
		{
			"HTTPS and TLS of one host", `{name: l, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: cert}]}}, {name: m, port: 443, protocol: TLS, tls: {mode: Passthrough}}`,
			[]string{"Accepted=False/ListenersNotValid", "Programmed=False/Invalid"},
			[]string{"Accepted=False/ProtocolConflict", "Programmed=False/ProtocolConflict", "ResolvedRefs=True/ResolvedRefs", "Conflicted=True/ProtocolConflict"},
			2,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newStage(t, "kind: Gateway\nmetadata: {namespace: a, name: main}\nspec: {gatewayClassName: skiff, listeners: ["+test.listener+"]}\n")
			s.certify(t, "a")
			s.certify(t, "b")
			w := s.translate().world
			var status v1.GatewayStatus
			outcome{world: w}.setGateway(w.gateways[0], &status)
			if d := cmp.Diff(test.gateway, brief(status.Conditions)[:2]); d != "" {
				t.Errorf("Gateway (-want +got):\n%s", d)
			}
			if d := cmp.Diff(test.want, brief(status.Listeners[0].Conditions)); d != "" {
				t.Errorf("listener (-want +got):\n%s", d)
			}
			if n := len(status.Listeners[0].SupportedKinds); n != test.kinds || status.Listeners[0].SupportedKinds == nil {
				t.Errorf("%d kinds, want %d", n, test.kinds)
			}
		})
	}
}

// What a Gateway says besides its listeners.
func TestGatewayStatus(t *testing.T) {
	for _, test := range []struct {
		name, spec string
		want       []string
		addresses  []string
	}{
		{"plain", ``, []string{"Accepted=True/Accepted", "Programmed=True/Programmed", "ResolvedRefs=True/ResolvedRefs"}, []string{"192.0.2.1"}},
		{"its address", `, addresses: [{value: 192.0.2.1}]`, []string{"Accepted=True/Accepted", "Programmed=True/Programmed", "ResolvedRefs=True/ResolvedRefs"}, []string{"192.0.2.1"}},
		{"any address", `, addresses: [{type: IPAddress}]`, []string{"Accepted=True/Accepted", "Programmed=True/Programmed", "ResolvedRefs=True/ResolvedRefs"}, []string{"192.0.2.1"}},
		{"another address", `, addresses: [{value: 192.0.2.9}]`, []string{"Accepted=True/Accepted", "Programmed=False/AddressNotUsable", "ResolvedRefs=True/ResolvedRefs"}, nil},
		{"a name", `, addresses: [{type: Hostname, value: x.org}]`, []string{"Accepted=False/UnsupportedAddress", "Programmed=False/Invalid", "ResolvedRefs=True/ResolvedRefs"}, nil},
		{"parameters", `, infrastructure: {parametersRef: {group: x, kind: Y, name: z}}`, []string{"Accepted=False/InvalidParameters", "Programmed=False/Invalid", "ResolvedRefs=True/ResolvedRefs"}, []string{"192.0.2.1"}},
		{"client certificate", `, tls: {backend: {clientCertificateRef: {name: nothing}}}`, []string{"Accepted=True/Accepted", "Programmed=True/Programmed", "ResolvedRefs=False/InvalidClientCertificateRef"}, []string{"192.0.2.1"}},
		{"its client certificate", `, tls: {backend: {clientCertificateRef: {name: cert}}}`, []string{"Accepted=True/Accepted", "Programmed=True/Programmed", "ResolvedRefs=True/ResolvedRefs"}, []string{"192.0.2.1"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newStage(t, "kind: Gateway\nmetadata: {namespace: a, name: main}\nspec: {gatewayClassName: skiff, listeners: [{name: l, port: 80, protocol: HTTP}]"+test.spec+"}\n")
			s.certify(t, "a")
			w := s.translate().world
			var status v1.GatewayStatus
			outcome{world: w}.setGateway(w.gateways[0], &status)
			if d := cmp.Diff(test.want, brief(status.Conditions)); d != "" {
				t.Errorf("conditions (-want +got):\n%s", d)
			}
			var addresses []string
			for _, a := range status.Addresses {
				addresses = append(addresses, a.Value)
			}
			if d := cmp.Diff(test.addresses, addresses); d != "" {
				t.Errorf("addresses (-want +got):\n%s", d)
			}
		})
	}
}

// What the edge could not do is said, and what others wrote is kept.
func TestFailures(t *testing.T) {
	s := newStage(t, `
kind: Gateway
metadata: {namespace: a, name: main}
spec: {gatewayClassName: skiff, listeners: [{name: l, port: 80, protocol: HTTP}, {name: m, port: 81, protocol: HTTP}]}
---
kind: HTTPRoute
metadata: {namespace: a, name: r}
spec: {parentRefs: [{name: theirs}, {name: main}], rules: [{matches: [{path: {type: RegularExpression, value: '('}}]}]}
status:
  parents:
  - {parentRef: {name: theirs}, controllerName: example.com/other, conditions: [{type: Accepted, status: 'True', reason: X, message: m, lastTransitionTime: null}]}
  - {parentRef: {name: gone}, controllerName: skiff.dev/gateway, conditions: []}
`)
	w := s.translate().world
	o := outcome{world: w, failed: map[string]error{"gateway/a/main/m": errors.New("port 81 is in use")}, routeErrs: map[string]error{"httproute/a/r": errors.New("missing )")}}
	var status v1.GatewayStatus
	o.setGateway(w.gateways[0], &status)
	want := []string{"Accepted=False/PortUnavailable", "Programmed=False/Invalid", "ResolvedRefs=True/ResolvedRefs", "Conflicted=False/NoConflicts"}
	if d := cmp.Diff(want, brief(status.Listeners[1].Conditions)); d != "" {
		t.Errorf("listener (-want +got):\n%s", d)
	}
	route := s.http[0].DeepCopy()
	o.setRoute(w.routes[0], &route.Status.RouteStatus)
	got := make(map[string][]string)
	for _, p := range route.Status.Parents {
		got[string(p.ControllerName)+" "+string(p.ParentRef.Name)] = brief(p.Conditions)
	}
	wantParents := map[string][]string{
		"example.com/other theirs": {"Accepted=True/X"},
		"skiff.dev/gateway main":   {"Accepted=False/UnsupportedValue", "ResolvedRefs=True/ResolvedRefs"},
	}
	if d := cmp.Diff(wantParents, got); d != "" {
		t.Errorf("parents (-want +got):\n%s", d)
	}
}

// writer is a status that others write too.
type writer struct {
	stored    *v1.Gateway
	conflicts int
	writes    int
}

func (w *writer) Get(context.Context, string, metav1.GetOptions) (*v1.Gateway, error) {
	return w.stored.DeepCopy(), nil
}

func (w *writer) UpdateStatus(_ context.Context, g *v1.Gateway, _ metav1.UpdateOptions) (*v1.Gateway, error) {
	if w.conflicts > 0 {
		w.conflicts--
		return nil, apierrors.NewConflict(schema.GroupResource{}, g.Name, errors.New("changed"))
	}
	w.writes++
	w.stored = g
	return g, nil
}

func TestWrite(t *testing.T) {
	one := int32(1)
	set := func(g *v1.Gateway) { g.Status.AttachedListenerSets = &one }
	for _, test := range []struct {
		name       string
		conflicts  int
		generation int64 // of what is stored
		there      *int32
		writes     int
		fails      bool
	}{
		{name: "new", writes: 1},
		{name: "there already", there: &one},
		{name: "after conflicts", conflicts: 3, writes: 1},
		{name: "another spec by now", conflicts: 1, generation: 7},
		{name: "conflicts without end", conflicts: 100, fails: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			have := &v1.Gateway{Status: v1.GatewayStatus{AttachedListenerSets: test.there}}
			w := &writer{stored: have.DeepCopy(), conflicts: test.conflicts}
			w.stored.Generation = test.generation
			err := write(t.Context(), "Gateway", w, have, set)
			if (err != nil) != test.fails || w.writes != test.writes {
				t.Errorf("%d writes, error %v; want %d, %v", w.writes, err, test.writes, test.fails)
			}
		})
	}
}
