package services_test

import (
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// definitionInUse removes the file of a definition that says
// deploy.skiff.dev/prune: unused, with and without objects of its kind.
func (d *deployer) definitionInUse(t *testing.T) {
	boats := d.dynamic.Resource(schema.GroupVersionResource{Group: "four.skiff.dev", Version: "v1", Resource: "boats"}).Namespace("default")
	definitions := d.dynamic.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	file := strings.ReplaceAll(strings.ReplaceAll(boatCRD, "test.skiff.dev}", `test.skiff.dev, annotations: {deploy.skiff.dev/prune: unused}}`), "test.skiff.dev", "four.skiff.dev")
	d.write("boats.yaml", file)
	d.atOnce("boats")
	boat := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "four.skiff.dev/v1", "kind": "Boat", "metadata": map[string]any{"name": "b"}}}
	if _, err := boats.Create(t.Context(), boat, create); err != nil {
		t.Fatal(err)
	}
	d.rm("boats.yaml")
	d.noAddOn("boats")
	if _, err := boats.Get(t.Context(), "b", get); err != nil {
		t.Errorf("the definition went with the object: %v", err)
	}
	if err := boats.Delete(t.Context(), "b", remove); err != nil {
		t.Fatal(err)
	}
	d.write("boats.yaml", file)
	d.addOnHas("boats", "boats.four.skiff.dev")
	d.rm("boats.yaml")
	eventually(t, "end of the definition", func() error {
		_, err := definitions.Get(t.Context(), "boats.four.skiff.dev", get)
		return wantGone(err)
	})
}

// edited changes an object with kubectl: that stays while the file does.
func (d *deployer) edited(t *testing.T) {
	edit := func(value string) {
		t.Helper()
		patch := fmt.Appendf(nil, `{"data":{"value":%q,"more":"theirs"}}`, value)
		if _, err := d.kube.CoreV1().ConfigMaps("default").Patch(t.Context(), "edited", types.MergePatchType, patch, metav1.PatchOptions{FieldManager: "kubectl-edit"}); err != nil {
			t.Fatal(err)
		}
	}
	d.write("edited.yaml", configMap("edited", "1", ""))
	d.value("edited", "1")
	edit("theirs")
	d.write("another.yaml", configMap("another", "1", ""))
	d.value("another", "1")
	d.value("edited", "theirs") // It stays while the file does.
	d.write("edited.yaml", configMap("edited", "2", ""))
	d.value("edited", "2")
	edit("theirs")
	d.stop()
	d.start()
	d.value("edited", "2")
	m, err := d.kube.CoreV1().ConfigMaps("default").Get(t.Context(), "edited", get)
	if err != nil || m.Data["more"] != "theirs" {
		t.Errorf("what the file says nothing of: %v, %v", m.Data, err)
	}
	d.rm("edited.yaml")
	d.gone("edited")
	d.rm("another.yaml")
}

// noAddOn waits for the end of an AddOn, which comes after that of its objects.
func (d *deployer) noAddOn(name string) {
	d.t.Helper()
	eventually(d.t, "end of AddOn "+name, func() error {
		_, err := d.dynamic.Resource(addons).Namespace("kube-system").Get(d.t.Context(), name, get)
		return wantGone(err)
	})
}
