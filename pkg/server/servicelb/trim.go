package servicelb

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// The informers keep only what a plan is made from.

func trimService(obj any) (any, error) {
	s, ok := obj.(*corev1.Service)
	if !ok {
		return obj, nil
	}
	if !ours(s) {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: s.Namespace, Name: s.Name, ResourceVersion: s.ResourceVersion}}, nil
	}
	s.ManagedFields, s.Annotations = nil, nil
	return s, nil
}

func trimNode(obj any) (any, error) {
	n, ok := obj.(*corev1.Node)
	if !ok {
		return obj, nil
	}
	n.ManagedFields, n.Annotations, n.Spec = nil, nil, corev1.NodeSpec{}
	n.Status = corev1.NodeStatus{Conditions: n.Status.Conditions, Addresses: n.Status.Addresses}
	return n, nil
}

func trimSlice(obj any) (any, error) {
	s, ok := obj.(*discoveryv1.EndpointSlice)
	if !ok {
		return obj, nil
	}
	s.ManagedFields, s.Annotations, s.OwnerReferences, s.Ports = nil, nil, nil, nil
	return s, nil
}

// endpoints are the nodes with ready endpoints, by Service.
func endpoints(list []any) map[types.NamespacedName]map[string]bool {
	found := make(map[types.NamespacedName]map[string]bool)
	for _, obj := range list {
		s, ok := obj.(*discoveryv1.EndpointSlice)
		if !ok {
			continue
		}
		service := types.NamespacedName{Namespace: s.Namespace, Name: s.Labels[discoveryv1.LabelServiceName]}
		for _, e := range s.Endpoints {
			if e.NodeName == nil || e.Conditions.Ready != nil && !*e.Conditions.Ready {
				continue
			}
			if found[service] == nil {
				found[service] = make(map[string]bool)
			}
			found[service][*e.NodeName] = true
		}
	}
	return found
}
