package pki

import (
	"crypto/x509"
	"time"
)

// validity returns the dates of a certificate issued at now.
//
// Everything begins before 1970. A beginning protects nothing, and whoever
// checks the certificate may have a clock that is behind: by an hour, by the
// months it lay switched off, or by all the years since 1970, where machines
// without a battery for their clock boot. None of them is shut out, and no
// certificate has to be replaced because a clock was set back.
//
// A clock below the floor is wrong in an unknown way. What is issued then must
// be valid still when the clock has been set right, whenever that is, so it
// lives as long as its issuer. The Renewer replaces it by an ordinary one later.
func (s *Store) validity(now time.Time, issuer *x509.Certificate) (notBefore, notAfter time.Time) {
	notBefore = time.Unix(0, 0).Add(-Backdate).UTC()
	if now.Before(notBefore) {
		notBefore = now.Add(-Backdate).UTC()
	}
	floor := s.floor()
	if issuer == nil {
		return notBefore, latest(now, floor).Add(AuthorityLifetime).UTC()
	}
	notAfter = now.Add(s.lifetime())
	if now.Before(floor) || notAfter.After(issuer.NotAfter) {
		notAfter = issuer.NotAfter
	}
	return notBefore, notAfter.UTC()
}

// floor is a moment that has certainly passed.
func (s *Store) floor() time.Time {
	if s.Known == nil {
		return s.Floor
	}
	return latest(s.Floor, s.Known())
}

// settled reports whether the clock is good enough for what is not urgent.
func (s *Store) settled() bool { return s.Settled == nil || s.Settled() }

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (s *Store) lifetime() time.Duration {
	if s.Lifetime <= 0 {
		return DefaultLeafLifetime
	}
	return s.Lifetime
}

// renewBefore is how long before its end a certificate is replaced: a third of
// its life, but no more than 120 days.
func renewBefore(lifetime time.Duration) time.Duration {
	return min(lifetime/3, 120*24*time.Hour)
}

// RenewAt returns when a leaf certificate is due to be replaced. Its own dates
// do not say how long it was to live; the lifetime that the store gives does.
func (s *Store) RenewAt(c *x509.Certificate) time.Time {
	return c.NotAfter.Add(-renewBefore(s.lifetime()))
}

// leastGain is by how much a new certificate must outlive the old one to be
// worth issuing: near the end of its authority it does not.
func leastGain(lifetime time.Duration) time.Duration { return min(Backdate, lifetime/10) }

// authorityDue reports whether an authority of ours is to get a new certificate
// for its key. Two years before its end: every machine and every person that
// has the old one has time to come by the new one, and until then nothing that
// trusts the old one notices.
func (s *Store) authorityDue(now time.Time, c *x509.Certificate) bool {
	now = latest(now, s.floor())
	return !now.Before(c.NotAfter) || s.settled() && c.NotAfter.Sub(now) < authorityRenewal
}

// stale tells why a certificate's dates call for a new one at now, or "". The
// issuer may be nil when it is not at hand.
func (s *Store) stale(now time.Time, c, issuer *x509.Certificate) string {
	// Who checks goes by the clock, which may be behind; what is over by the
	// floor is over as soon as the clock has been set right.
	known := latest(now, s.floor())
	switch {
	case now.Before(c.NotBefore):
		return "not valid yet: the clock was set back"
	case !known.Before(c.NotAfter):
		return "expired"
	}
	if issuer == nil {
		if !known.Before(s.RenewAt(c)) {
			return "about to expire"
		}
		return ""
	}
	_, end := s.validity(now, issuer)
	if !known.Before(s.RenewAt(c)) && end.After(c.NotAfter.Add(leastGain(s.lifetime()))) {
		return "about to expire"
	}
	// Not urgent: the clock may be what is wrong, and be put right in a minute.
	if s.settled() && c.NotAfter.After(end.Add(24*time.Hour)) {
		return "lives longer than it should: issued by another clock or lifetime"
	}
	return ""
}
