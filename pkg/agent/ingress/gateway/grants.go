package gateway

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"hash"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	v1 "sigs.k8s.io/gateway-api/apis/v1"
)

// authorityKey is where ConfigMaps keep certificate authorities.
const authorityKey = "ca.crt"

// reference is who refers to something.
type reference struct {
	group     v1.Group
	kind      v1.Kind
	namespace string
}

// granted reports whether from may refer to an object of the core group: one of its own
// namespace, or one that a ReferenceGrant beside the object opens to it.
func (w *world) granted(from reference, kind v1.Kind, to types.NamespacedName) bool {
	if from.namespace == to.Namespace {
		return true
	}
	for _, g := range w.grants {
		if g.Namespace == to.Namespace && grants(g, from, kind, to.Name) {
			return true
		}
	}
	return false
}

func grants(g *v1.ReferenceGrant, from reference, kind v1.Kind, name string) bool {
	opens := false
	for _, t := range g.Spec.To {
		opens = opens || t.Group == "" && t.Kind == kind && (t.Name == nil || *t.Name == "" || string(*t.Name) == name)
	}
	if !opens {
		return false
	}
	for _, f := range g.Spec.From {
		if f.Group == from.group && f.Kind == from.kind && string(f.Namespace) == from.namespace {
			return true
		}
	}
	return false
}

// certificate looks a Secret up. What is wrong goes to the verdict, with the
// reason for what is not about permission.
func (w *world) certificate(from reference, ref v1.SecretObjectReference, v *verdict, reason string) *tls.Certificate {
	if or(ref.Group, "") != "" || or(ref.Kind, "Secret") != "Secret" {
		v.fail(reason, "certificate %s: kind %s is not supported, use a Secret", ref.Name, or(ref.Kind, "Secret"))
		return nil
	}
	name := types.NamespacedName{Namespace: string(or(ref.Namespace, v1.Namespace(from.namespace))), Name: string(ref.Name)}
	if !w.granted(from, "Secret", name) {
		v.fail(string(v1.ListenerReasonRefNotPermitted), "no ReferenceGrant in %s lets a %s of %s use Secret %s", name.Namespace, from.kind, from.namespace, name.Name)
		return nil
	}
	secret := w.in.Lookup.Secret(name.Namespace, name.Name)
	if secret == nil {
		v.fail(reason, "secret %s does not exist", name)
		return nil
	}
	c, err := w.in.Certificates.Of(secret)
	if err != nil {
		v.fail(reason, "%v", err)
		return nil
	}
	return c
}

// authorities adds the certificates of a ConfigMap to the pool, which it makes
// if need be, and to the hash if there is one.
func (w *world) authorities(name types.NamespacedName, pool **x509.CertPool, sum hash.Hash) error {
	m := w.in.Lookup.ConfigMap(name.Namespace, name.Name)
	if m == nil {
		return fmt.Errorf("configmap %s does not exist", name)
	}
	content := []byte(m.Data[authorityKey])
	if len(content) == 0 {
		content = m.BinaryData[authorityKey]
	}
	into := *pool
	if into == nil {
		into = x509.NewCertPool()
	}
	if !into.AppendCertsFromPEM(content) {
		return fmt.Errorf("configmap %s has no certificate in %s", name, authorityKey)
	}
	if sum != nil {
		_, _ = sum.Write(content) // a hash never fails
	}
	*pool = into
	return nil
}

// namespaces chooses namespaces.
type namespaces struct {
	from     *v1.FromNamespaces
	selector *metav1.LabelSelector
}

// allows reports whether n lets an object of namespace in, where own is the
// namespace of who says n. Nothing said means own.
func (w *world) allows(n namespaces, own, namespace string) bool {
	switch or(n.from, v1.NamespacesFromSame) {
	case v1.NamespacesFromAll:
		return true
	case v1.NamespacesFromSame:
		return own == namespace
	case v1.NamespacesFromSelector:
		selector, err := metav1.LabelSelectorAsSelector(n.selector)
		if err != nil {
			return false
		}
		ns := w.in.Lookup.Namespace(namespace)
		return ns != nil && selector.Matches(labels.Set(ns.Labels))
	default:
		return false
	}
}
