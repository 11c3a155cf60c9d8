package pki

import (
	"bytes"
	"crypto/x509"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"skiff/internal/testkit"
)

var testFacts = Facts{
	NodeName: "n1", Hostname: "Host1", Domain: "cluster.local",
	Addresses:  []netip.Addr{netip.MustParseAddr("10.0.0.5"), netip.MustParseAddr("fd00::5")},
	ServiceIPs: []netip.Addr{netip.MustParseAddr("10.43.0.1")},
	Extra:      []string{"api.example.com", "192.0.2.7", "n1"},
}

// day is a moment after the floor of tests.
var day = time.Date(2027, time.March, 1, 12, 0, 0, 0, time.UTC)

// bench is a store with a clock that the test sets.
type bench struct {
	*Store
	t   *testing.T
	now time.Time
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, now: day}
	b.reopen()
	return b
}

// reopen is a new process on the same directory.
func (b *bench) reopen() {
	b.t.Helper()
	dir := filepath.Join(b.t.TempDir(), "tls")
	if b.Store != nil {
		dir = b.Dir
	}
	b.Store = NewStore(dir, func() time.Time { return b.now }, slog.New(slog.DiscardHandler))
}

func (b *bench) ensure(f Facts) Report {
	b.t.Helper()
	r, err := b.Ensure(Tree, f)
	if err != nil {
		b.t.Fatal(err)
	}
	b.verify()
	return r
}

// verify checks every certificate on disk by the clock, as a client would.
func (b *bench) verify() {
	b.t.Helper()
	for _, spec := range Tree {
		if spec.Issuer == "" {
			continue
		}
		leaf, root := b.read(spec.Name), b.read(spec.Issuer)
		roots := x509.NewCertPool()
		roots.AddCert(root)
		_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: b.now, KeyUsages: []x509.ExtKeyUsage{extKeyUsage(spec.Use)}})
		if err != nil {
			b.t.Errorf("%s at %s: %v", spec.Name, b.now, err)
		}
		key, err := ParseKey(b.file(b.KeyFile(spec.Name)))
		if err != nil || !sameKey(leaf.PublicKey, key.Public()) {
			b.t.Errorf("%s: key does not fit its certificate (%v)", spec.Name, err)
		}
	}
}

func (b *bench) file(path string) []byte {
	b.t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		b.t.Fatal(err)
	}
	return data
}

func (b *bench) read(name string) *x509.Certificate {
	b.t.Helper()
	c, err := ParseCerts(b.file(b.CertFile(name)))
	if err != nil {
		b.t.Fatal(err)
	}
	return c[0]
}

func (b *bench) put(path string, data []byte) {
	b.t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		b.t.Fatal(err)
	}
}

func reasons(r Report) map[string]string {
	m := map[string]string{}
	for _, c := range r.Changes {
		m[c.Name] = c.Action + ": " + c.Reason
	}
	return m
}

func TestTreeText(t *testing.T) {
	got := "# server\n" + Text(Tree, testFacts) + "# node\n" + Text(NodeTree, testFacts)
	testkit.Golden(t, "testdata/tree.txt", got)
}

