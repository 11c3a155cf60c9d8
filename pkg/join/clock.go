package join

import (
	"bytes"
	"time"

	"skiff/pkg/pki"
)

// serverNow is the time by the server's clock, as of the last contact. A node's
// certificates are for its servers to judge, so this is the clock that counts
// for when they are due: a node whose own clock is years ahead would ask for
// ever, one that is behind would never.
func (c *Client) serverNow() time.Time {
	// Without the monotonic reading: the clock may be set.
	return c.now().Round(0).Add(time.Duration(c.ahead.Load()))
}

// judged returns the time by which the server's certificate is judged, given
// how far its clock is said to be ahead. The node's own clock is good for that
// unless it is ahead of the server's: then the certificate may be over by a
// clock that is wrong. What the server says of the time is believed so far, but
// never before a moment that has certainly passed, so that a certificate that
// was over then is of no use to anybody who has stolen its key.
func (c *Client) judged(ahead time.Duration) func() time.Time {
	return func() time.Time {
		now := c.now()
		if ahead > -maxApart {
			return now
		}
		theirs := now.Add(ahead)
		if c.Floor == nil {
			return now
		}
		if floor := c.Floor(); theirs.Before(floor) && floor.Before(now) {
			return floor
		}
		return theirs
	}
}

// sameAuthority reports whether two PEM files are of the same authority: the
// same file, or an authority that has renewed its certificate and kept its key,
// as skiff's do.
func sameAuthority(known, now []byte) bool {
	if bytes.Equal(known, now) {
		return true
	}
	a, err := pki.ParseCerts(known)
	if err != nil {
		return false
	}
	b, err := pki.ParseCerts(now)
	if err != nil || len(a) != 1 || len(b) != 1 {
		return false
	}
	return bytes.Equal(a[0].RawSubjectPublicKeyInfo, b[0].RawSubjectPublicKeyInfo) && bytes.Equal(a[0].RawSubject, b[0].RawSubject) &&
		b[0].IsCA && b[0].CheckSignatureFrom(a[0]) == nil
}
