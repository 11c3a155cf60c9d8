package runtimeclass

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

const (
	// labelPrefix and the name of a runtime is the label of nodes that have it.
	labelPrefix = "runtime.skiff.dev/"
	labelValue  = "true"

	managedKey   = "app.kubernetes.io/managed-by"
	managedValue = "skiff"
	managed      = managedKey + "=" + managedValue

	// runc is on every node and what pods get that ask for nothing.
	runc = "runc"
)

// handlers are the runtimes of a node that a class can be made for. A name
// from a drop-in may be one that Kubernetes does not allow.
func handlers(n *corev1.Node) []string {
	var out []string
	for _, h := range n.Status.RuntimeHandlers {
		if h.Name != "" && h.Name != runc && len(validation.IsDNS1123Label(h.Name)) == 0 {
			out = append(out, h.Name)
		}
	}
	return out
}

// ours are the labels that Run sets.
func ours(all map[string]string) map[string]string {
	out := map[string]string{}
	for key, value := range all {
		if strings.HasPrefix(key, labelPrefix) {
			out[key] = value
		}
	}
	return out
}

func wanted(n *corev1.Node) map[string]string {
	out := map[string]string{}
	for _, h := range handlers(n) {
		out[labelPrefix+h] = labelValue
	}
	return out
}

// differ reports whether a node's change matters here.
func differ(before, now any) bool {
	a, ok1 := before.(*corev1.Node)
	b, ok2 := now.(*corev1.Node)
	return !ok1 || !ok2 || !maps.Equal(wanted(a), wanted(b)) || !maps.Equal(ours(a.Labels), ours(b.Labels))
}

// labelPatch makes the node's labels those of its runtimes; nil if they are.
// A node that has reported none at all has not started yet: it keeps its labels.
func labelPatch(n *corev1.Node) ([]byte, error) {
	have, want := ours(n.Labels), wanted(n)
	if len(n.Status.RuntimeHandlers) == 0 || maps.Equal(have, want) {
		return nil, nil
	}
	change := map[string]any{}
	for key := range have {
		if _, ok := want[key]; !ok {
			change[key] = nil
		}
	}
	for key, value := range want {
		change[key] = value
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": change}})
	if err != nil {
		return nil, fmt.Errorf("label node %s with its runtimes: %w", n.Name, err)
	}
	return patch, nil
}

// plan says which classes to make and which of ours to remove.
func plan(nodes []*corev1.Node, have []nodev1.RuntimeClass) (add []*nodev1.RuntimeClass, remove []string) {
	want := map[string]bool{}
	for _, n := range nodes {
		for _, h := range handlers(n) {
			want[h] = true
		}
		if len(n.Status.RuntimeHandlers) > 0 {
			continue
		}
		// Not reported yet: what it had is what it has.
		for key := range ours(n.Labels) {
			want[strings.TrimPrefix(key, labelPrefix)] = true
		}
	}
	for _, class := range have {
		if !want[class.Name] && class.Labels[managedKey] == managedValue {
			remove = append(remove, class.Name)
		}
		delete(want, class.Name)
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		add = append(add, &nodev1.RuntimeClass{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{managedKey: managedValue}},
			Handler:    name,
			Scheduling: &nodev1.Scheduling{NodeSelector: map[string]string{labelPrefix + name: labelValue}},
		})
	}
	slices.Sort(remove)
	return add, remove
}
