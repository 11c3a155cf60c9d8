package gateway

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// The two forms define the same kinds in the same versions.
func TestForms(t *testing.T) {
	kinds := func(read func() ([]*unstructured.Unstructured, error)) map[string][]string {
		list, err := read()
		if err != nil {
			t.Fatal(err)
		}
		out := make(map[string][]string)
		for _, o := range list {
			versions, _, _ := unstructured.NestedSlice(o.Object, "spec", "versions")
			for _, v := range versions {
				name, _, _ := unstructured.NestedString(v.(map[string]any), "name")
				out[o.GetName()] = append(out[o.GetName()], name)
			}
			if v := o.GetAnnotations()[versionAnnotation]; v[:len(supportedVersion)] != supportedVersion {
				t.Errorf("%s is of version %s, the package supports %sx", o.GetName(), v, supportedVersion)
			}
		}
		return out
	}
	all, some := kinds(whole), kinds(light)
	if d := cmp.Diff(all, some); d != "" {
		t.Errorf("(-whole +light):\n%s", d)
	}
	if len(all) != 9 {
		t.Errorf("%d definitions", len(all))
	}
}

func TestReplaces(t *testing.T) {
	definition := func(manager, version, form string) *unstructured.Unstructured {
		u := &unstructured.Unstructured{Object: map[string]any{}}
		u.SetManagedFields([]metav1.ManagedFieldsEntry{{Manager: manager, Operation: metav1.ManagedFieldsOperationApply}})
		u.SetAnnotations(map[string]string{versionAnnotation: version, formAnnotation: form})
		return u
	}
	for _, test := range []struct {
		name       string
		want, live *unstructured.Unstructured
		replaces   bool
	}{
		{"light by whole", definition("", "v1.6.3", "2"), definition(fieldManager, "v1.6.3", "1"), true},
		{"whole by light", definition("", "v1.6.3", "1"), definition(fieldManager, "v1.6.3", "2"), true},
		{"the same", definition("", "v1.6.3", "2"), definition(fieldManager, "v1.6.3", "2"), false},
		{"older by newer", definition("", "v1.10.0", "2"), definition(fieldManager, "v1.6.3", "2"), true},
		{"newer by older", definition("", "v1.6.3", "2"), definition(fieldManager, "v1.10.0", ""), false},
		{"somebody else's", definition("", "v1.6.3", "2"), definition("kubectl", "v1.6.3", ""), false},
	} {
		if got := replaces(test.want, test.live); got != test.replaces {
			t.Errorf("%s: %v", test.name, got)
		}
	}
}
