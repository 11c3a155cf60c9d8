package catalog

import (
	"crypto/tls"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"skiff/pkg/agent/ingress/edge"
)

// Certificates parses the certificates of Secrets and keeps them for as long as
// a Secret does not change. It is not for use by several goroutines.
type Certificates struct {
	parsed map[types.UID]parsed
}

type parsed struct {
	version     string
	certificate *tls.Certificate
	err         error
}

// Of returns the certificate and key of a Secret of type kubernetes.io/tls, or
// one that has the same keys. The error says what is wrong with it.
func (c *Certificates) Of(s *corev1.Secret) (*tls.Certificate, error) {
	if p, ok := c.parsed[s.UID]; ok && p.version == s.ResourceVersion {
		return p.certificate, p.err
	}
	p := parsed{version: s.ResourceVersion}
	p.certificate, p.err = parse(s)
	if c.parsed == nil {
		c.parsed = make(map[types.UID]parsed)
	}
	c.parsed[s.UID] = p
	return p.certificate, p.err
}

// Keep forgets all but the given Secrets.
func (c *Certificates) Keep(secrets map[types.UID]bool) {
	for uid := range c.parsed {
		if !secrets[uid] {
			delete(c.parsed, uid)
		}
	}
}

func parse(s *corev1.Secret) (*tls.Certificate, error) {
	chain, key := s.Data[corev1.TLSCertKey], s.Data[corev1.TLSPrivateKeyKey]
	if len(chain) == 0 || len(key) == 0 {
		return nil, fmt.Errorf("secret %s/%s has no %s and %s", s.Namespace, s.Name, corev1.TLSCertKey, corev1.TLSPrivateKeyKey)
	}
	certificate, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return nil, fmt.Errorf("secret %s/%s: %w", s.Namespace, s.Name, err)
	}
	return &certificate, nil
}

func sorted(addrs map[netip.AddrPort]bool) []edge.Endpoint {
	out := make([]edge.Endpoint, 0, len(addrs))
	for a := range addrs {
		out = append(out, edge.Endpoint{Addr: a})
	}
	slices.SortFunc(out, func(a, b edge.Endpoint) int { return a.Addr.Compare(b.Addr) })
	return out
}
