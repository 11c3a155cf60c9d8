package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"skiff/internal/atomicfile"
)

// privateKey is any key that can sign: ours are ECDSA P-256, those of an
// administrator's own authority may be others.
type privateKey = crypto.Signer

// PEM block types.
const (
	certBlock = "CERTIFICATE"
	ecBlock   = "EC PRIVATE KEY"
	rsaBlock  = "RSA PRIVATE KEY"
	pkcsBlock = "PRIVATE KEY"
	csrBlock  = "CERTIFICATE REQUEST"
)

// NewKey makes an ECDSA P-256 key and its PEM form.
func NewKey() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make key: %w", err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("encode key: %w", err)
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: ecBlock, Bytes: der}), nil
}

// ParseKey reads the first private key of a PEM file.
func ParseKey(data []byte) (crypto.Signer, error) {
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		var key any
		var err error
		switch block.Type {
		case ecBlock:
			key, err = x509.ParseECPrivateKey(block.Bytes)
		case rsaBlock:
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		case pkcsBlock:
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		default:
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("parse %s: %w", block.Type, err)
		}
		if signer, ok := key.(crypto.Signer); ok {
			return signer, nil
		}
		return nil, fmt.Errorf("parse %s: a %T cannot sign", block.Type, key)
	}
	return nil, errors.New("no private key in PEM form")
}

// ParseCerts reads all certificates of a PEM file, at least one.
func ParseCerts(data []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != certBlock {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("parse certificate: %w", err)
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		return nil, errors.New("no certificate in PEM form")
	}
	return certs, nil
}

// NewCSR makes the PEM certificate request of a Spec.
func NewCSR(spec Spec, f Facts, key crypto.Signer) ([]byte, error) {
	sans := spec.sans(f).normal()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject:     pkix.Name{CommonName: spec.Subject(f), Organization: spec.Org},
		DNSNames:    sans.DNS,
		IPAddresses: ips(sans.IP),
	}, key)
	if err != nil {
		return nil, fmt.Errorf("make certificate request: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: csrBlock, Bytes: der}), nil
}

// ParseCSR reads a PEM certificate request and checks that it is signed by its
// own key, which must be ECDSA.
func ParseCSR(data []byte) (*x509.CertificateRequest, *ecdsa.PublicKey, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != csrBlock {
		return nil, nil, errors.New("no certificate request in PEM form")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("parse certificate request: %w", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, nil, fmt.Errorf("verify certificate request: %w", err)
	}
	key, ok := csr.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, nil, errors.New("certificate request: the key must be ECDSA P-256")
	}
	return csr, key, nil
}

// sign issues a certificate. An issuer without certificate signs itself.
func (s *Store) sign(r Request, pub crypto.PublicKey, issuer *pair) ([]byte, error) {
	parent := issuer.leaf()
	sans := r.SANs.normal()
	t := &x509.Certificate{
		Subject:               pkix.Name{CommonName: r.CN, Organization: r.Org},
		DNSNames:              sans.DNS,
		IPAddresses:           ips(sans.IP),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
	}
	if r.Use == Authority {
		t.IsCA = true
		t.KeyUsage |= x509.KeyUsageCertSign | x509.KeyUsageCRLSign
		parent = nil
	} else {
		t.ExtKeyUsage = []x509.ExtKeyUsage{extKeyUsage(r.Use)}
	}
	t.NotBefore, t.NotAfter = s.validity(s.clock(), parent)
	if parent == nil {
		parent = t
	}
	der, err := x509.CreateCertificate(rand.Reader, t, parent, pub, issuer.key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate of %q: %w", r.CN, err)
	}
	out := pem.EncodeToMemory(&pem.Block{Type: certBlock, Bytes: der})
	if r.Use == Authority {
		return out, nil
	}
	for _, c := range issuer.chain { // Verifiers know the root; what lies between has to be sent.
		if !selfSigned(c) {
			out = append(out, pem.EncodeToMemory(&pem.Block{Type: certBlock, Bytes: c.Raw})...)
		}
	}
	return out, nil
}

func selfSigned(c *x509.Certificate) bool {
	return bytes.Equal(c.RawSubject, c.RawIssuer) && c.CheckSignatureFrom(c) == nil
}

func extKeyUsage(u Use) x509.ExtKeyUsage {
	if u == Serving {
		return x509.ExtKeyUsageServerAuth
	}
	return x509.ExtKeyUsageClientAuth
}

func sameKey(a, b crypto.PublicKey) bool {
	e, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && e.Equal(b)
}

// SANsOf returns the names and addresses of a certificate.
func SANsOf(c *x509.Certificate) SANs { return sansOf(c.DNSNames, c.IPAddresses) }

// SANsOfRequest returns the names and addresses a request asks for.
func SANsOfRequest(c *x509.CertificateRequest) SANs { return sansOf(c.DNSNames, c.IPAddresses) }

func sansOf(names []string, addrs []net.IP) SANs {
	s := SANs{DNS: names}
	for _, ip := range addrs {
		if a, ok := netip.AddrFromSlice(ip); ok {
			s.IP = append(s.IP, a)
		}
	}
	return s.normal()
}

func ips(addrs []netip.Addr) []net.IP {
	var out []net.IP
	for _, a := range addrs {
		out = append(out, a.AsSlice())
	}
	return out
}

// difference tells how want differs from have: "+10.0.0.9 -10.0.0.8".
func difference(have, want SANs) string {
	h, w := strings.Fields(have.String()), strings.Fields(want.String())
	var d []string
	for _, x := range w {
		if !slices.Contains(h, x) {
			d = append(d, "+"+x)
		}
	}
	for _, x := range h {
		if !slices.Contains(w, x) {
			d = append(d, "-"+x)
		}
	}
	return strings.Join(d, " ")
}

func (p *pair) setChain(data []byte) error {
	chain, err := ParseCerts(data)
	if err != nil {
		return err
	}
	p.chain, p.chainPM = chain, data
	p.setTLS()
	return nil
}

func (p *pair) setTLS() {
	if p.key == nil || p.leaf() == nil {
		return
	}
	c := &tls.Certificate{PrivateKey: p.key, Leaf: p.leaf()}
	for _, x := range p.chain {
		c.Certificate = append(c.Certificate, x.Raw)
	}
	p.tls = c
}

// writeAll writes files side by side: each waits for the disk twice, and a
// journal commits them together.
func writeAll(files []pending) error {
	errs := make([]error, len(files))
	var wg sync.WaitGroup
	for i, f := range files {
		wg.Go(func() { errs[i] = atomicfile.Write(f.path, f.data, f.mode) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Request returns what to sign for a key, as the table has it.
func (s Spec) Request(f Facts, key *ecdsa.PublicKey) Request {
	return Request{Issuer: s.Issuer, PublicKey: key, Use: s.Use, CN: s.Subject(f), Org: s.Org, SANs: s.sans(f).normal()}
}
