package join

import (
	"bytes"
	"crypto/x509"
	"os"
	"strings"
	"testing"
	"time"

	"skiff/pkg/pki"
)

// TestClocksDiffer joins and renews with a clock of the node's own. Whatever it
// shows the node becomes a member, does not ask again for what it has, and
// knows how far it is off.
func TestClocksDiffer(t *testing.T) {
	for name, off := range map[string]time.Duration{
		"1970":              time.Unix(42, 0).Sub(day),
		"months behind":     -100 * 24 * time.Hour,
		"hours behind":      -5 * time.Hour,
		"the same":          0,
		"hours ahead":       5 * time.Hour,
		"five years ahead":  5 * 365 * 24 * time.Hour,
		"forty years ahead": 40 * 365 * 24 * time.Hour,
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			var heard time.Time
			c := w.remote()
			c.Clock = func() time.Time { return w.now.Add(off) }
			c.Floor = func() time.Time { return day.AddDate(-1, 0, 0) }
			c.Heard = func(_ string, theirs time.Time) { heard = theirs }
			first := w.mustJoin(c, n1)
			if heard.Sub(w.now).Abs() > time.Minute {
				t.Errorf("heard that it is %s, it is %s", heard, w.now)
			}
			before := serials(t, first)
			w.mustJoin(c, n1)
			if serials(t, first) != before {
				t.Error("what was good was issued again")
			}
			w.now = day.AddDate(0, 9, 0) // due by the server's clock, whatever the node's says
			if _, err := w.store.Ensure(pki.Tree, pki.Facts{NodeName: "s1"}); err != nil {
				t.Fatal(err)
			}
			if b := w.mustJoin(c, n1); serials(t, b) == before || !b.RenewAt.After(w.now) {
				t.Error("what was due was not renewed")
			}
		})
	}
}

// TestStolenCertificate: somebody has the key of a server's certificate that
// is over, and says that it is not.
func TestStolenCertificate(t *testing.T) {
	w := newWorld(t)
	c := w.remote()
	w.mustJoin(c, n1)
	c.Clock = func() time.Time { return day.AddDate(3, 0, 0) } // and so it is
	c.Floor = func() time.Time { return day.AddDate(2, 11, 0) }
	b, err := c.Join(t.Context(), n1)
	if err == nil && b.Stale == nil {
		t.Error("a server was believed whose certificate was over when the node last looked at its clock")
	}
}

// TestRenewedAuthority: the server's authority has another certificate for its
// key. A node that joined by the old one follows, whether it has been away for
// years or not, and whatever its token says; nobody else's is accepted.
func TestRenewedAuthority(t *testing.T) {
	for name, away := range map[string]time.Duration{"in good time": 9 * 365 * 24 * time.Hour, "years after the end": 14 * 365 * 24 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			c := w.remote()
			b := w.mustJoin(c, n1)
			old, err := os.ReadFile(b.Cert(pki.ServerCA))
			if err != nil {
				t.Fatal(err)
			}
			w.now = day.Add(away)
			if _, err := w.store.Ensure(pki.Tree, pki.Facts{NodeName: "s1"}); err != nil {
				t.Fatal(err)
			}
			if bytes.Equal(old, w.store.CertPEM(pki.ServerCA)) {
				t.Fatal("the authority was not renewed")
			}
			if name == "years after the end" {
				c.Token.Secret = "" // proof by key and password
			}
			b = w.mustJoin(c, n1)
			now, err := os.ReadFile(b.Cert(pki.ServerCA))
			if err != nil || !bytes.Equal(now, w.store.CertPEM(pki.ServerCA)) {
				t.Errorf("the node has the old certificate still (%v)", err)
			}

			impostor := newWorld(t)
			impostor.now = w.now
			if _, err := impostor.store.Ensure(pki.Tree, pki.Facts{NodeName: "s1"}); err != nil {
				t.Fatal(err)
			}
			c.URL = impostor.listen()
			calls := impostor.calls
			if b, err := c.Join(t.Context(), n1); err == nil && b.Stale == nil || impostor.calls != calls {
				t.Error("another authority of the same name was accepted")
			}
		})
	}
}

func serials(t *testing.T, b *Bundle) string {
	t.Helper()
	var all []string
	for _, spec := range pki.NodeTree {
		data, err := os.ReadFile(b.Cert(spec.Name))
		if err != nil {
			t.Fatal(err)
		}
		certs, err := pki.ParseCerts(data)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, serial(certs[0]))
	}
	return strings.Join(all, " ")
}

func serial(c *x509.Certificate) string { return c.SerialNumber.String() }
