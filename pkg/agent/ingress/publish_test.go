package ingress

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
)

func node() *corev1.Node { return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "one", UID: "u"}} }

// writes are the calls that change something, as "verb resource name".
func writes(client *fake.Clientset) []string {
	var out []string
	for _, a := range client.Actions() {
		if named, ok := a.(interface{ GetName() string }); ok && a.GetVerb() == "delete" {
			out = append(out, "delete "+a.GetResource().Resource+" "+named.GetName())
			continue
		}
		with, ok := a.(interface {
			GetObject() interface{ GetName() string }
		})
		if ok {
			out = append(out, a.GetVerb()+" "+a.GetResource().Resource+" "+with.GetObject().GetName())
			continue
		}
		if v := a.GetVerb(); v != "get" && v != "list" {
			out = append(out, v+" "+a.GetResource().Resource)
		}
	}
	slices.Sort(out)
	return out
}

// TestPublish goes from nothing to three doors, changes one, adds a family and
// withdraws.
func TestPublish(t *testing.T) {
	client := fake.NewClientset(node())
	p := publication{
		node: "one", addrs: []netip.Addr{netip.MustParseAddr("10.42.0.1")},
		ports: map[door]uint16{{port: 80}: 20080, {port: 443}: 20443, {port: 8000}: 28000, {types.NamespacedName{Namespace: "a", Name: "g"}, 80}: 21000},
	}
	step := func(name string, wantWrites []string, wantServices map[string][]int32) {
		t.Helper()
		client.ClearActions()
		if err := publish(t.Context(), client, p); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if diff := cmp.Diff(wantWrites, writes(client)); diff != "" {
			t.Errorf("%s: writes (-want +got):\n%s", name, diff)
		}
		services, err := client.CoreV1().Services(namespace).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		got := make(map[string][]int32)
		for _, s := range services.Items {
			for _, port := range s.Spec.Ports {
				got[s.Name+" "+string(s.Spec.Type)] = append(got[s.Name+" "+string(s.Spec.Type)], port.Port)
			}
		}
		if diff := cmp.Diff(wantServices, got); diff != "" {
			t.Errorf("%s: services (-want +got):\n%s", name, diff)
		}
	}
	own := door{types.NamespacedName{Namespace: "a", Name: "g"}, 80}.service()
	created := []string{"create endpointslices", "create endpointslices", "create endpointslices", "create services", "create services", "create services"}
	step("first", created, map[string][]int32{"skiff-ingress LoadBalancer": {80, 443}, "skiff-ingress-8000 LoadBalancer": {8000}, own + " ": {80}})
	step("again", nil, map[string][]int32{"skiff-ingress LoadBalancer": {80, 443}, "skiff-ingress-8000 LoadBalancer": {8000}, own + " ": {80}})
	delete(p.ports, door{port: 8000})
	p.ports[door{port: 80}] = 20081
	step("one port less, one moved", []string{"delete endpointslices skiff-ingress-8000-one-ipv4", "delete services skiff-ingress-8000", "update endpointslices", "update services"},
		map[string][]int32{"skiff-ingress LoadBalancer": {80, 443}, own + " ": {80}})

	// What another node has published keeps the Services.
	other := "two"
	if _, err := client.DiscoveryV1().EndpointSlices(namespace).Create(t.Context(), &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Name: "other", Labels: labels()}, Endpoints: []discoveryv1.Endpoint{{NodeName: &other}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	client.ClearActions()
	if err := withdraw(t.Context(), client, "one"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"delete endpointslices " + own + "-one-ipv4", "delete endpointslices skiff-ingress-one-ipv4"}, writes(client)); diff != "" {
		t.Errorf("withdraw beside another node (-want +got):\n%s", diff)
	}
	client.ClearActions()
	if err := withdraw(t.Context(), client, "two"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"delete endpointslices other", "delete services skiff-ingress", "delete services " + own}, writes(client)); diff != "" {
		t.Errorf("withdraw the last (-want +got):\n%s", diff)
	}
}
