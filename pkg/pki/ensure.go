package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"slices"
	"time"
)

// Change is one thing that Ensure did.
type Change struct {
	Name     string
	Action   string // "issued" (there was none), "renewed" or "written" (a kubeconfig)
	Reason   string
	NotAfter time.Time // zero for what does not expire
}

// Report says what Ensure did, and what it could not do anything about.
type Report struct {
	Changes  []Change
	Warnings []string
}

// Changed reports whether the named certificate is another than before.
func (r Report) Changed(name string) bool {
	return slices.ContainsFunc(r.Changes, func(c Change) bool { return c.Name == name })
}

// Log writes one line for each change and each warning.
func (r Report) Log(l *slog.Logger) {
	for _, c := range r.Changes {
		attrs := []any{"name", c.Name, "action", c.Action, "reason", c.Reason}
		if !c.NotAfter.IsZero() {
			attrs = append(attrs, "until", c.NotAfter.Format(time.DateOnly))
		}
		l.Info("certificate changed", attrs...)
	}
	for _, w := range r.Warnings {
		l.Warn("certificate needs attention", "why", w)
	}
}

// ErrAuthorityKey is returned when something has to be signed and the key of
// its authority is missing or damaged.
var ErrAuthorityKey = errors.New("key of the authority is missing or damaged")

// pending is a file to be written.
type pending struct {
	path string
	data []byte
	mode os.FileMode
}

// round is one run of Ensure.
type round struct {
	*Store
	facts  Facts
	now    time.Time
	pairs  map[string]*pair
	keys   []pending
	certs  []pending
	report Report
}

// Ensure makes the directory hold what tree says: it issues what is missing,
// damaged, wrong or about to expire and leaves everything else alone, so that
// a second call changes nothing. An authority that is there is never replaced
// by another, be it ours or one that an administrator put there; ours gets a
// new certificate for its key before it ends. All problems are returned
// together; what could be done has been done all the same.
func (s *Store) Ensure(tree []Spec, f Facts) (Report, error) {
	s.ensure.Lock()
	defer s.ensure.Unlock()
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return Report{}, fmt.Errorf("make certificate directory: %w", err)
	}
	r := &round{Store: s, facts: f, now: s.clock(), pairs: map[string]*pair{}}
	var errs []error
	for _, spec := range tree {
		if err := r.one(spec); err != nil {
			errs = append(errs, fmt.Errorf("ensure %s: %w", spec.Name, err))
		}
	}
	if err := errors.Join(writeAll(r.keys), writeAll(r.certs)); err != nil {
		return Report{}, errors.Join(append(errs, err)...)
	}
	s.mu.Lock()
	maps.Copy(s.pairs, r.pairs)
	s.mu.Unlock()
	return r.report, errors.Join(errs...)
}

func (r *round) one(spec Spec) error {
	p, damage, err := r.load(spec)
	if err != nil {
		return err
	}
	r.pairs[spec.Name] = p
	switch spec.Use {
	case SigningKey:
		return r.ensureKey(spec, p, damage)
	case Authority:
		return r.ensureAuthority(spec, p, damage)
	}
	return r.ensureLeaf(spec, p, damage)
}

func (r *round) ensureKey(spec Spec, p *pair, damage string) error {
	if p.key != nil {
		return nil
	}
	if err := r.newKey(spec, p); err != nil {
		return err
	}
	r.changed(spec, "issued", damage, time.Time{})
	return nil
}

func (r *round) ensureAuthority(spec Spec, p *pair, damage string) error {
	if p.leaf() != nil {
		if !p.leaf().IsCA {
			return fmt.Errorf("%s is not the certificate of an authority (CA:TRUE is missing)", r.CertFile(spec.Name))
		}
		if p.key != nil && ours(spec, p) && r.authorityDue(r.now, p.leaf()) {
			return r.issue(spec, p, nil, "renewed", "about to expire; the key stays, and with it all that it has signed")
		}
		if left := p.leaf().NotAfter.Sub(r.now); left < 365*24*time.Hour {
			r.report.Warnings = append(r.report.Warnings, fmt.Sprintf("authority %s expires on %s", spec.Name, p.leaf().NotAfter.Format(time.DateOnly)))
		}
		return nil // A missing key matters only once something has to be signed.
	}
	if p.key == nil {
		if err := r.newKey(spec, p); err != nil {
			return err
		}
	}
	return r.issue(spec, p, nil, "issued", damage)
}

// ours reports whether skiff has made the authority: one of an administrator is
// his to renew.
func ours(spec Spec, p *pair) bool {
	c := p.leaf()
	_, ecdsa := p.key.(*ecdsa.PrivateKey)
	return ecdsa && len(p.chain) == 1 && c.Subject.String() == "CN="+spec.CN && selfSigned(c)
}

func (r *round) ensureLeaf(spec Spec, p *pair, damage string) error {
	issuer := r.pairs[spec.Issuer]
	if issuer.leaf() == nil {
		return fmt.Errorf("its issuer %q is not there", spec.Issuer)
	}
	action, reason := "renewed", r.Check(spec, r.facts, p.leaf(), issuer.chain)
	if damage != "" || p.key == nil {
		reason = damage
	}
	if p.leaf() == nil {
		action = "issued"
	}
	if reason == "" {
		return nil
	}
	if issuer.key == nil {
		return fmt.Errorf("%w: %s is needed to sign %s (%s); put it back from a backup, or remove %s to start over with a new authority",
			ErrAuthorityKey, r.KeyFile(spec.Issuer), spec.Name, reason, r.CertFile(spec.Issuer))
	}
	if p.key == nil {
		if err := r.newKey(spec, p); err != nil {
			return err
		}
	}
	return r.issue(spec, p, issuer, action, reason)
}

