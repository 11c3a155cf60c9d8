package pki

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestWhatTheClockDoesToCertificates: each line is what a clock shows, one
// after the other, and how many certificates of the tree are issued anew then.
func TestWhatTheClockDoesToCertificates(t *testing.T) {
	epoch, leaves := time.Unix(42, 0), 4
	type step struct {
		now    time.Time
		issued int
	}
	for _, tt := range []struct {
		name  string
		first time.Time
		then  []step
	}{
		{"set back, to 1970, and forward again", day, []step{{day.Add(-time.Hour), 0}, {epoch, 0}, {day.Add(time.Hour), 0}}},
		{"ahead by a month and back", day, []step{{day.AddDate(0, 1, 0), 0}, {day, 0}}},
		{"years ahead and back", day, []step{{day.AddDate(5, 0, 0), leaves}, {day, leaves}, {day.Add(time.Hour), 0}}},
		{"first seen in 1970", epoch, []step{{day, leaves}, {epoch, 0}, {day.Add(time.Hour), 0}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			b.now = tt.first
			b.ensure(testFacts)
			for _, s := range tt.then {
				b.now = s.now
				b.reopen()
				if got := reasons(b.ensure(testFacts)); len(got) != s.issued {
					t.Errorf("at %s issued %v, want %d", s.now, got, s.issued)
				}
				b.verify()
			}
		})
	}
}

// TestUnsettledClock: as long as nobody knows which of two times is right, only
// what is urgent is done.
func TestUnsettledClock(t *testing.T) {
	b := newBench(t)
	b.now = day.AddDate(5, 0, 0)
	b.ensure(testFacts)
	settled := false
	b.reopen()
	b.Settled = func() bool { return settled }
	for range 3 { // a clock that two time servers fight about
		for _, now := range []time.Time{day, day.AddDate(5, 0, 0)} {
			b.now = now
			if got := reasons(b.ensure(testFacts)); len(got) != 0 {
				t.Fatalf("at %s issued %v", now, got)
			}
			b.verify()
		}
	}
	b.now, settled = day, true
	if got := reasons(b.ensure(testFacts)); len(got) != 4 {
		t.Errorf("once settled, issued %v", got)
	}
}

// TestLastKnownTime: a certificate that is over by what is known is replaced,
// whatever the clock shows, by one that lasts until the clock has been set.
func TestLastKnownTime(t *testing.T) {
	b := newBench(t)
	b.ensure(testFacts)
	b.now = time.Unix(42, 0)
	b.reopen()
	b.Known = func() time.Time { return day.AddDate(2, 0, 0) }
	if got := reasons(b.ensure(testFacts)); got[ServingAPI] != "renewed: expired" {
		t.Errorf("issued %v", got)
	}
	b.verify()
	b.now = day.AddDate(6, 0, 0)
	b.verify()
}

// TestAuthorityIsRenewed: its key stays, so that everybody who has the old
// certificate goes on trusting, and everything signed goes on being trusted.
func TestAuthorityIsRenewed(t *testing.T) {
	for name, now := range map[string]time.Time{
		"in good time": day.Add(AuthorityLifetime - authorityRenewal + time.Hour),
		"long dead":    day.Add(AuthorityLifetime).AddDate(3, 0, 0),
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.ensure(testFacts)
			old, leaf := b.read(ClientCA), b.read(ClientAdmin)
			b.now = now
			b.reopen()
			r := b.ensure(testFacts)
			fresh := b.read(ClientCA)
			if !r.Changed(ClientCA) || !fresh.NotAfter.Equal(now.Add(AuthorityLifetime).Truncate(time.Second)) || !sameKey(old.PublicKey, fresh.PublicKey) {
				t.Fatalf("renewed %t, until %s", r.Changed(ClientCA), fresh.NotAfter)
			}
			if !bytes.Equal(old.SubjectKeyId, fresh.SubjectKeyId) || leaf.CheckSignatureFrom(fresh) != nil {
				t.Error("the new certificate is not of the same authority")
			}
			b.verify()
			roots := x509.NewCertPool()
			roots.AddCert(old) // of a machine that has not heard of it
			_, err := b.read(ClientAdmin).Verify(x509.VerifyOptions{Roots: roots, CurrentTime: day, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
			if err != nil {
				t.Errorf("by the old certificate: %v", err)
			}
			if d := cmp.Diff(map[string]string{}, reasons(b.ensure(testFacts))); d != "" {
				t.Errorf("it is not at rest:\n%s", d)
			}
		})
	}
}

// TestForeignAuthorityIsLeftAlone: an administrator's authority near its end is
// his to renew; its leaves end with it, and are not issued for ever anew.
func TestForeignAuthorityIsLeftAlone(t *testing.T) {
	b := newBench(t)
	key, text, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Shop Root", Organization: []string{"Shop"}}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: day.AddDate(-1, 0, 0), NotAfter: day.AddDate(0, 2, 0), KeyUsage: x509.KeyUsageCertSign,
	}, &x509.Certificate{Subject: pkix.Name{CommonName: "Shop Root", Organization: []string{"Shop"}}}, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(b.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	b.put(b.KeyFile(ServerCA), text)
	b.put(b.CertFile(ServerCA), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	r := b.ensure(testFacts)
	if r.Changed(ServerCA) || len(r.Warnings) != 1 {
		t.Errorf("changed %t, warnings %v", r.Changed(ServerCA), r.Warnings)
	}
	if d := cmp.Diff(map[string]string{}, reasons(b.ensure(testFacts))); d != "" {
		t.Errorf("it is not at rest:\n%s", d)
	}
}

// TestRenewAtGoesByTheLifetime, of which the dates say nothing.
func TestRenewAtGoesByTheLifetime(t *testing.T) {
	for life, before := range map[time.Duration]time.Duration{
		DefaultLeafLifetime: 120 * 24 * time.Hour,
		30 * time.Minute:    10 * time.Minute,
	} {
		b := newBench(t)
		b.Lifetime = life
		b.ensure(testFacts)
		c := b.read(ServingAPI)
		if got := c.NotAfter.Sub(b.RenewAt(c)); got != before {
			t.Errorf("lifetime %s: renewed %s before the end, want %s", life, got, before)
		}
		b.now = b.RenewAt(c).Add(time.Second)
		if got := reasons(b.ensure(testFacts)); len(got) != 4 {
			t.Errorf("lifetime %s: issued %v", life, got)
		}
	}
}
