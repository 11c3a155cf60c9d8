package server

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/pkg/status"
)

func TestNodeStatus(t *testing.T) {
	born, since := time.Unix(1e9, 0), time.Unix(2e9, 0)
	condition := func(kind corev1.NodeConditionType, is corev1.ConditionStatus, message string) corev1.NodeCondition {
		return corev1.NodeCondition{Type: kind, Status: is, Message: message, LastTransitionTime: metav1.NewTime(since), LastHeartbeatTime: metav1.NewTime(since)}
	}
	for _, c := range []struct {
		name       string
		conditions []corev1.NodeCondition
		cordoned   bool
		want       status.Node
	}{
		{"new", nil, false, status.Node{State: "not ready", Since: born, Message: "its kubelet has not reported yet"}},
		{"well", []corev1.NodeCondition{condition(corev1.NodeReady, corev1.ConditionTrue, "kubelet is posting")}, false, status.Node{State: "ready", Since: since}},
		{
			"cordoned", []corev1.NodeCondition{condition(corev1.NodeReady, corev1.ConditionTrue, "")}, true,
			status.Node{State: "ready", Since: since, Message: "takes no new pods: it was cordoned; `skiff kubectl uncordon n` ends that"},
		},
		{
			"disk", []corev1.NodeCondition{condition(corev1.NodeReady, corev1.ConditionTrue, ""), condition(corev1.NodeDiskPressure, corev1.ConditionTrue, "kubelet has disk pressure")}, false,
			status.Node{State: "ready", Since: since, Message: "DiskPressure: kubelet has disk pressure"},
		},
		{"broken", []corev1.NodeCondition{condition(corev1.NodeReady, corev1.ConditionFalse, "no network plug-in")}, false, status.Node{State: "not ready", Since: since, Message: "no network plug-in"}},
		{
			"gone", []corev1.NodeCondition{condition(corev1.NodeReady, corev1.ConditionUnknown, "Kubelet stopped posting node status.")}, false,
			status.Node{State: "unreachable", Since: since, Message: "no word since 2033-05-18T03:33:20Z: is the machine on, does its network work, and what does `skiff status` say there?"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", CreationTimestamp: metav1.NewTime(born)}, Spec: corev1.NodeSpec{Unschedulable: c.cordoned}}
			n.Status.Conditions = c.conditions
			c.want.Name = "n"
			if diff := cmp.Diff(c.want, nodeStatus(n)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}
