package servicelb

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

const (
	// manager is the field manager by which our part of a status is known.
	manager = "skiff-servicelb"
	// conditionPorts is upstream's name for a load balancer that lacks ports.
	conditionPorts = corev1.LoadBalancerPortsError
	reasonConflict = "PortConflict"
)

// status is what the Service's status should be. It returns the present one
// unchanged when there is nothing to say.
func (p place) status() corev1.ServiceStatus {
	now := p.service.Status.DeepCopy()
	vip := corev1.LoadBalancerIPModeVIP
	var ingress []corev1.LoadBalancerIngress
	for _, a := range p.addrs {
		ingress = append(ingress, corev1.LoadBalancerIngress{IP: a.String(), IPMode: &vip})
	}
	now.LoadBalancer.Ingress = ingress
	if len(p.conflicts) == 0 {
		meta.RemoveStatusCondition(&now.Conditions, conditionPorts)
		return *now
	}
	meta.SetStatusCondition(&now.Conditions, metav1.Condition{
		Type: conditionPorts, Status: metav1.ConditionTrue, Reason: reasonConflict,
		Message: strings.Join(p.conflicts, "; "), ObservedGeneration: p.service.Generation,
	})
	return *now
}

// same compares what we write of two statuses.
func same(a, b corev1.ServiceStatus) bool {
	if !slices.EqualFunc(a.LoadBalancer.Ingress, b.LoadBalancer.Ingress, func(x, y corev1.LoadBalancerIngress) bool {
		return x.IP == y.IP && x.Hostname == y.Hostname
	}) {
		return false
	}
	x, y := meta.FindStatusCondition(a.Conditions, conditionPorts), meta.FindStatusCondition(b.Conditions, conditionPorts)
	return x == nil && y == nil || x != nil && y != nil && x.Status == y.Status && x.Message == y.Message
}

// write patches the status of the Service.
func write(ctx context.Context, client kubernetes.Interface, s *corev1.Service, status corev1.ServiceStatus) error {
	patch, err := json.Marshal(map[string]any{
		// Whoever has changed the Service in between is looked at first.
		"metadata": map[string]any{"resourceVersion": s.ResourceVersion},
		"status":   map[string]any{"loadBalancer": map[string]any{"ingress": status.LoadBalancer.Ingress}, "conditions": status.Conditions},
	})
	if err != nil {
		return fmt.Errorf("encode status of Service %s: %w", key(s), err)
	}
	_, err = client.CoreV1().Services(s.Namespace).Patch(ctx, s.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: manager}, "status")
	// What has changed or gone in between is planned for again.
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("write status of Service %s: %w", key(s), err)
	}
	return nil
}

// marked reports whether the Service's status has been written by us.
func marked(s *corev1.Service) bool {
	return slices.ContainsFunc(s.ManagedFields, func(f metav1.ManagedFieldsEntry) bool { return f.Manager == manager })
}

// Clear takes our addresses out of the Services that have them, for a server
// that runs without the load balancer.
func Clear(ctx context.Context, client kubernetes.Interface) error {
	list, err := client.CoreV1().Services(corev1.NamespaceAll).List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return fmt.Errorf("list Services: %w", err)
	}
	for i := range list.Items {
		s := &list.Items[i]
		if !ours(s) || !marked(s) {
			continue
		}
		if bare := (place{service: s}).status(); !same(bare, s.Status) {
			if err := write(ctx, client, s, bare); err != nil {
				return err
			}
		}
	}
	return nil
}
