package join

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"skiff/pkg/pki"
	"skiff/pkg/token"
)

var (
	quiet   = slog.New(slog.DiscardHandler)
	day     = time.Date(2027, time.March, 1, 12, 0, 0, 0, time.UTC)
	cluster = Cluster{
		PodCIDR: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")}, ServiceCIDR: []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16")},
		DNS: []netip.Addr{netip.MustParseAddr("10.43.0.10")}, Domain: "cluster.local", FlannelBackend: "vxlan",
	}
	n1 = NodeInfo{Name: "n1", Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.5")}}
	n2 = NodeInfo{Name: "n2", Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.6")}}
)

// world is a server and the time.
type world struct {
	t     *testing.T
	now   time.Time
	store *pki.Store
	token token.Token
	mux   *http.ServeMux
	join  *Server
	names *names
	calls int
}

// names is what pkg/join/password does, without a cluster.
type names struct {
	passwords map[string]token.Secret
	down      error
}

func (n *names) Claim(_ context.Context, c Claim) error {
	have, known := n.passwords[c.Node]
	switch {
	case n.down != nil:
		return n.down
	case known && have == c.Password, known && c.Proven:
		return nil
	case known:
		return Refuse(CodeName, "taken")
	case !c.New && !c.Proven:
		return Refuse(CodeUnknown, "forgotten")
	}
	n.passwords[c.Node] = c.Password
	return nil
}

// timed is a bootstrap token that is good for some time.
type timed struct {
	secret token.Secret
	until  time.Time
	now    func() time.Time
	calls  int
}

func (b *timed) Verify(_ context.Context, t token.Token) error {
	b.calls++
	if t.Secret != b.secret || !b.now().Before(b.until) {
		return Refuse(CodeBootstrap, "the bootstrap token has expired")
	}
	return nil
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, now: day, mux: http.NewServeMux()}
	w.store = pki.NewStore(filepath.Join(t.TempDir(), "server"), w.clock, quiet)
	w.store.Floor = day.AddDate(-30, 0, 0)
	if _, err := w.store.Ensure(pki.Tree, pki.Facts{NodeName: "s1"}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	files := token.Files{Server: filepath.Join(dir, "token"), Agent: filepath.Join(dir, "agent-token"), Node: filepath.Join(dir, "node-token")}
	book, _, err := token.Open(files, w.store.CertPEM(pki.ServerCA), token.Token{}, token.Token{})
	if err != nil {
		t.Fatal(err)
	}
	w.token, w.names = book.Token(token.Agent), &names{passwords: map[string]token.Secret{}}
	w.join = NewServer(Server{
		Store: w.store, Tokens: book, TokenFile: files.Agent, Names: w.names, Cluster: func() Cluster { return cluster }, Logger: quiet,
		Own: "s1", Version: "v1.36.3+skiff1",
		Reserved: func() []netip.Prefix {
			return []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16"), netip.MustParsePrefix("10.0.0.1/32")}
		},
	})
	w.mux.HandleFunc(Path, func(rw http.ResponseWriter, r *http.Request) { w.calls++; w.join.ServeHTTP(rw, r) })
	w.mux.HandleFunc(CACertsPath, func(rw http.ResponseWriter, _ *http.Request) {
		_, _ = rw.Write(w.store.CertPEM(pki.ServerCA))
	})
	return w
}

func (w *world) clock() time.Time { return w.now }

// listen serves the world over TLS.
func (w *world) listen() string {
	w.t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Date", w.clock().UTC().Format(http.TimeFormat))
		w.mux.ServeHTTP(rw, r)
	}))
	s.TLS = &tls.Config{GetCertificate: w.store.ServingCertificate(pki.ServingAPI), ClientAuth: tls.RequestClientCert, Time: w.clock}
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	fresh := &tls.Config{GetCertificate: s.TLS.GetCertificate, ClientAuth: tls.RequestClientCert, Time: w.clock}
	s.TLS.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return fresh, nil }
	// httptest insists on a certificate of its own unless there is one.
	c, err := s.TLS.GetCertificate(nil)
	if err != nil {
		w.t.Fatal(err)
	}
	s.TLS.Certificates = []tls.Certificate{*c}
	s.StartTLS()
	w.t.Cleanup(s.Close)
	return s.URL
}