// Check tells why a certificate is not what spec, facts and the issuer's chain
// ask for at this moment, or "" if it is.
func (s *Store) Check(spec Spec, f Facts, c *x509.Certificate, issuer []*x509.Certificate) string {
	if why := s.Misfit(spec, f, c, issuer); why != "" {
		return why
	}
	return s.stale(s.clock(), c, issuer[0])
}

// Misfit is Check without regard to the dates.
func (s *Store) Misfit(spec Spec, f Facts, c *x509.Certificate, issuer []*x509.Certificate) string {
	if c == nil {
		return "missing"
	}
	if len(issuer) == 0 || c.CheckSignatureFrom(issuer[0]) != nil {
		return "issuer changed"
	}
	if c.Subject.CommonName != spec.Subject(f) || !slices.Equal(c.Subject.Organization, spec.Org) {
		return "subject changed"
	}
	if !slices.Contains(c.ExtKeyUsage, extKeyUsage(spec.Use)) {
		return "use changed"
	}
	if want, have := spec.sans(f).normal(), SANsOf(c); !want.equal(have) {
		return "names changed: " + difference(have, want)
	}
	return ""
}

// issue signs a certificate for p.key and notes it for writing. A nil issuer
// means that p signs itself.
func (r *round) issue(spec Spec, p, issuer *pair, action, reason string) error {
	chain, err := r.sign(Request{
		Use: spec.Use, CN: spec.Subject(r.facts), Org: spec.Org, SANs: spec.sans(r.facts),
	}, p.key.Public(), cmpIssuer(issuer, p))
	if err != nil {
		return err
	}
	if err := p.setChain(chain); err != nil {
		return err
	}
	r.certs = append(r.certs, pending{r.CertFile(spec.Name), chain, 0o644})
	r.changed(spec, action, reason, p.leaf().NotAfter)
	return nil
}

func cmpIssuer(issuer, self *pair) *pair {
	if issuer != nil {
		return issuer
	}
	return self
}

func (r *round) newKey(spec Spec, p *pair) error {
	key, data, err := NewKey()
	if err != nil {
		return err
	}
	p.key = key
	r.keys = append(r.keys, pending{r.KeyFile(spec.Name), data, 0o600})
	return nil
}

func (r *round) changed(spec Spec, action, reason string, until time.Time) {
	r.report.Changes = append(r.report.Changes, Change{Name: spec.Name, Action: action, Reason: reason, NotAfter: until})
}

// load reads what there is. What cannot be used is left out of the pair and
// told in damage; a file that is neither empty nor usable is kept aside, since
// it may be something that a person put there.
func (r *round) load(spec Spec) (p *pair, damage string, err error) {
	p = &pair{}
	data, why, err := readFile(r.KeyFile(spec.Name))
	if err != nil {
		return nil, "", err
	}
	if why == "" {
		if p.key, err = ParseKey(data); err != nil {
			why = "key is damaged"
			if err := r.keepAside(spec, r.KeyFile(spec.Name), err); err != nil {
				return nil, "", err
			}
		}
	}
	damage = prefixed("key is ", why)
	if spec.Use == SigningKey {
		return p, damage, nil
	}
	if data, why, err = readFile(r.CertFile(spec.Name)); err != nil {
		return nil, "", err
	}
	if why == "" {
		if err := p.setChain(data); err != nil {
			why = "damaged"
			if err := r.keepAside(spec, r.CertFile(spec.Name), err); err != nil {
				return nil, "", err
			}
		}
	}
	if why != "" {
		return p, why, nil
	}
	if p.key != nil && !sameKey(p.leaf().PublicKey, p.key.Public()) {
		if spec.Use == Authority {
			return nil, "", fmt.Errorf("%s and %s do not belong together; put the right key back, or remove both to start over with a new authority",
				r.CertFile(spec.Name), r.KeyFile(spec.Name))
		}
		damage = "certificate is of another key"
	}
	p.setTLS()
	return p, damage, nil
}

// keepAside renames a damaged file. For an authority it is an error instead:
// making another one in its place would cut off everyone who trusts it.
func (r *round) keepAside(spec Spec, path string, cause error) error {
	if spec.Use == Authority {
		return fmt.Errorf("read %s: %w; put it back from a backup, or remove %s and %s to start over with a new authority",
			path, cause, r.CertFile(spec.Name), r.KeyFile(spec.Name))
	}
	if err := os.Rename(path, path+".damaged"); err != nil {
		return fmt.Errorf("keep damaged file aside: %w", err)
	}
	return nil
}

// readFile tells in why that there is nothing in the file: after a power cut
// some file systems leave it empty or full of zeros.
func readFile(path string) (data []byte, why string, err error) {
	data, err = os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "missing", nil
	}
	if err != nil {
		return nil, "", fmt.Errorf("read certificate file: %w", err)
	}
	if len(bytes.Trim(data, "\x00 \r\n\t")) == 0 {
		return nil, "empty", nil
	}
	return data, "", nil
}

func prefixed(prefix, s string) string {
	if s == "missing" || s == "empty" {
		return prefix + s
	}
	return s
}
