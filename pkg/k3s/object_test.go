package k3s

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// stored is a Node as the API server writes it.
func stored(t *testing.T, n *corev1.Node) []byte {
	t.Helper()
	raw, err := n.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	u := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: "v1", Kind: "Node"}, Raw: raw}
	packed, err := u.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return append(bytes.Clone(magic), packed...)
}

// TestFinalizers cuts those of K3s out of an object in protobuf and of one in
// JSON, and leaves all else.
func TestFinalizers(t *testing.T) {
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "till", Labels: map[string]string{"a": "b"}, Finalizers: []string{"wrangler.cattle.io/node", "mine.example/x"}},
		Spec:       corev1.NodeSpec{PodCIDR: "10.42.0.0/24", Taints: []corev1.Taint{{Key: "k", Effect: corev1.TaintEffectNoExecute}}},
	}
	want := n.DeepCopy()
	want.Finalizers = []string{"mine.example/x"}
	value := stored(t, n)
	o, err := parse("/registry/minions/till", value)
	if err != nil || o.kind != "Node" || o.name() != "till" {
		t.Fatalf("%+v, %v", o, err)
	}
	mended, did, err := withoutFinalizers(value, o, wranglers)
	if err != nil || !did {
		t.Fatalf("%v, %v", did, err)
	}
	if !bytes.Equal(mended, stored(t, want)) {
		t.Errorf("not what the API server would write:\n%q\n%q", mended, stored(t, want))
	}
	if o, err = parse("", mended); err != nil {
		t.Fatal(err)
	}
	if same, did, err := withoutFinalizers(mended, o, wranglers); err != nil || did || !bytes.Equal(same, mended) {
		t.Errorf("a second time: %v, %v", did, err)
	}

	value = []byte(`{"apiVersion":"helm.cattle.io/v1","kind":"HelmChart","metadata":{"name":"a","namespace":"b","finalizers":["wrangler.cattle.io/on-helm-chart-remove"],"uid":"u"},"spec":{"chart":"c","n":12345678901234567890}}`)
	if o, err = parse("/registry/helm.cattle.io/helmcharts/b/a", value); err != nil || o.name() != "b/a" || o.meta.UID != "u" {
		t.Fatalf("%+v, %v", o, err)
	}
	if mended, did, err = withoutFinalizers(value, o, wranglers); err != nil || !did {
		t.Fatalf("%v, %v", did, err)
	}
	var got, expected map[string]json.RawMessage
	if err := json.Unmarshal(mended, &got); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(value, &expected); err != nil {
		t.Fatal(err)
	}
	expected["metadata"] = json.RawMessage(`{"name":"a","namespace":"b","uid":"u"}`)
	if diff := cmp.Diff(expected, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestParse(t *testing.T) {
	for _, c := range []struct {
		name  string
		value string
		ok    bool
	}{
		{"encrypted", "k8s:enc:aescbc:v1:key:\x00\x01", false},
		{"text", "salt:secret", false},
		{"cut", "k8s\x00\x0a\xff", false},
		{"empty", "", false},
		{"no kind", `{"health":"true"}`, true},
	} {
		if _, err := parse("/registry/x", []byte(c.value)); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
