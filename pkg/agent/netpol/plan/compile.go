package plan

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	netutils "k8s.io/utils/net"
)

// direction is that of a connection, as the pod sees it.
type direction int

const (
	ingress direction = iota
	egress
	directions
)

func (d direction) String() string { return [...]string{"ingress", "egress"}[d] }

// peerField is the field of a packet that holds the address of the other side.
func (d direction) peerField() string { return [...]string{"saddr", "daddr"}[d] }

// policy is a NetworkPolicy that has been read.
type policy struct {
	key     Key
	pods    labels.Selector
	applies [directions]bool
	rules   [directions][]rule

	users map[netip.Addr]struct{} // addresses on this node that it selects
}

// rule allows some ports to some peers.
type rule struct {
	anyone bool
	peers  []peerSelector
	blocks []block
	ports  []portMatch // none: all
}

// peerSelector selects pods as peers.
type peerSelector struct {
	namespace  string // or, if empty,
	namespaces labels.Selector
	pods       labels.Selector
}

func (s peerSelector) String() string {
	in := "namespace " + s.namespace
	if s.namespace == "" {
		in = "namespaces {" + s.namespaces.String() + "}"
	}
	return "pods {" + s.pods.String() + "} in " + in
}

func (s peerSelector) matches(pod *Pod, namespaces map[string]labels.Set) bool {
	if s.namespace != "" {
		return s.namespace == pod.Namespace && s.pods.Matches(pod.Labels)
	}
	return s.pods.Matches(pod.Labels) && s.namespaces.Matches(namespaces[pod.Namespace])
}

// block is an ipBlock.
type block struct {
	cidr   netip.Prefix
	except []netip.Prefix // disjoint
}

// compile reads a policy. What cannot be read is left out, which allows less.
func compile(np *networkingv1.NetworkPolicy) (*policy, error) {
	p := &policy{key: Key{np.Namespace, np.Name}, users: map[netip.Addr]struct{}{}}
	var errs []error
	var err error
	if p.pods, err = metav1.LabelSelectorAsSelector(&np.Spec.PodSelector); err != nil {
		// Better too many isolated pods than too few.
		p.pods = labels.Everything()
		errs = append(errs, fmt.Errorf("podSelector: %w", err))
	}
	types := np.Spec.PolicyTypes
	p.applies[ingress] = len(types) == 0 || slices.Contains(types, networkingv1.PolicyTypeIngress)
	p.applies[egress] = len(types) == 0 && len(np.Spec.Egress) > 0 || slices.Contains(types, networkingv1.PolicyTypeEgress)
	for i, r := range np.Spec.Ingress {
		compiled, err := compileRule(np.Namespace, np.Namespace, r.From, r.Ports)
		p.rules[ingress] = append(p.rules[ingress], compiled)
		if err != nil {
			errs = append(errs, fmt.Errorf("ingress[%d]: %w", i, err))
		}
	}
	for i, r := range np.Spec.Egress {
		compiled, err := compileRule(np.Namespace, "", r.To, r.Ports)
		p.rules[egress] = append(p.rules[egress], compiled)
		if err != nil {
			errs = append(errs, fmt.Errorf("egress[%d]: %w", i, err))
		}
	}
	return p, errors.Join(errs...)
}

// compileRule reads one rule. scope is the namespace in whose pods the names of
// ports are looked up, empty for all.
func compileRule(namespace, scope string, peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) (rule, error) {
	r := rule{anyone: len(peers) == 0}
	var errs []error
	for _, peer := range peers {
		if err := r.addPeer(namespace, peer); err != nil {
			errs = append(errs, err)
		}
	}
	for _, port := range ports {
		m, err := compilePort(scope, port)
		if err != nil {
			errs = append(errs, err)
		}
		r.ports = append(r.ports, m)
		if scope == "" && m.isDNS() {
			r.ports = append(r.ports, portMatch{protocol: m.protocol, name: PortDNS})
		}
	}
	return r, errors.Join(errs...)
}