func TestEnsureIssuesAllAndThenNothing(t *testing.T) {
	b := newBench(t)
	start := time.Now()
	r := b.ensure(testFacts)
	t.Logf("empty directory: %s", time.Since(start))
	if len(r.Changes) != len(Tree) {
		t.Errorf("issued %d of %d", len(r.Changes), len(Tree))
	}
	for _, spec := range Tree {
		info, err := os.Stat(b.KeyFile(spec.Name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v", b.KeyFile(spec.Name), info.Mode(), err)
		}
	}
	b.reopen()
	if d := cmp.Diff(map[string]string{}, reasons(b.ensure(testFacts))); d != "" {
		t.Errorf("second round changed something:\n%s", d)
	}
	leaf, ca := b.read(ServingAPI), b.read(ServerCA)
	if got := leaf.NotBefore; !got.Equal(time.Unix(-3600, 0)) {
		t.Errorf("leaf begins %s", got)
	}
	if got := leaf.NotAfter; !got.Equal(day.Add(DefaultLeafLifetime)) {
		t.Errorf("leaf ends %s", got)
	}
	if got := ca.NotAfter; !got.Equal(day.Add(AuthorityLifetime)) {
		t.Errorf("authority ends %s", got)
	}
}

func TestEnsureHeals(t *testing.T) {
	tests := []struct {
		name   string
		damage func(b *bench)
		want   map[string]string
	}{
		{
			"certificate missing", func(b *bench) { _ = os.Remove(b.CertFile(ClientAdmin)) },
			map[string]string{ClientAdmin: "issued: missing"},
		},
		{
			"certificate empty", func(b *bench) { b.put(b.CertFile(ClientAdmin), nil) },
			map[string]string{ClientAdmin: "issued: empty"},
		},
		{
			"certificate of zeros", func(b *bench) { b.put(b.CertFile(ClientAdmin), make([]byte, 800)) },
			map[string]string{ClientAdmin: "issued: empty"},
		},
		{
			"certificate garbage", func(b *bench) { b.put(b.CertFile(ClientAdmin), []byte("x")) },
			map[string]string{ClientAdmin: "issued: damaged"},
		},
		{
			"key missing", func(b *bench) { _ = os.Remove(b.KeyFile(ServingAPI)) },
			map[string]string{ServingAPI: "renewed: key is missing"},
		},
		{
			"key empty", func(b *bench) { b.put(b.KeyFile(ServingAPI), nil) },
			map[string]string{ServingAPI: "renewed: key is empty"},
		},
		{"power cut between key and certificate", func(b *bench) {
			_, text, err := NewKey()
			if err != nil {
				b.t.Fatal(err)
			}
			b.put(b.KeyFile(ServingAPI), text)
		}, map[string]string{ServingAPI: "renewed: certificate is of another key"}},
		{
			"authority certificate did not reach the disk", func(b *bench) { b.put(b.CertFile(RequestHeaderCA), nil) },
			map[string]string{RequestHeaderCA: "issued: empty"},
		}, // Same key: what it signed stays good.
		{
			"service key empty", func(b *bench) { b.put(b.KeyFile(ServiceKey), nil) },
			map[string]string{ServiceKey: "issued: key is empty"},
		},
		{"authority replaced", func(b *bench) {
			_ = os.Remove(b.CertFile(RequestHeaderCA))
			_ = os.Remove(b.KeyFile(RequestHeaderCA))
		}, map[string]string{RequestHeaderCA: "issued: missing", ClientAuthProxy: "renewed: issuer changed"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			b.ensure(testFacts)
			tt.damage(b)
			b.reopen()
			if d := cmp.Diff(tt.want, reasons(b.ensure(testFacts))); d != "" {
				t.Errorf("changes (-want +got):\n%s", d)
			}
			b.reopen()
			if d := cmp.Diff(map[string]string{}, reasons(b.ensure(testFacts))); d != "" {
				t.Errorf("it did not last:\n%s", d)
			}
		})
	}
}

func TestEnsureNeverReplacesAnAuthority(t *testing.T) {
	tests := map[string]func(b *bench){
		"key garbage":      func(b *bench) { b.put(b.KeyFile(ServerCA), []byte("secret of mine")) },
		"cert garbage":     func(b *bench) { b.put(b.CertFile(ServerCA), []byte("mine")) },
		"other key":        func(b *bench) { b.put(b.KeyFile(ServerCA), b.file(b.KeyFile(ClientCA))) },
		"key gone and due": func(b *bench) { _ = os.Remove(b.KeyFile(ServerCA)); b.now = day.AddDate(1, 0, 0) },
		"not an authority": func(b *bench) {
			b.put(b.CertFile(ServerCA), b.file(b.CertFile(ServingAPI)))
			b.put(b.KeyFile(ServerCA), b.file(b.KeyFile(ServingAPI)))
		},
	}
	for name, damage := range tests {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.ensure(testFacts)
			damage(b)
			cert := b.file(b.CertFile(ServerCA))
			b.reopen()
			_, err := b.Ensure(Tree, testFacts)
			if err == nil || !strings.Contains(err.Error(), ServerCA) {
				t.Errorf("error %v", err)
			}
			if !bytes.Equal(cert, b.file(b.CertFile(ServerCA))) {
				t.Error("the authority was replaced")
			}
		})
	}
}

func TestAuthorityWithoutKeyServesOn(t *testing.T) {
	b := newBench(t)
	b.ensure(testFacts)
	if err := os.Remove(b.KeyFile(ServerCA)); err != nil {
		t.Fatal(err)
	}
	b.reopen()
	b.ensure(testFacts)
}

func TestSANChange(t *testing.T) {
	b := newBench(t)
	b.ensure(testFacts)
	f := testFacts
	f.Addresses = []netip.Addr{netip.MustParseAddr("10.0.0.9"), netip.MustParseAddr("fd00::5")}
	want := map[string]string{ServingAPI: "renewed: names changed: +10.0.0.9 -10.0.0.5"}
	if d := cmp.Diff(want, reasons(b.ensure(f))); d != "" {
		t.Errorf("changes (-want +got):\n%s", d)
	}
}

func TestDates(t *testing.T) {
	epoch := time.Unix(42, 0).UTC()
	tests := []struct {
		name  string
		first time.Time   // when the certificates were made
		then  []time.Time // what the clock showed later
	}{
		{"boots in 1970, learns the date", epoch, []time.Time{day, epoch, day.AddDate(3, 0, 0)}},
		{"loses the date once", day, []time.Time{epoch, day.AddDate(0, 1, 0)}},
		{"three years in a box", day, []time.Time{day.AddDate(3, 0, 0)}},
		{"clock ran ahead and back", day.AddDate(5, 0, 0), []time.Time{day}},
		{"an hour back", day, []time.Time{day.Add(-time.Hour)}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			b.now = tt.first
			b.ensure(testFacts)
			for _, now := range tt.then {
				if tt.first.Equal(epoch) && now.Equal(tt.then[0]) {
					b.now = now
					b.verify() // Before anything is renewed: the jump must not hurt.
				}
				b.now = now
				b.reopen()
				b.ensure(testFacts)
				leaf := b.read(ServingAPI)
				if now.After(b.Floor) && leaf.NotAfter.After(now.Add(DefaultLeafLifetime+24*time.Hour)) {
					t.Errorf("at %s the leaf lives until %s", now, leaf.NotAfter)
				}
				if d := cmp.Diff(map[string]string{}, reasons(b.ensure(testFacts))); d != "" {
					t.Errorf("at %s it is not at rest:\n%s", now, d)
				}
			}
		})
	}
}

func BenchmarkEnsureEmpty(b *testing.B) {
	for b.Loop() {
		s := NewStore(filepath.Join(b.TempDir(), "tls"), time.Now, nil)
		if _, err := s.Ensure(Tree, testFacts); err != nil {
			b.Fatal(err)
		}
	}
}
