package cloud

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestPlanFor(t *testing.T) {
	uninitialized := corev1.Taint{Key: "node.cloudprovider.kubernetes.io/uninitialized", Value: "true", Effect: corev1.TaintEffectNoSchedule}
	other := corev1.Taint{Key: "dedicated", Value: "db", Effect: corev1.TaintEffectNoExecute}
	node := func(change func(*corev1.Node)) *corev1.Node {
		n := &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: "n1", ResourceVersion: "7", Labels: map[string]string{"kubernetes.io/hostname": "host1"}, Annotations: map[string]string{"alpha.kubernetes.io/provided-node-ip": "192.0.2.1,2001:db8::1"}},
			Spec:       corev1.NodeSpec{ProviderID: "skiff://n1"},
			Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
				{Type: corev1.NodeInternalIP, Address: "192.0.2.1"},
				{Type: corev1.NodeInternalIP, Address: "2001:db8::1"},
				{Type: corev1.NodeHostName, Address: "host1"},
			}},
		}
		change(n)
		return n
	}
	tests := []struct {
		name         string
		node         *corev1.Node
		status, spec string
		wantErr      bool
	}{
		{name: "nothing to do", node: node(func(*corev1.Node) {})},
		{
			name: "new node gets its addresses first",
			node: node(func(n *corev1.Node) {
				n.Status.Addresses, n.Spec.ProviderID, n.Spec.Taints = nil, "", []corev1.Taint{uninitialized}
			}),
			status: `{"status":{"addresses":[{"type":"InternalIP","address":"192.0.2.1"},{"type":"InternalIP","address":"2001:db8::1"},{"type":"Hostname","address":"host1"}]}}`,
		},
		{
			name: "then its provider ID, and loses only our taint",
			node: node(func(n *corev1.Node) {
				n.Spec.ProviderID, n.Spec.Taints = "", []corev1.Taint{uninitialized, other}
			}),
			spec: `{"metadata":{"resourceVersion":"7"},"spec":{"providerID":"skiff://n1","taints":[{"key":"dedicated","value":"db","effect":"NoExecute"}]}}`,
		},
		{
			name: "node of the server gets its role",
			node: node(func(n *corev1.Node) { n.Name = "own" }),
			spec: `{"metadata":{"labels":{"node-role.kubernetes.io/control-plane":"true"},"resourceVersion":"7"}}`,
		},
		{
			name: "role that is there stays as it is",
			node: node(func(n *corev1.Node) { n.Name = "own"; n.Labels["node-role.kubernetes.io/control-plane"] = "" }),
		},
		{
			name:   "changed address",
			node:   node(func(n *corev1.Node) { n.Annotations["alpha.kubernetes.io/provided-node-ip"] = "192.0.2.9" }),
			status: `{"status":{"addresses":[{"type":"InternalIP","address":"192.0.2.9"},{"type":"Hostname","address":"host1"}]}}`,
		},
		{
			name:   "external address",
			node:   node(func(n *corev1.Node) { n.Annotations["skiff.dev/external-ip"] = "198.51.100.7" }),
			status: `{"status":{"addresses":[{"type":"InternalIP","address":"192.0.2.1"},{"type":"InternalIP","address":"2001:db8::1"},{"type":"ExternalIP","address":"198.51.100.7"},{"type":"Hostname","address":"host1"}]}}`,
		},
		{
			name:    "broken external address",
			node:    node(func(n *corev1.Node) { n.Annotations["skiff.dev/external-ip"] = "" }),
			wantErr: true,
		},
		{
			name: "kubelet without fixed address keeps its own",
			node: node(func(n *corev1.Node) { n.Annotations = nil; n.Status.Addresses = n.Status.Addresses[:1] }),
		},
		{
			name:   "addresses that skiff gives",
			node:   node(func(n *corev1.Node) { n.Annotations = map[string]string{AnnotationInternalIP: "192.0.2.9"} }),
			status: `{"status":{"addresses":[{"type":"InternalIP","address":"192.0.2.9"},{"type":"Hostname","address":"host1"}]}}`,
		},
		{
			name: "a node that has not said its addresses is not initialised",
			node: node(func(n *corev1.Node) {
				n.Annotations, n.Status.Addresses, n.Spec.ProviderID, n.Spec.Taints = nil, n.Status.Addresses[2:], "", []corev1.Taint{uninitialized}
			}),
		},
		{
			name: "foreign provider ID stays",
			node: node(func(n *corev1.Node) { n.Spec.ProviderID = "other://n1" }),
		},
		{
			name:    "broken annotation",
			node:    node(func(n *corev1.Node) { n.Annotations["alpha.kubernetes.io/provided-node-ip"] = "nowhere" }),
			wantErr: true,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := planFor(tt.node, "own")
			if (err != nil) != tt.wantErr {
				t.Fatalf("planFor error = %v, want error: %t", err, tt.wantErr)
			}
			if diff := cmp.Diff(tt.status, string(p.status)); diff != "" {
				t.Errorf("status patch (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.spec, string(p.spec)); diff != "" {
				t.Errorf("spec patch (-want +got):\n%s", diff)
			}
		})
	}
}
