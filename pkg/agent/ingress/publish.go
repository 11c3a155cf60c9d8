package ingress

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"

	"skiff/pkg/agent/ingress/rules"
)

const (
	// serviceName is the Service of ports 80 and 443. Each other port has a
	// Service of its own, so that a port which cannot be had takes no other with it.
	serviceName = "skiff-ingress"
	namespace   = metav1.NamespaceSystem

	// managedByLabel marks what this package has made; managedBy is its value.
	managedByLabel = "app.kubernetes.io/managed-by"
	managedBy      = "skiff-ingress"

	// gatewayAnnotation names the Gateway that a Service is the only one of: one
	// that cannot be told from another on the node's addresses.
	gatewayAnnotation = "ingress.skiff.dev/gateway"
)

// door is a public port: of the node, or, if a Gateway is named, of an address of
// its own.
type door struct {
	gateway types.NamespacedName
	port    uint16
}

// service names the Service of a door.
func (d door) service() string {
	if d.gateway.Name != "" {
		// Names of Gateways may be longer than those of Services.
		h := fnv.New64a()
		_, _ = h.Write([]byte(d.gateway.String()))
		return fmt.Sprintf("%s-%x", serviceName, h.Sum64())
	}
	if d.port == rules.HTTPPort || d.port == rules.HTTPSPort {
		return serviceName
	}
	return fmt.Sprintf("%s-%d", serviceName, d.port)
}

// publication is what should be published: for each door the port that the proxy
// listens on.
type publication struct {
	node  string
	addrs []netip.Addr
	ports map[door]uint16
}

func portName(port uint16) string {
	switch port {
	case rules.HTTPPort:
		return "http"
	case rules.HTTPSPort:
		return "https"
	}
	return fmt.Sprintf("tcp-%d", port)
}

// services are the Services of the publication, by name.
func (p publication) services() map[string]*corev1.Service {
	out := make(map[string]*corev1.Service)
	for d, target := range p.ports {
		s, ok := out[d.service()]
		if !ok {
			s = &corev1.Service{
				ObjectMeta: metav1.ObjectMeta{Name: d.service(), Namespace: namespace, Labels: labels()},
				Spec:       corev1.ServiceSpec{IPFamilyPolicy: new(corev1.IPFamilyPolicyPreferDualStack)},
			}
			if d.gateway.Name != "" {
				s.Annotations = map[string]string{gatewayAnnotation: d.gateway.String()}
			} else {
				s.Spec.Type = corev1.ServiceTypeLoadBalancer
				s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
				s.Spec.AllocateLoadBalancerNodePorts = new(false)
			}
			out[s.Name] = s
		}
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{
			Name: portName(d.port), Protocol: corev1.ProtocolTCP, Port: int32(d.port), TargetPort: intstr.FromInt32(int32(target)),
		})
	}
	for _, s := range out {
		slices.SortFunc(s.Spec.Ports, func(a, b corev1.ServicePort) int { return int(a.Port - b.Port) })
	}
	return out
}

// slices are the EndpointSlices of the publication, by name.
func (p publication) slices(owner metav1.OwnerReference) map[string]*discoveryv1.EndpointSlice {
	out := make(map[string]*discoveryv1.EndpointSlice)
	for _, service := range p.services() {
		for _, addr := range p.addrs {
			kind := discoveryv1.AddressTypeIPv4
			if addr.Is6() {
				kind = discoveryv1.AddressTypeIPv6
			}
			own := labels()
			own[discoveryv1.LabelServiceName], own[discoveryv1.LabelManagedBy] = service.Name, "ingress.skiff.dev"
			s := &discoveryv1.EndpointSlice{
				ObjectMeta: metav1.ObjectMeta{
					Name: service.Name + "-" + p.node + "-" + strings.ToLower(string(kind)), Namespace: namespace, Labels: own,
					OwnerReferences: []metav1.OwnerReference{owner},
				},
				AddressType: kind,
				Endpoints: []discoveryv1.Endpoint{{
					Addresses: []string{addr.String()}, NodeName: &p.node,
					Conditions: discoveryv1.EndpointConditions{Ready: new(true), Serving: new(true), Terminating: new(false)},
				}},
			}
			for _, port := range service.Spec.Ports {
				tcp, number := corev1.ProtocolTCP, port.TargetPort.IntVal
				s.Ports = append(s.Ports, discoveryv1.EndpointPort{Name: new(port.Name), Protocol: &tcp, Port: &number})
			}
			out[s.Name] = s
		}
	}
	return out
}

func labels() map[string]string {
	return map[string]string{managedByLabel: managedBy}
}

func selector() metav1.ListOptions {
	return metav1.ListOptions{LabelSelector: managedByLabel + "=" + managedBy}
}

