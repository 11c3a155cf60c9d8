package server

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/pkg/status"
)

// mostNodes bounds what a status lists.
const mostNodes = 500

// Nodes says how the machines of the cluster are, for `skiff status`; nil while
// the API does not answer. The API server has the answer in memory.
func (s *Server) Nodes(ctx context.Context) []status.Node {
	client := s.reader()
	if client == nil {
		return nil
	}
	list, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return nil // The components of the status say what is wrong with the API.
	}
	out := make([]status.Node, 0, len(list.Items))
	for i := range list.Items {
		out = append(out, nodeStatus(&list.Items[i]))
	}
	slices.SortFunc(out, func(a, b status.Node) int {
		// What is not well comes first: it must not be what is cut off.
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Name, b.Name))
	})
	return out[:min(mostNodes, len(out))]
}

func rank(n status.Node) int {
	if n.State == status.NodeReady {
		return 1
	}
	return 0
}

// nodeStatus puts a Node in a person's words.
func nodeStatus(n *corev1.Node) status.Node {
	out := status.Node{Name: n.Name, State: "not ready", Since: n.CreationTimestamp.Time, Version: n.Status.NodeInfo.KubeletVersion, Message: "its kubelet has not reported yet"}
	for _, a := range n.Status.Addresses {
		if a.Type == corev1.NodeInternalIP && out.Address == "" {
			out.Address = a.Address
		}
	}
	var pressure string
	for _, c := range n.Status.Conditions {
		switch {
		case c.Type == corev1.NodeReady:
			out.Since = c.LastTransitionTime.Time
			switch c.Status {
			case corev1.ConditionTrue:
				out.State, out.Message = status.NodeReady, ""
			case corev1.ConditionUnknown:
				out.State = "unreachable"
				out.Message = fmt.Sprintf("no word since %s: is the machine on, does its network work, and what does `skiff status` say there?", c.LastHeartbeatTime.UTC().Format(time.RFC3339))
			default:
				out.Message = c.Message
			}
		case c.Status == corev1.ConditionTrue:
			// All others say that something is short or wrong.
			pressure = fmt.Sprintf("%s: %s", c.Type, c.Message)
		}
	}
	switch {
	case out.State == status.NodeReady && pressure != "":
		out.Message = pressure
	case out.State == status.NodeReady && n.Spec.Unschedulable:
		out.Message = fmt.Sprintf("takes no new pods: it was cordoned; `skiff kubectl uncordon %s` ends that", n.Name)
	}
	return out
}
