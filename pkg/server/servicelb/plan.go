package servicelb

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Class is the loadBalancerClass that asks for skiff's load balancer; Services
// without a class get it as well.
const Class = "skiff.dev/servicelb"

const (
	// labelEnable on a node: if any node has it with the value true, only those
	// nodes serve; a node that has it with the value false never does.
	labelEnable = "svccontroller.skiff.dev/enablelb"
	// labelPool on a Service restricts it to the nodes with the same value.
	labelPool = "svccontroller.skiff.dev/lbpool"
)

// ours reports whether the Service is the load balancer's to serve.
func ours(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeLoadBalancer &&
		(s.Spec.LoadBalancerClass == nil || *s.Spec.LoadBalancerClass == Class)
}

// state is what a plan is made from.
type state struct {
	services []*corev1.Service
	nodes    []*corev1.Node
	// endpoints are the nodes that have ready endpoints of a Service; only
	// needed for those with externalTrafficPolicy Local.
	endpoints map[types.NamespacedName]map[string]bool
	// taken says why the port cannot be had on the address, or nil. It is asked
	// for Services that do not have the address yet.
	taken func(node string, protocol corev1.Protocol, addr netip.AddrPort) error
}

// place is what one Service gets.
type place struct {
	service *corev1.Service
	addrs   []netip.Addr
	// conflicts are the reasons why nodes that should serve cannot.
	conflicts []string
	// host says that a conflict is with a process of a node, whose end nobody
	// reports.
	host bool
}

// claim is a port of an address that a Service has got.
type claim struct {
	protocol corev1.Protocol
	addr     netip.AddrPort
}

// plan gives the Services their addresses. The older of two that want the same
// port gets it.
func plan(s state) []place {
	order := slices.Clone(s.services)
	slices.SortFunc(order, func(a, b *corev1.Service) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(key(a).String(), key(b).String()))
	})
	nodes := serving(s.nodes)
	claims := make(map[claim]types.NamespacedName)
	places := make([]place, 0, len(order))
	for _, service := range order {
		p := place{service: service}
		for _, n := range nodes {
			if !allowed(service, n, s.endpoints[key(service)]) {
				continue
			}
			for _, addr := range addresses(n, service.Spec.IPFamilies) {
				if err := p.claim(claims, s.taken, n.Name, addr); err != nil {
					p.conflicts = append(p.conflicts, err.Error())
					continue
				}
				p.addrs = append(p.addrs, addr)
			}
		}
		slices.SortFunc(p.addrs, netip.Addr.Compare)
		p.addrs = slices.Compact(p.addrs)
		slices.Sort(p.conflicts)
		p.conflicts = slices.Compact(p.conflicts)
		places = append(places, p)
	}
	return places
}

func key(s *corev1.Service) types.NamespacedName {
	return types.NamespacedName{Namespace: s.Namespace, Name: s.Name}
}

// claim takes all ports of the Service on the address, or none.
func (p *place) claim(claims map[claim]types.NamespacedName, taken func(string, corev1.Protocol, netip.AddrPort) error, node string, addr netip.Addr) error {
	has := slices.ContainsFunc(p.service.Status.LoadBalancer.Ingress, func(i corev1.LoadBalancerIngress) bool { return i.IP == addr.String() })
	own := make([]claim, 0, len(p.service.Spec.Ports))
	for _, port := range p.service.Spec.Ports {
		c := claim{port.Protocol, netip.AddrPortFrom(addr, uint16(port.Port))}
		if other, ok := claims[c]; ok {
			return fmt.Errorf("port %d/%s of %s is Service %s's", port.Port, port.Protocol, addr, other)
		}
		// A port that is served already is not looked at again: to the kernel it
		// is free.
		if !has {
			if err := taken(node, port.Protocol, c.addr); err != nil {
				p.host = true
				return fmt.Errorf("port %d/%s of node %s cannot be had: %w", port.Port, port.Protocol, node, err)
			}
		}
		own = append(own, c)
	}
	for _, c := range own {
		claims[c] = key(p.service)
	}
	return nil
}

// serving are the nodes that may have load balancers.
func serving(nodes []*corev1.Node) []*corev1.Node {
	chosen := slices.ContainsFunc(nodes, func(n *corev1.Node) bool { return n.Labels[labelEnable] == "true" })
	var out []*corev1.Node
	for _, n := range nodes {
		_, excluded := n.Labels[corev1.LabelNodeExcludeBalancers]
		enabled := n.Labels[labelEnable]
		if !excluded && ready(n) && enabled != "false" && (!chosen || enabled == "true") {
			out = append(out, n)
		}
	}
	return out
}

func ready(n *corev1.Node) bool {
	return n.DeletionTimestamp.IsZero() && slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// allowed reports whether the node may serve the Service.
func allowed(s *corev1.Service, n *corev1.Node, endpoints map[string]bool) bool {
	if pool := s.Labels[labelPool]; pool != "" && n.Labels[labelPool] != pool {
		return false
	}
	return s.Spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal || endpoints[n.Name]
}

// addresses are those by which the node is reached from outside.
func addresses(n *corev1.Node, families []corev1.IPFamily) []netip.Addr {
	var external, internal []netip.Addr
	for _, a := range n.Status.Addresses {
		ip, err := netip.ParseAddr(a.Address)
		if err != nil || len(families) > 0 && !slices.Contains(families, family(ip)) {
			continue
		}
		switch a.Type {
		case corev1.NodeExternalIP:
			external = append(external, ip)
		case corev1.NodeInternalIP:
			internal = append(internal, ip)
		}
	}
	if len(external) > 0 {
		return external
	}
	return internal
}

func family(ip netip.Addr) corev1.IPFamily {
	if ip.Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}