// PortDNS is the name of the port at which something listens that by a Service
// is reached at port 53: a policy sees packets as they are after the Service,
// and is written for DNS servers that have port 53. A container's port cannot
// have a name without a letter.
const PortDNS = "53"

func (m portMatch) isDNS() bool {
	return !m.never && !m.all && m.name == "" && m.first <= 53 && m.last >= 53 && m.protocol != "sctp"
}

func (r *rule) addPeer(namespace string, peer networkingv1.NetworkPolicyPeer) error {
	if peer.IPBlock != nil {
		b, err := compileBlock(peer.IPBlock)
		if err != nil {
			return err
		}
		r.blocks = append(r.blocks, b)
		return nil
	}
	s := peerSelector{namespace: namespace, pods: labels.Everything()}
	var err error
	if peer.PodSelector != nil {
		if s.pods, err = metav1.LabelSelectorAsSelector(peer.PodSelector); err != nil {
			return fmt.Errorf("podSelector: %w", err)
		}
	}
	if peer.NamespaceSelector != nil {
		s.namespace = ""
		if s.namespaces, err = metav1.LabelSelectorAsSelector(peer.NamespaceSelector); err != nil {
			return fmt.Errorf("namespaceSelector: %w", err)
		}
	}
	r.peers = append(r.peers, s)
	return nil
}

func compileBlock(b *networkingv1.IPBlock) (block, error) {
	cidr, err := parseCIDR(b.CIDR)
	if err != nil {
		return block{}, err
	}
	out := block{cidr: cidr}
	var except []netip.Prefix
	for _, text := range b.Except {
		e, err := parseCIDR(text)
		if err != nil {
			return block{}, err
		}
		except = append(except, e)
	}
	// Widest first: of ranges that contain each other the outer one is enough.
	slices.SortFunc(except, func(a, b netip.Prefix) int {
		if n := a.Bits() - b.Bits(); n != 0 {
			return n
		}
		return a.Addr().Compare(b.Addr())
	})
	for _, e := range except {
		if !slices.ContainsFunc(out.except, func(o netip.Prefix) bool { return o.Overlaps(e) }) {
			out.except = append(out.except, e)
		}
	}
	return out, nil
}

// parseCIDR accepts what the API accepts, which lets old objects have leading
// zeros.
func parseCIDR(text string) (netip.Prefix, error) {
	_, n, err := netutils.ParseCIDRSloppy(strings.TrimSpace(text))
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("ipBlock: %w", err)
	}
	ip, _ := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(ip.Unmap(), ones).Masked(), nil
}

// portMatch is one entry of a rule's ports.
type portMatch struct {
	protocol    string // tcp, udp or sctp
	all         bool
	first, last int32
	name        string // or, if not empty, a port by name in
	scope       string // pods of this namespace, empty for all
	never       bool   // it could not be read
}

func compilePort(scope string, p networkingv1.NetworkPolicyPort) (portMatch, error) {
	m := portMatch{protocol: "tcp"}
	if p.Protocol != nil {
		switch *p.Protocol {
		case corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP:
			m.protocol = strings.ToLower(string(*p.Protocol))
		default:
			return portMatch{never: true}, fmt.Errorf("unknown protocol %q", *p.Protocol)
		}
	}
	switch {
	case p.Port == nil:
		m.all = true
	case p.Port.Type == intstr.String:
		m.name, m.scope = p.Port.StrVal, scope
	default:
		m.first, m.last = p.Port.IntVal, p.Port.IntVal
		if p.EndPort != nil {
			m.last = *p.EndPort
		}
		if m.first < 0 || m.last > 65535 || m.last < m.first {
			return portMatch{never: true}, fmt.Errorf("port range %d-%d is not one", m.first, m.last)
		}
	}
	return m, nil
}