// publish makes the Services and this node's EndpointSlices what p says. It
// writes what differs only.
func publish(ctx context.Context, client kubernetes.Interface, p publication) error {
	node, err := client.CoreV1().Nodes().Get(ctx, p.node, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("get node %s to publish the ingress: %w", p.node, err)
	}
	owner := metav1.OwnerReference{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}
	return errors.Join(publishSlices(ctx, client, p, owner), publishServices(ctx, client, p))
}

func publishServices(ctx context.Context, client kubernetes.Interface, p publication) error {
	api := client.CoreV1().Services(namespace)
	have, err := api.List(ctx, selector())
	if err != nil {
		return fmt.Errorf("list Services of the ingress: %w", err)
	}
	var errs []error
	want := p.services()
	for _, old := range have.Items {
		s, wanted := want[old.Name]
		delete(want, old.Name)
		switch {
		case !wanted:
			err = api.Delete(ctx, old.Name, metav1.DeleteOptions{})
		case samePorts(old.Spec.Ports, s.Spec.Ports):
			// What else a person has changed stays: annotations of his load
			// balancer, the traffic policy, his own addresses.
			continue
		default:
			next := old.DeepCopy()
			next.Spec.Ports = s.Spec.Ports
			_, err = api.Update(ctx, next, metav1.UpdateOptions{})
		}
		if err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("update Service %s/%s: %w", namespace, old.Name, err))
		}
	}
	for _, s := range want {
		if _, err := api.Create(ctx, s, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			errs = append(errs, fmt.Errorf("create Service %s/%s: %w", namespace, s.Name, err))
		}
	}
	return errors.Join(errs...)
}

func samePorts(have, want []corev1.ServicePort) bool {
	return slices.EqualFunc(have, want, func(a, b corev1.ServicePort) bool {
		return a.Name == b.Name && a.Port == b.Port && a.Protocol == b.Protocol && a.TargetPort == b.TargetPort
	})
}

func publishSlices(ctx context.Context, client kubernetes.Interface, p publication, owner metav1.OwnerReference) error {
	api := client.DiscoveryV1().EndpointSlices(namespace)
	have, err := api.List(ctx, selector())
	if err != nil {
		return fmt.Errorf("list EndpointSlices of the ingress: %w", err)
	}
	var errs []error
	want := p.slices(owner)
	for _, old := range have.Items {
		if !ofNode(&old, p.node) {
			continue
		}
		s, wanted := want[old.Name]
		delete(want, old.Name)
		switch {
		case !wanted:
			err = api.Delete(ctx, old.Name, metav1.DeleteOptions{})
		case sameSlice(&old, s):
			continue
		default:
			next := old.DeepCopy()
			next.Endpoints, next.Ports, next.OwnerReferences = s.Endpoints, s.Ports, s.OwnerReferences
			_, err = api.Update(ctx, next, metav1.UpdateOptions{})
		}
		if err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("update EndpointSlice %s/%s: %w", namespace, old.Name, err))
		}
	}
	for _, s := range want {
		if _, err := api.Create(ctx, s, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			errs = append(errs, fmt.Errorf("create EndpointSlice %s/%s: %w", namespace, s.Name, err))
		}
	}
	return errors.Join(errs...)
}

func ofNode(s *discoveryv1.EndpointSlice, node string) bool {
	return len(s.Endpoints) == 1 && s.Endpoints[0].NodeName != nil && *s.Endpoints[0].NodeName == node
}

func sameSlice(have, want *discoveryv1.EndpointSlice) bool {
	return equality.Semantic.DeepEqual(have.Endpoints, want.Endpoints) && equality.Semantic.DeepEqual(have.Ports, want.Ports) &&
		equality.Semantic.DeepEqual(have.OwnerReferences, want.OwnerReferences)
}

// withdraw removes this node's EndpointSlices, and the Services if no other node
// has any.
func withdraw(ctx context.Context, client kubernetes.Interface, node string) error {
	list, err := client.DiscoveryV1().EndpointSlices(namespace).List(ctx, selector())
	if err != nil {
		return fmt.Errorf("list EndpointSlices of the ingress: %w", err)
	}
	others := false
	var errs []error
	for _, s := range list.Items {
		if !ofNode(&s, node) {
			others = true
			continue
		}
		if err := client.DiscoveryV1().EndpointSlices(namespace).Delete(ctx, s.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, err)
		}
	}
	if others {
		return errors.Join(errs...)
	}
	services, err := client.CoreV1().Services(namespace).List(ctx, selector())
	if err != nil {
		return errors.Join(append(errs, fmt.Errorf("list Services of the ingress: %w", err))...)
	}
	for _, s := range services.Items {
		if err := client.CoreV1().Services(namespace).Delete(ctx, s.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
