package pki

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"slices"
)

// maxByAddress is for how many addresses of the host certificates are kept that
// are on no disk.
const maxByAddress = 32

// addressed is a certificate for one more address, made from another.
type addressed struct {
	from, cert *tls.Certificate
}

// ServingCertificate returns a function for tls.Config.GetCertificate. It
// gives the newest certificate at each handshake; connections that stand keep
// the one they began with. Somebody who has connected to an address of this
// host that the certificate does not name gets one that does: an address that
// came a moment ago, or that of another network card.
func (s *Store) ServingCertificate(name string) func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		s.mu.RLock()
		p := s.pairs[name]
		if p == nil || p.tls == nil {
			s.mu.RUnlock()
			return nil, fmt.Errorf("serve with %s: %w", name, ErrNoCertificate)
		}
		cert, local := p.tls, localAddress(hello)
		covered := !local.IsValid() || slices.ContainsFunc(cert.Leaf.IPAddresses, func(ip net.IP) bool { return ip.Equal(local.AsSlice()) })
		have := s.byAddress[local]
		s.mu.RUnlock()
		if covered {
			return cert, nil
		}
		if have.from == cert {
			return have.cert, nil
		}
		made, err := s.addressed(name, cert, local)
		if err != nil {
			return cert, nil //nolint:nilerr // Whoever does not mind the address is served as ever; the key of the authority may be kept elsewhere.
		}
		return made, nil
	}
}

// localAddress is where the client has connected to.
func localAddress(hello *tls.ClientHelloInfo) netip.Addr {
	if hello == nil || hello.Conn == nil {
		return netip.Addr{}
	}
	at, ok := hello.Conn.LocalAddr().(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	a := at.AddrPort().Addr().Unmap().WithZone("")
	if a.IsLoopback() || a.IsUnspecified() {
		return netip.Addr{}
	}
	return a
}

// addressed makes a certificate like from that is good for one more address.
func (s *Store) addressed(name string, from *tls.Certificate, local netip.Addr) (*tls.Certificate, error) {
	i := slices.IndexFunc(Tree, func(spec Spec) bool { return spec.Name == name })
	if i < 0 {
		return nil, fmt.Errorf("%s is not in the tree", name)
	}
	sans := SANsOf(from.Leaf)
	sans.IP = append(sans.IP, local)
	s.mu.Lock()
	defer s.mu.Unlock()
	p, issuer := s.pairs[name], s.pairs[Tree[i].Issuer]
	if issuer.leaf() == nil || issuer.key == nil {
		return nil, fmt.Errorf("sign with %s: %w", Tree[i].Issuer, ErrAuthorityKey)
	}
	chain, err := s.sign(Request{Use: Serving, CN: from.Leaf.Subject.CommonName, Org: from.Leaf.Subject.Organization, SANs: sans}, p.key.Public(), issuer)
	if err != nil {
		return nil, err
	}
	fresh := &pair{key: p.key}
	if err := fresh.setChain(chain); err != nil {
		return nil, err
	}
	if s.byAddress == nil || len(s.byAddress) >= maxByAddress {
		s.byAddress = map[netip.Addr]addressed{}
	}
	s.byAddress[local] = addressed{from: p.tls, cert: fresh.tls}
	return fresh.tls, nil
}
