package pki

import (
	"crypto/x509"
	"time"
)

// validity returns the dates of a certificate issued at now.
//
// A clock below the floor is wrong in an unknown way: a machine without a
// battery-backed clock boots in 1970 and learns the date later. What is issued
// then must be valid by the wrong clock and by the right one, whenever that
// comes, so it begins before the wrong date and lives as long as its issuer.
// The Renewer replaces it by an ordinary one when the clock has been set.
//
// An authority is valid since before 1970 for the same reason: its beginning
// protects nothing, and it must stay valid when a later boot begins in 1970.
func (s *Store) validity(now time.Time, issuer *x509.Certificate) (notBefore, notAfter time.Time) {
	if issuer == nil {
		return s.earliest(now, time.Unix(0, 0)), latest(now, s.Floor).Add(AuthorityLifetime).UTC()
	}
	notBefore = now.Add(-Backdate)
	notAfter = now.Add(s.lifetime())
	if now.Before(s.Floor) {
		notAfter = issuer.NotAfter
	}
	if notAfter.After(issuer.NotAfter) {
		notAfter = issuer.NotAfter
	}
	return notBefore.UTC(), notAfter.UTC()
}

func (s *Store) earliest(a, b time.Time) time.Time {
	if b.Before(a) {
		a = b
	}
	return a.Add(-Backdate).UTC()
}

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

// RenewAt returns when a certificate is due to be replaced.
func RenewAt(c *x509.Certificate) time.Time {
	return c.NotAfter.Add(-renewBefore(c.NotAfter.Sub(c.NotBefore)))
}

// stale tells why a certificate's dates call for a new one at now, or "". The
// issuer may be nil when it is not at hand.
func (s *Store) stale(now time.Time, c, issuer *x509.Certificate) string {
	switch {
	case now.Before(c.NotBefore):
		return "not valid yet: the clock was set back"
	case !now.Before(c.NotAfter):
		return "expired"
	}
	if issuer == nil {
		if !now.Before(RenewAt(c)) {
			return "about to expire"
		}
		return ""
	}
	_, end := s.validity(now, issuer)
	if !now.Before(RenewAt(c)) && end.After(c.NotAfter.Add(Backdate)) {
		return "about to expire"
	}
	if c.NotAfter.After(end.Add(24 * time.Hour)) {
		return "lives longer than it should: issued by another clock or lifetime"
	}
	return ""
}
