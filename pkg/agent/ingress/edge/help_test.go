package edge

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"
)

// world is a running Server that the test changes.
type world struct {
	*Server
	t    *testing.T
	stop func() // ends Run and waits for it
}

func start(t *testing.T, o Options, c Config) *world {
	t.Helper()
	if o.Drain == 0 {
		o.Drain = 5 * time.Second
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := New(o)
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	w := &world{Server: s, t: t}
	var once sync.Once
	w.stop = func() {
		cancel()
		once.Do(func() {
			select {
			case err := <-ended:
				if err != nil {
					t.Errorf("Run: %v", err)
				}
			case <-time.After(o.Drain + 10*time.Second):
				t.Error("Run does not end")
			}
		})
	}
	t.Cleanup(w.stop)
	w.apply(c)
	return w
}

func (w *world) apply(c Config) {
	w.t.Helper()
	if err := w.Apply(context.Background(), c); err != nil {
		w.t.Fatalf("Apply: %v", err)
	}
}

// url is an address on the listener "web".
func (w *world) url(path string) string { return "http://" + w.Addr("web").String() + path }

// web is a Config of one listener with routes for any host.
func web(backends map[string]Backend, routes ...Route) Config {
	return Config{
		Listeners: []Listener{{Name: "web", Address: "127.0.0.1", Hosts: []VirtualHost{{Routes: routes}}}},
		Backends:  backends,
	}
}

// to are backends of one share.
func to(names ...string) []WeightedBackend {
	var out []WeightedBackend
	for _, n := range names {
		out = append(out, WeightedBackend{Backend: n, Weight: 1})
	}
	return out
}

func at(path string) []Match { return []Match{{Path: PathMatch{Value: path}}} }

// serving is a backend served by h, over HTTP/1.1 and h2c.
func serving(t *testing.T, h http.HandlerFunc) Backend {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return Backend{Endpoints: []Endpoint{{Addr: netip.MustParseAddrPort(s.Listener.Addr().String())}}}
}

// says is a backend that answers with its name.
func says(t *testing.T, name string) Backend {
	return serving(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, name) })
}

// result is what a client saw.
type result struct {
	Status int
	Body   string
	Header http.Header
}

// client makes its own connections and follows nothing.
func client(t *testing.T, change func(*http.Transport)) *http.Client {
	t.Helper()
	tr := &http.Transport{DisableCompression: true}
	if change != nil {
		change(tr)
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func h2c(tr *http.Transport) {
	tr.Protocols = new(http.Protocols)
	tr.Protocols.SetUnencryptedHTTP2(true)
}

// ask sends a request; headers are "Name: value", of which Host is the host.
func ask(t *testing.T, c *http.Client, method, url, body string, headers ...string) result {
	t.Helper()
	var in io.Reader
	if body != "" {
		in = strings.NewReader(body)
	}
	r, err := http.NewRequest(method, url, in)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		if name == "Host" {
			r.Host = value
			continue
		}
		r.Header.Add(name, value)
	}
	resp, err := c.Do(r)
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: read the answer: %v", method, url, err)
	}
	return result{resp.StatusCode, string(b), resp.Header}
}

// dial connects to the listener "web", for what no client library would send.
func (w *world) dial() (net.Conn, *bufio.Reader) {
	w.t.Helper()
	c, err := net.Dial("tcp", w.Addr("web").String())
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	return c, bufio.NewReader(c)
}

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{pool: x509.NewCertPool()}
	made := a.sign(t, "authority")
	a.cert, a.key = made.Leaf, made.PrivateKey.(*ecdsa.PrivateKey)
	a.pool.AddCert(a.cert)
	return a
}

func (a *authority) sign(t *testing.T, names ...string) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	n, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	tpl := &x509.Certificate{
		SerialNumber: n, Subject: pkix.Name{CommonName: names[0]}, DNSNames: names, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true, IsCA: a.cert == nil,
	}
	parent, signer := tpl, key
	if a.cert != nil {
		parent, signer = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, tpl, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// mirrorOf answers with what it was sent.
func mirrorOf(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	fmt.Fprintf(w, "%s %s %s\n%s\n", r.Method, r.Host, r.RequestURI, body)
	_ = r.Header.Write(w)
}
