package pki

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// Lifetimes of what a Store issues.
const (
	AuthorityLifetime   = 10 * 365 * 24 * time.Hour
	authorityRenewal    = 2 * 365 * 24 * time.Hour
	DefaultLeafLifetime = 365 * 24 * time.Hour
)

// Backdate is how long before its issue a certificate is valid already, for
// machines whose clocks differ a little.
const Backdate = time.Hour

// BuildFloor is a moment that has certainly passed: a clock that shows less is
// wrong. It is raised by hand with the Kubernetes version.
func BuildFloor() time.Time { return time.Date(2026, time.July, 1, 0, 0, 0, 0, time.UTC) }

// Store is a directory of certificates and keys. Set its exported fields
// before the first call; after that it is safe for concurrent use.
type Store struct {
	Dir string
	// Lifetime of leaf certificates; default DefaultLeafLifetime.
	Lifetime time.Duration
	// Floor is a moment that has certainly passed; default BuildFloor. Known
	// returns a later one that is learnt while skiff runs, and Settled whether
	// the clock can be trusted with what is not urgent; both may be nil.
	Floor   time.Time
	Known   func() time.Time
	Settled func() bool

	clock  func() time.Time
	logger *slog.Logger

	mu sync.RWMutex
	// Guarded by mu: what Ensure found or made, by Spec.Name.
	pairs map[string]*pair
	// Guarded by mu: see serving.go.
	byAddress map[netip.Addr]addressed
	// ensure is held for the whole of Ensure, so that two never write at once.
	ensure sync.Mutex
}

// pair is a certificate (with what follows it in the file) and its key; either
// may be missing.
type pair struct {
	chain   []*x509.Certificate
	chainPM []byte // the chain as it is in the file
	key     privateKey
	tls     *tls.Certificate
}

func (p *pair) leaf() *x509.Certificate {
	if p == nil || len(p.chain) == 0 {
		return nil
	}
	return p.chain[0]
}

// NewStore returns the store kept in dir, which Ensure makes if needed.
func NewStore(dir string, clock func() time.Time, logger *slog.Logger) *Store {
	if clock == nil {
		clock = time.Now
	}
	return &Store{
		Dir: dir, Lifetime: DefaultLeafLifetime, Floor: BuildFloor(),
		clock: clock, logger: logger, pairs: map[string]*pair{},
	}
}

// CertFile returns the path of a certificate.
func (s *Store) CertFile(name string) string { return filepath.Join(s.Dir, name+".crt") }

// KeyFile returns the path of a private key.
func (s *Store) KeyFile(name string) string { return filepath.Join(s.Dir, name+".key") }

// Now returns the time by the store's clock.
func (s *Store) Now() time.Time { return s.clock() }

// CertPEM returns the named certificate with what follows it in its file, as
// Ensure left it, or nil.
func (s *Store) CertPEM(name string) []byte {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if p := s.pairs[name]; p != nil {
		return p.chainPM
	}
	return nil
}

// ErrNoCertificate is returned during a handshake that comes before Ensure.
var ErrNoCertificate = errors.New("no certificate has been issued yet")

// Identity is who a verified client certificate speaks for.
type Identity struct {
	CN  string
	Org []string
}

// Has reports whether the certificate names the organisation.
func (i Identity) Has(org string) bool { return slices.Contains(i.Org, org) }

// ErrNoPeer is returned by VerifyPeer for a connection without certificate.
var ErrNoPeer = errors.New("no client certificate")

// VerifyPeer checks the client certificate of a connection against the named
// authority. The connection may be nil.
func (s *Store) VerifyPeer(state *tls.ConnectionState, authority string) (Identity, error) {
	return s.verifyPeer(state, authority, func(*x509.Certificate) time.Time { return s.clock() })
}

// VerifyPeerUndated is VerifyPeer without regard to the dates: it says that the
// peer has a key that the authority once certified, and no more.
func (s *Store) VerifyPeerUndated(state *tls.ConnectionState, authority string) (Identity, error) {
	return s.verifyPeer(state, authority, func(c *x509.Certificate) time.Time { return c.NotAfter })
}

func (s *Store) verifyPeer(state *tls.ConnectionState, authority string, at func(*x509.Certificate) time.Time) (Identity, error) {
	if state == nil || len(state.PeerCertificates) == 0 {
		return Identity{}, ErrNoPeer
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	s.mu.RLock()
	if p := s.pairs[authority]; p != nil {
		for _, c := range p.chain {
			roots.AddCert(c)
		}
	}
	s.mu.RUnlock()
	for _, c := range state.PeerCertificates[1:] {
		between.AddCert(c)
	}
	peer := state.PeerCertificates[0]
	_, err := peer.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: at(peer),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return Identity{}, fmt.Errorf("verify client certificate %q: %w", peer.Subject.CommonName, err)
	}
	return Identity{CN: peer.Subject.CommonName, Org: peer.Subject.Organization}, nil
}

// Request asks Sign for a certificate.
type Request struct {
	Issuer    string
	PublicKey *ecdsa.PublicKey
	Use       Use
	CN        string
	Org       []string
	SANs      SANs
}

// Sign issues a certificate for a key that is not in the store. It returns
// PEM: the certificate and the intermediate authorities a verifier needs.
func (s *Store) Sign(r Request) ([]byte, error) {
	s.mu.RLock()
	issuer := s.pairs[r.Issuer]
	s.mu.RUnlock()
	if issuer.leaf() == nil || issuer.key == nil {
		return nil, fmt.Errorf("sign certificate of %q: the key of %s is not here (%s)", r.CN, r.Issuer, s.KeyFile(r.Issuer))
	}
	return s.sign(r, r.PublicKey, issuer)
}
