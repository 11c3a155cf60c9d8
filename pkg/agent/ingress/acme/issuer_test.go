package acme

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
	"github.com/miekg/dns"
)

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// world has a name server that says 127.0.0.1 to every name under .test, an
// authority (Let's Encrypt's own test server) that asks there, and a web server
// that answers its challenges.
func world(t *testing.T) *Issuer {
	t.Helper()
	t.Setenv("PEBBLE_VA_NOSLEEP", "1")
	queries, err := net.Listen("tcp", "127.0.0.1:0") // as the authority asks
	if err != nil {
		t.Fatal(err)
	}
	names := &dns.Server{Listener: queries, Handler: dns.HandlerFunc(answer)}
	go func() { _ = names.ActivateAndServe() }()
	t.Cleanup(func() { _ = names.Shutdown() })

	var issuer *Issuer
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token := strings.TrimPrefix(r.URL.Path, "/.well-known/acme-challenge/")
		if answer, ok := issuer.Challenge(r.Host, token); ok && strings.HasPrefix(r.Host, "shop.test") {
			_, _ = io.WriteString(w, answer)
			return
		}
		http.NotFound(w, r)
	}))
	t.Cleanup(web.Close)

	store, quiet := db.NewMemoryStore(), log.New(io.Discard, "", 0)
	authority := ca.New(quiet, store, "", "ecdsa", 0, 1, map[string]ca.Profile{"default": {Description: "for tests"}})
	validation := va.New(quiet, web.Listener.Addr().(*net.TCPAddr).Port, 0, false, queries.Addr().String(), store)
	front := wfe.New(quiet, store, validation, authority, nil, false, false, 1, 1)
	server := httptest.NewTLSServer(front.Handler())
	t.Cleanup(server.Close)
	issuer = New(Options{
		Directory: server.URL + wfe.DirectoryPath, Email: "keeper@shop.test", Account: newKey(t),
		HTTP: server.Client(), Logger: slog.New(slog.DiscardHandler),
	})
	return issuer
}

func answer(w dns.ResponseWriter, q *dns.Msg) {
	m := new(dns.Msg).SetReply(q)
	if q.Question[0].Qtype == dns.TypeA && strings.HasSuffix(q.Question[0].Name, ".test.") {
		m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.IPv4(127, 0, 0, 1)}}
	}
	_ = w.WriteMsg(m)
}

func TestCertificateIsIssued(t *testing.T) {
	issuer := world(t)
	for range 2 { // the second with the account that there is
		key := newKey(t)
		chain, err := issuer.Obtain(t.Context(), key, []string{"shop.test"})
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		pair, err := tls.X509KeyPair(chain, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(pair.Leaf.DNSNames, []string{"shop.test"}) {
			t.Errorf("the certificate is for %q", pair.Leaf.DNSNames)
		}
		if at := RenewAt(pair.Leaf); !at.After(time.Now()) || !at.Before(pair.Leaf.NotAfter) {
			t.Errorf("renewed at %s, it ends at %s", at, pair.Leaf.NotAfter)
		}
	}
	if len(issuer.answers) > 0 {
		t.Errorf("%d challenges are still answered", len(issuer.answers))
	}
}

func TestRefusalSaysWhatToDo(t *testing.T) {
	issuer := world(t)
	for name, parts := range map[string][]string{
		"other.test":  {"could not check other.test", "public DNS", "port 80"},
		"*.shop.test": {"wildcard", "name each host"},
	} {
		_, err := issuer.Obtain(t.Context(), newKey(t), []string{name})
		if err == nil {
			t.Fatalf("got a certificate for %s", name)
		}
		for _, p := range parts {
			if !strings.Contains(err.Error(), p) {
				t.Errorf("%s: %q is not in %q", name, p, err)
			}
		}
	}
}
