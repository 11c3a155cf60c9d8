package deploy

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// ref names one object of the cluster.
type ref struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Namespace  string `json:"namespace,omitempty"`
	Name       string `json:"name"`

	// loose means that the kind was unknown when the ref was made, so that
	// nobody can say yet whether it has a namespace.
	loose bool
}

func (r ref) gvk() schema.GroupVersionKind { return schema.FromAPIVersionAndKind(r.APIVersion, r.Kind) }

// same reports whether two refs are one object, whatever the version.
func (r ref) same(o ref) bool {
	return r.gvk().GroupKind() == o.gvk().GroupKind() && r.Name == o.Name && (r.Namespace == o.Namespace || r.loose || o.loose)
}

// String implements fmt.Stringer.
func (r ref) String() string {
	if r.Namespace == "" {
		return r.Kind + " " + r.Name
	}
	return r.Kind + " " + r.Namespace + "/" + r.Name
}

func refOf(u *unstructured.Unstructured) ref {
	return ref{APIVersion: u.GetAPIVersion(), Kind: u.GetKind(), Namespace: u.GetNamespace(), Name: u.GetName()}
}

// parse splits a file into objects; lists are taken apart. It returns all
// objects or an error.
func parse(data []byte) ([]*unstructured.Unstructured, error) {
	var out []*unstructured.Unstructured
	r := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(data)))
	for doc := 1; ; doc++ {
		b, err := r.Read()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read document %d: %w", doc, err)
		}
		var m map[string]any
		if err := yaml.UnmarshalStrict(b, &m); err != nil {
			return nil, fmt.Errorf("parse document %d: %w", doc, err)
		}
		if len(m) == 0 {
			continue
		}
		objects, err := flatten(&unstructured.Unstructured{Object: m})
		if err != nil {
			return nil, fmt.Errorf("check document %d: %w", doc, err)
		}
		out = append(out, objects...)
	}
}

// flatten returns the items of a list, or the object itself.
func flatten(u *unstructured.Unstructured) ([]*unstructured.Unstructured, error) {
	if u.GetAPIVersion() == "" || u.GetKind() == "" {
		return nil, errors.New("apiVersion or kind is missing")
	}
	if !u.IsList() {
		if u.GetName() == "" {
			return nil, fmt.Errorf("%s has no metadata.name", u.GetKind())
		}
		return []*unstructured.Unstructured{u}, nil
	}
	var out []*unstructured.Unstructured
	err := u.EachListItem(func(o runtime.Object) error {
		item, ok := o.(*unstructured.Unstructured)
		if !ok {
			return fmt.Errorf("item of %s is no object", u.GetKind())
		}
		inner, err := flatten(item)
		out = append(out, inner...)
		return err
	})
	return out, err
}

// rank orders objects: what others need comes first.
func rank(gk schema.GroupKind) int {
	switch gk {
	case schema.GroupKind{Kind: "Namespace"}:
		return 0
	case crdKind:
		return 1
	case schema.GroupKind{Kind: "ServiceAccount"}, schema.GroupKind{Kind: "ConfigMap"}, schema.GroupKind{Kind: "Secret"},
		schema.GroupKind{Group: "scheduling.k8s.io", Kind: "PriorityClass"}:
		return 2
	case schema.GroupKind{Group: "apiregistration.k8s.io", Kind: "APIService"}:
		return 4
	}
	switch gk.Group {
	case "rbac.authorization.k8s.io", "storage.k8s.io", "node.k8s.io":
		return 2
	case "admissionregistration.k8s.io":
		return 4 // Last, so that it cannot refuse what makes it work.
	}
	return 3
}

var crdKind = schema.GroupKind{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"}

// task is one object of one source, to be applied.
type task struct {
	source string
	object *unstructured.Unstructured
}

// order sorts tasks of several files so that each finds what it needs; within a
// rank the order of the files stays.
func order(tasks []task) {
	slices.SortStableFunc(tasks, func(a, b task) int {
		return rank(a.object.GroupVersionKind().GroupKind()) - rank(b.object.GroupVersionKind().GroupKind())
	})
}

// stale returns the refs of before that after no longer has.
func stale(before, after []ref) []ref {
	var out []ref
	for _, b := range before {
		if !slices.ContainsFunc(after, b.same) {
			out = append(out, b)
		}
	}
	// Reverse order of creation: what others need goes last.
	slices.SortStableFunc(out, func(a, b ref) int { return rank(b.gvk().GroupKind()) - rank(a.gvk().GroupKind()) })
	return out
}
