package runtimeclass

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func node(labels map[string]string, runtimes ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: labels}}
	for _, r := range runtimes {
		n.Status.RuntimeHandlers = append(n.Status.RuntimeHandlers, corev1.NodeRuntimeHandler{Name: r})
	}
	return n
}

func class(name string, labels map[string]string) nodev1.RuntimeClass {
	return nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
}

func TestPlan(t *testing.T) {
	own := map[string]string{managedKey: managedValue}
	crun := map[string]string{"runtime.skiff.dev/crun": "true"}
	tests := []struct {
		name        string
		nodes       []*corev1.Node
		have        []nodev1.RuntimeClass
		add, remove []string
	}{
		{"runc only", []*corev1.Node{node(nil, "", "runc")}, nil, nil, nil},
		{"of all nodes", []*corev1.Node{node(nil, "", "runc", "crun"), node(nil, "runc", "spin", "crun")}, nil, []string{"crun", "spin"}, nil},
		{"a name that is none", []*corev1.Node{node(nil, "runc", "Bad_Name")}, nil, nil, nil},
		{"the user's stays", []*corev1.Node{node(nil, "runc", "crun")}, []nodev1.RuntimeClass{class("crun", nil), class("kata", nil)}, nil, nil},
		{"ours goes", []*corev1.Node{node(nil, "runc")}, []nodev1.RuntimeClass{class("crun", own)}, nil, []string{"crun"}},
		{"a node that starts keeps its own", []*corev1.Node{node(crun)}, []nodev1.RuntimeClass{class("crun", own)}, nil, nil},
		{"no node", nil, []nodev1.RuntimeClass{class("crun", own), class("b", own)}, nil, []string{"b", "crun"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			add, remove := plan(tt.nodes, tt.have)
			var names []string
			for _, c := range add {
				names = append(names, c.Name)
				if c.Handler != c.Name || c.Scheduling.NodeSelector[labelPrefix+c.Name] != "true" || c.Labels[managedKey] != managedValue {
					t.Errorf("class %+v", c)
				}
			}
			if diff := cmp.Diff(tt.add, names); diff != "" {
				t.Errorf("to make: -want +got\n%s", diff)
			}
			if diff := cmp.Diff(tt.remove, remove); diff != "" {
				t.Errorf("to remove: -want +got\n%s", diff)
			}
		})
	}
}

func TestLabelPatch(t *testing.T) {
	labels := map[string]string{"a": "b", "runtime.skiff.dev/old": "true"}
	for name, tt := range map[string]struct {
		node *corev1.Node
		want string
	}{
		"new and gone":   {node(labels, "", "runc", "crun"), `{"metadata":{"labels":{"runtime.skiff.dev/crun":"true","runtime.skiff.dev/old":null}}}`},
		"as it is":       {node(map[string]string{"runtime.skiff.dev/crun": "true"}, "runc", "crun"), ""},
		"not yet known":  {node(labels), ""},
		"nothing to say": {node(map[string]string{"a": "b"}, "runc"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := labelPatch(tt.node)
			if err != nil || string(got) != tt.want {
				t.Errorf("patch = %s, %v, want %s", got, err, tt.want)
			}
		})
	}
}
