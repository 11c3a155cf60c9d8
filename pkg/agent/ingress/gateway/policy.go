package gateway

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	v1 "sigs.k8s.io/gateway-api/apis/v1"

	"skiff/pkg/agent/ingress/edge"
)

// policy is a BackendTLSPolicy.
type policy struct {
	object             *v1.BackendTLSPolicy
	accepted, resolved verdict
	// looked is set once tls, and sum which tells it from others, are known.
	looked bool
	tls    edge.BackendTLS
	sum    string
	// ancestors are the Gateways with a route to one of the policy's Services.
	ancestors []*gateway
}

// policyTarget is a Service, or one of its ports by name.
type policyTarget struct{ namespace, service, port string }

// policies are the BackendTLSPolicies by what they are about, the one that
// counts first.
type policies struct {
	all []*policy
	by  map[policyTarget][]*policy
}

func indexPolicies(list []*v1.BackendTLSPolicy) policies {
	out := policies{by: make(map[policyTarget][]*policy)}
	for _, o := range list {
		p := &policy{object: o}
		out.all = append(out.all, p)
		for _, ref := range o.Spec.TargetRefs {
			if ref.Group != "" || ref.Kind != "Service" {
				continue
			}
			t := policyTarget{o.Namespace, string(ref.Name), string(or(ref.SectionName, ""))}
			if others := out.by[t]; len(others) > 0 {
				p.accepted.fail(string(v1.PolicyReasonConflicted), "BackendTLSPolicy %s is about Service %s too, and is older", others[0].object.Name, ref.Name)
			}
			out.by[t] = append(out.by[t], p)
		}
	}
	return out
}

// policy returns the one that counts for a port of a Service. If it is wanted
// but nil the one there is cannot be used.
func (b *builder) policy(service *corev1.Service, port corev1.ServicePort) (p *policy, wanted bool) {
	var found []*policy
	if port.Name != "" {
		found = b.w.policies.by[policyTarget{service.Namespace, service.Name, port.Name}]
	}
	found = append(slices.Clip(found), b.w.policies.by[policyTarget{service.Namespace, service.Name, ""}]...)
	if len(found) == 0 {
		return nil, false
	}
	for _, p := range found {
		b.w.lookAt(p)
		if !slices.Contains(b.built.policies, p) {
			b.built.policies = append(b.built.policies, p)
		}
	}
	// The first may be in conflict about another Service, yet it is the oldest
	// about this one.
	if first := found[0]; first.accepted.ok() || first.accepted.reason == string(v1.PolicyReasonConflicted) && first.resolved.ok() {
		return first, true
	}
	return nil, true
}

// lookAt finds the certificate authorities of a policy.
func (w *world) lookAt(p *policy) {
	if p.looked {
		return
	}
	p.looked = true
	validation := p.object.Spec.Validation
	p.tls.ServerName = string(validation.Hostname)
	sum := sha256.New()
	fmt.Fprintf(sum, "%s\n", validation.Hostname)
	for _, n := range validation.SubjectAltNames {
		name := string(n.Hostname)
		if n.Type == v1.URISubjectAltNameType {
			name = string(n.URI)
		}
		p.tls.SubjectAltNames = append(p.tls.SubjectAltNames, name)
		fmt.Fprintf(sum, "%s\n", name)
	}
	for _, ref := range validation.CACertificateRefs {
		if ref.Group != "" || ref.Kind != "ConfigMap" {
			p.resolved.fail(string(v1.BackendTLSPolicyReasonInvalidKind), "caCertificateRefs: %s is not supported, use a ConfigMap", ref.Kind)
			continue
		}
		if err := w.authorities(types.NamespacedName{Namespace: p.object.Namespace, Name: string(ref.Name)}, &p.tls.RootCAs, sum); err != nil {
			p.resolved.fail(string(v1.BackendTLSPolicyReasonInvalidCACertificateRef), "caCertificateRefs: %v", err)
		}
	}
	switch known := or(validation.WellKnownCACertificates, ""); {
	case p.tls.RootCAs != nil || known == v1.WellKnownCACertificatesSystem:
	case known != "":
		p.accepted.fail(string(v1.PolicyReasonInvalid), "wellKnownCACertificates %s is not supported, use %s", known, v1.WellKnownCACertificatesSystem)
	default:
		p.accepted.fail(string(v1.BackendTLSPolicyReasonNoValidCACertificate), "none of the caCertificateRefs can be used: %s", p.resolved.message)
	}
	p.sum = hex.EncodeToString(sum.Sum(nil)[:8])
}

// digest is short and tells contents apart.
func digest(content []byte) []byte {
	sum := sha256.Sum256(content)
	return sum[:8]
}
