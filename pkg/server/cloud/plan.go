package cloud

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	cloudapi "k8s.io/cloud-provider/api"

	"skiff/pkg/join"
)

// labelControlPlane is what `kubectl get nodes` shows as the node's role; the
// value is K3s', upstream's is empty and nobody selects by it.
const labelControlPlane = "node-role.kubernetes.io/control-plane"

// plan is what has to be changed on a node; nil patches mean nothing.
type plan struct {
	addresses []string // for the log
	status    []byte   // merge patch of the status
	spec      []byte   // merge patch of the rest
}

// planFor compares a node with what it should be. A node without the kubelet's
// address annotation keeps the addresses it reports itself. own is the name of
// the node in the server's process, which gets the role's label: kubelets may
// not set labels of that prefix themselves (NodeRestriction).
func planFor(n *corev1.Node, own string) (plan, error) {
	var p plan
	want, err := addresses(n)
	if err != nil {
		return p, err
	}
	if want != nil && !slices.Equal(want, n.Status.Addresses) {
		// A strategic merge would match addresses by their type and lose the
		// second of a dual-stack node; a merge patch replaces the list.
		patch := map[string]any{"status": map[string]any{"addresses": want}}
		if p.status, err = json.Marshal(patch); err != nil {
			return p, fmt.Errorf("encode addresses: %w", err)
		}
		for _, a := range want {
			p.addresses = append(p.addresses, string(a.Type)+"="+a.Address)
		}
	}
	if want == nil && !slices.ContainsFunc(n.Status.Addresses, func(a corev1.NodeAddress) bool { return a.Type == corev1.NodeInternalIP }) {
		return p, nil // The node has just registered and will say in a moment.
	}
	spec := make(map[string]any)
	if n.Spec.ProviderID == "" {
		spec["providerID"] = "skiff://" + n.Name
	}
	taints := slices.DeleteFunc(slices.Clone(n.Spec.Taints), func(t corev1.Taint) bool { return t.Key == cloudapi.TaintExternalCloudProvider })
	if len(taints) != len(n.Spec.Taints) {
		spec["taints"] = taints
	}
	metadata := map[string]any{"resourceVersion": n.ResourceVersion}
	if _, ok := n.Labels[labelControlPlane]; !ok && n.Name == own {
		metadata["labels"] = map[string]string{labelControlPlane: "true"}
	} else if len(spec) == 0 {
		return p, nil
	}
	// The list of taints is replaced as a whole: the version makes sure that
	// nobody has added one meanwhile. The patch of the status changes the
	// version, and the update that follows it brings us here again.
	if p.status != nil {
		return p, nil
	}
	patch := map[string]any{"metadata": metadata}
	if len(spec) > 0 {
		patch["spec"] = spec
	}
	if p.spec, err = json.Marshal(patch); err != nil {
		return p, fmt.Errorf("encode taints: %w", err)
	}
	return p, nil
}

// AnnotationInternalIP is what a skiff node writes its addresses to, primary
// first, separated by commas. It writes others when the host gets others.
const AnnotationInternalIP = "skiff.dev/internal-ip"

// provided returns what the node says its addresses are: its kubelet, where
// the user has fixed them (--node-ip), or skiff.
func provided(n *corev1.Node) (annotation, text string, ok bool) {
	for _, annotation := range []string{cloudapi.AnnotationAlphaProvidedIPAddr, AnnotationInternalIP} {
		if text, ok := n.Annotations[annotation]; ok {
			return annotation, text, true
		}
	}
	return "", "", false
}

// listed appends the addresses in an annotation.
func listed(list []corev1.NodeAddress, kind corev1.NodeAddressType, annotation, value string) ([]corev1.NodeAddress, error) {
	for s := range strings.SplitSeq(value, ",") {
		ip, err := netip.ParseAddr(strings.TrimSpace(s))
		if err != nil {
			return nil, fmt.Errorf("read annotation %s %q: %w", annotation, value, err)
		}
		list = append(list, corev1.NodeAddress{Type: kind, Address: ip.String()})
	}
	return list, nil
}

// addresses returns the node's addresses from what it says, also of
// --node-external-ip, nil if it says nothing.
func addresses(n *corev1.Node) ([]corev1.NodeAddress, error) {
	annotation, given, ok := provided(n)
	if !ok {
		return nil, nil
	}
	list, err := listed(nil, corev1.NodeInternalIP, annotation, given)
	if err != nil {
		return nil, err
	}
	if external, ok := n.Annotations[join.ExternalIPAnnotation]; ok {
		if list, err = listed(list, corev1.NodeExternalIP, join.ExternalIPAnnotation, external); err != nil {
			return nil, err
		}
	}
	hostname := n.Labels[corev1.LabelHostname]
	if hostname == "" {
		hostname = n.Name
	}
	return append(list, corev1.NodeAddress{Type: corev1.NodeHostName, Address: hostname}), nil
}
