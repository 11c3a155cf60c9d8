package gateway

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	v1 "sigs.k8s.io/gateway-api/apis/v1"
)

func TestStore(t *testing.T) {
	changes := 0
	s := newStore[*v1.Gateway](func() { changes++ })
	gateway := func(generation int64, change func(*v1.Gateway)) *v1.Gateway {
		g := &v1.Gateway{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "g", UID: "1", Generation: generation}}
		if change != nil {
			change(g)
		}
		return g
	}
	for _, step := range []struct {
		name string
		do   func() error
		news bool
	}{
		{"the list is empty", func() error { return s.Replace(nil, "") }, true},
		{"it still is", func() error { return s.Replace(nil, "") }, false},
		{"new", func() error { return s.Add(gateway(1, nil)) }, true},
		{"status", func() error {
			return s.Update(gateway(1, func(g *v1.Gateway) { g.Status.Addresses = []v1.GatewayStatusAddress{{Value: "x"}} }))
		}, false},
		{"spec", func() error { return s.Update(gateway(2, nil)) }, true},
		{"labels", func() error {
			return s.Update(gateway(2, func(g *v1.Gateway) { g.Labels = map[string]string{"a": "b"} }))
		}, true},
		{"another of the name", func() error { return s.Update(gateway(2, func(g *v1.Gateway) { g.UID = "2" })) }, true},
		{"gone", func() error { return s.Delete(gateway(2, nil)) }, true},
	} {
		before := changes
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		if got := changes > before; got != step.news {
			t.Errorf("%s: told of a change: %v, want %v", step.name, got, step.news)
		}
	}
	if !s.known() || len(s.all()) != 0 {
		t.Errorf("known %v, %d objects", s.known(), len(s.all()))
	}
}

func TestSetClass(t *testing.T) {
	for _, test := range []struct {
		name, version string
		parameters    *v1.ParametersReference
		want          []string
	}{
		{"the version that this is for", "v1.6.3", nil, []string{"Accepted=True/Accepted", "SupportedVersion=True/SupportedVersion"}},
		{"another version", "v1.7.0", nil, []string{"Accepted=True/Accepted", "SupportedVersion=False/UnsupportedVersion"}},
		{"parameters", "v1.6.0", &v1.ParametersReference{Kind: "K"}, []string{"Accepted=False/InvalidParameters", "SupportedVersion=True/SupportedVersion"}},
	} {
		c := &v1.GatewayClass{Spec: v1.GatewayClassSpec{ControllerName: Controller, ParametersRef: test.parameters}}
		setClass(c, test.version)
		if d := cmp.Diff(test.want, brief(c.Status.Conditions)); d != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, d)
		}
		if len(c.Status.SupportedFeatures) != len(features) {
			t.Errorf("%s: %d features", test.name, len(c.Status.SupportedFeatures))
		}
	}
	if !slices.IsSorted(features) {
		t.Error("the features are not sorted")
	}
}
