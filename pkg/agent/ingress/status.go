package ingress

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"skiff/internal/netx"
	"skiff/pkg/agent/ingress/rules"
)

// addresses are where the load balancer serves, sorted.
func addresses(services []*corev1.Service) []string {
	found := make(map[string]bool)
	for _, s := range services {
		if s.Annotations[gatewayAnnotation] != "" {
			continue
		}
		for _, i := range s.Status.LoadBalancer.Ingress {
			if i.IP != "" {
				found[i.IP] = true
			}
			if i.Hostname != "" {
				found[i.Hostname] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// apart are the addresses of a Gateway that has its own.
func apart(services []*corev1.Service, gateway types.NamespacedName) []string {
	for _, s := range services {
		if s.Annotations[gatewayAnnotation] == gateway.String() {
			return s.Spec.ClusterIPs
		}
	}
	return nil
}

// refused says of each door why no load balancer serves it, where one has said
// so.
func refused(services []*corev1.Service) map[door]string {
	out := make(map[door]string)
	for _, s := range services {
		if len(s.Status.LoadBalancer.Ingress) > 0 {
			continue
		}
		for _, condition := range s.Status.Conditions {
			if condition.Type != corev1.LoadBalancerPortsError || condition.Status != metav1.ConditionTrue {
				continue
			}
			for _, p := range s.Spec.Ports {
				out[door{port: uint16(p.Port)}] = condition.Message
			}
		}
	}
	return out
}

// tell writes the status of Ingresses and says what is wrong with them in events,
// once.
func (c *controller) tell(ctx context.Context, r round, a *applied, addresses []string) error {
	status := networkingv1.IngressLoadBalancerStatus{}
	for _, address := range addresses {
		entry := networkingv1.IngressLoadBalancerIngress{IP: address}
		if _, err := netip.ParseAddr(address); err != nil {
			entry = networkingv1.IngressLoadBalancerIngress{Hostname: address}
		}
		status.Ingress = append(status.Ingress, entry)
	}
	told := make(map[string]string)
	var errs []error
	for _, i := range r.rules.Mine {
		key := types.NamespacedName{Namespace: i.Namespace, Name: i.Name}
		problems := slices.Clone(r.rules.Problems[key])
		if err := a.routes[key.String()]; err != nil {
			problems = append(problems, rules.Problem{Reason: "InvalidRoute", Message: err.Error()})
		}
		for _, l := range r.rules.Listeners {
			if err := a.listeners[l.Name]; err != nil {
				problems = append(problems, rules.Problem{Reason: "NotListening", Message: fmt.Sprintf("port %d is not served: %v", l.Port, err)})
			}
		}
		for _, p := range r.settings.problems {
			problems = append(problems, rules.Problem{Reason: "InvalidSettings", Message: p})
		}
		told["ingress/"+key.String()] = c.warn(i, "ingress/"+key.String(), problems)
		if equality.Semantic.DeepEqual(i.Status.LoadBalancer, status) {
			continue
		}
		next := i.DeepCopy()
		next.Status.LoadBalancer = status
		_, err := c.client.NetworkingV1().Ingresses(i.Namespace).UpdateStatus(ctx, next, metav1.UpdateOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("write status of Ingress %s: %w", key, err))
		}
	}
	c.told = told
	return errors.Join(errs...)
}

// warn records the problems that have not been recorded before. It returns what
// the owner has been told by now.
func (c *controller) warn(i *networkingv1.Ingress, key string, problems []rules.Problem) string {
	before := strings.Split(c.told[key], "\n")
	lines := make([]string, 0, len(problems))
	for _, p := range problems {
		lines = append(lines, p.Reason+" "+p.Message)
		if !slices.Contains(before, lines[len(lines)-1]) {
			c.events.Event(i, corev1.EventTypeWarning, p.Reason, p.Message)
			c.Logger.Warn("an Ingress has a problem", "ingress", key, "reason", p.Reason, "problem", p.Message)
		}
	}
	return strings.Join(lines, "\n")
}

// choosePort finds the port to listen on for a door: the same one each
// time if it can be had, below those that the kernel gives to outgoing
// connections, so that what was published before a restart stays true.
func (c *controller) choosePort(d door) (uint16, error) {
	const first, count = 20000, 12000
	start := d.port
	if d.gateway.Name != "" {
		h := fnv.New32a()
		_, _ = h.Write([]byte(d.gateway.String()))
		start += uint16(h.Sum32())
	}
	var err error
	for try := range uint16(50) {
		port := first + (start%count+try)%count
		if slices.Contains(slices.Collect(maps.Values(c.ports)), port) {
			continue
		}
		free := true
		for _, addr := range c.addrs {
			if err = netx.CheckPortFree(netip.AddrPortFrom(addr, port)); err != nil {
				free = false
			}
		}
		if free {
			return port, nil
		}
	}
	return 0, fmt.Errorf("find a port to serve port %d on: %w", d.port, err)
}