func (w *world) client() *Client {
	dir := w.t.TempDir()
	return &Client{
		Transport: InProcess(w.mux), Token: w.token, Clock: w.clock, Logger: quiet, APIServer: "https://127.0.0.1:6443",
		TLSDir: filepath.Join(dir, "tls"), CredDir: filepath.Join(dir, "cred"), PasswordFile: filepath.Join(dir, "node", "password"),
	}
}

func (w *world) remote() *Client {
	c := w.client()
	c.Transport, c.URL = nil, w.listen()
	return c
}

func (w *world) mustJoin(c *Client, n NodeInfo) *Bundle {
	w.t.Helper()
	b, err := c.Join(w.t.Context(), n)
	if err != nil {
		w.t.Fatal(err)
	}
	if b.Stale != nil {
		w.t.Fatalf("not confirmed: %v", b.Stale)
	}
	return b
}

type down struct{}

func (down) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, errors.New("connection refused")
}

func TestJoinInProcessAndOverTheNetwork(t *testing.T) {
	for name, client := range map[string]func(*world) *Client{"in process": (*world).client, "https": (*world).remote} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			c := client(w)
			b := w.mustJoin(c, n1)
			if d := cmp.Diff(cluster, b.Cluster, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
				t.Error(d)
			}
			for _, spec := range pki.NodeTree {
				pair, err := tls.LoadX509KeyPair(b.Cert(spec.Name), b.Key(spec.Name))
				if err != nil {
					t.Fatal(err)
				}
				if got := pair.Leaf.Subject.CommonName; got != strings.ReplaceAll(spec.CN, "{node}", "n1") {
					t.Errorf("%s: %s", spec.Name, got)
				}
			}
			config, err := os.ReadFile(b.Kubeconfig("kubelet"))
			if err != nil || !bytes.Contains(config, []byte(b.Cert(pki.ClientKubelet))) {
				t.Errorf("kubeconfig %s, %v", config, err)
			}
			before, err := os.ReadFile(b.Cert(pki.ClientKubelet))
			if err != nil {
				t.Fatal(err)
			}
			w.mustJoin(c, n1)
			after, err := os.ReadFile(b.Cert(pki.ClientKubelet))
			if err != nil || !bytes.Equal(before, after) {
				t.Errorf("joining again replaced a good certificate (%v)", err)
			}
		})
	}
}

// TestForgedCSR posts by hand what the client would not.
func TestForgedCSR(t *testing.T) {
	w := newWorld(t)
	key, _, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	forge := func(s pki.Spec, f pki.Facts) string {
		csr, err := pki.NewCSR(s, f, key)
		if err != nil {
			t.Fatal(err)
		}
		return string(csr)
	}
	asking := n1
	asking.Password = "p"
	tests := []struct {
		name, csr string
		status    int
	}{
		{pki.ClientKubelet, forge(pki.Spec{CN: "system:admin", Org: []string{"system:masters"}}, pki.Facts{}), http.StatusForbidden},
		{pki.ClientKubelet, forge(pki.NodeTree[0], pki.Facts{NodeName: "n2"}), http.StatusForbidden},
		{pki.ServingKubelet, forge(pki.NodeTree[1], pki.Facts{NodeName: "n1", Addresses: n2.Addresses}), http.StatusForbidden},
		{pki.ClientKubelet, "x", http.StatusBadRequest},
		{pki.ClientAdmin, "x", http.StatusBadRequest},
	}
	for _, tt := range tests {
		body, err := json.Marshal(Request{Version: Version, Node: asking, CSRs: map[string]string{tt.name: tt.csr}})
		if err != nil {
			t.Fatal(err)
		}
		if got := w.post(body); got != tt.status {
			t.Errorf("%s: status %d, want %d", tt.name, got, tt.status)
		}
	}
	if got := w.post(bytes.Repeat([]byte("x"), MaxRequest+1)); got != http.StatusRequestEntityTooLarge {
		t.Errorf("oversized: %d", got)
	}
	if got := w.post([]byte(`{"version":99,"node":{"name":"n1"}}`)); got != http.StatusBadRequest {
		t.Errorf("version 99: %d", got)
	}
}

func (w *world) post(body []byte) int {
	r := httptest.NewRequest(http.MethodPost, Path, bytes.NewReader(body))
	r.SetBasicAuth(token.UserNode, w.token.Secret.Reveal())
	rec := httptest.NewRecorder()
	w.join.ServeHTTP(rec, r)
	return rec.Code
}

func TestOfflineStart(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	w.mustJoin(c, n1)
	c.Transport = down{}
	b, err := c.Join(t.Context(), n1)
	if err != nil || b.Stale == nil || b.Cluster.Domain != "cluster.local" {
		t.Fatalf("%+v, %v", b, err)
	}
	w.now = b.RenewAt.AddDate(0, 1, 0) // Due, and still valid.
	if b, err = c.Join(t.Context(), n1); err != nil || b.Stale == nil {
		t.Errorf("due: %v", err)
	}
	w.now = day.AddDate(3, 0, 0) // Expired.
	if _, err = c.Join(t.Context(), n1); err == nil {
		t.Error("an expired bundle was used")
	}
	c.Transport = InProcess(w.mux)
	w.mustJoin(c, n1)
}

func TestDamageHeals(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	b := w.mustJoin(c, n1)
	files := []string{b.Kubeconfig("kube-proxy"), filepath.Join(c.CredDir, recordFile), b.Cert(pki.ServerCA)}
	for _, s := range pki.NodeTree {
		files = append(files, b.Cert(s.Name), b.Key(s.Name))
	}
	for _, f := range files {
		for _, damage := range []func() error{func() error { return os.Truncate(f, 0) }, func() error { return os.Remove(f) }} {
			if err := damage(); err != nil {
				t.Fatal(err)
			}
			offline := Client{Transport: down{}, Token: c.Token, Clock: w.clock, Logger: quiet, TLSDir: c.TLSDir, CredDir: c.CredDir}
			if _, err := offline.Join(t.Context(), n1); err == nil {
				t.Errorf("%s: damage was not noticed", f)
			}
			w.mustJoin(c, n1)
		}
	}
}

func TestNewAuthority(t *testing.T) {
	old, fresh := newWorld(t), newWorld(t)
	c := old.client()
	b := old.mustJoin(c, n1)
	c.Transport, c.Token = InProcess(fresh.mux), fresh.token
	fresh.mustJoin(c, n1)
	got, err := os.ReadFile(b.Cert(pki.ServerCA))
	if err != nil || !bytes.Equal(got, fresh.store.CertPEM(pki.ServerCA)) {
		t.Errorf("authority was not replaced: %v", err)
	}
}

// TestLifetimeOfTheServer has a server that issues for longer and shorter than
// the default: the node must not ask for ever.
func TestLifetimeOfTheServer(t *testing.T) {
	for _, life := range []time.Duration{24 * time.Hour, 3 * pki.DefaultLeafLifetime} {
		w := newWorld(t)
		w.store.Lifetime = life
		c := w.client()
		w.mustJoin(c, n1)
		d, err := c.openDisk(n1)
		if err != nil {
			t.Fatal(err)
		}
		if csrs, err := d.requests(); err != nil || len(csrs) != 0 {
			t.Errorf("%s: asks again for %d, %v", life, len(csrs), err)
		}
	}
}

func TestMemberWaitsJoinsAndRenews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		start := time.Now()
		c := w.client()
		clock := func() time.Time { return day.Add(time.Since(start)) }
		w.store = pki.NewStore(w.store.Dir, clock, quiet)
		w.store.Lifetime = 60 * 24 * time.Hour
		if _, err := w.store.Ensure(pki.Tree, pki.Facts{NodeName: "s1"}); err != nil {
			t.Fatal(err)
		}
		c.Clock, w.join.Store = clock, w.store
		c.Transport = down{}
		changed := make(chan time.Time, 9)
		m := &Member{Client: c, Node: n1, Changed: func(b *Bundle) { changed <- b.RenewAt }, Logger: quiet}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- m.Run(ctx) }()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if err := m.Ready(ctx); err == nil || !strings.Contains(err.Error(), "connection refused") {
			t.Errorf("ready without a server: %v", err)
		}
		c.mu.Lock()
		c.Transport = InProcess(w.mux)
		c.mu.Unlock()
		time.Sleep(time.Minute)
		synctest.Wait()
		if err := m.Ready(ctx); err != nil || len(changed) != 1 {
			t.Fatalf("not joined: %v, %d", err, len(changed))
		}
		first := <-changed
		time.Sleep(m.Bundle().RenewAt.Sub(c.now()) + 2*lookEvery)
		synctest.Wait()
		if len(changed) != 1 || !(<-changed).After(first) {
			t.Errorf("%d renewals", len(changed))
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
