package front

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"skiff/pkg/pki"
)

// stage is a running front.
type stage struct {
	*Front
	t      *testing.T
	store  *pki.Store
	now    time.Time
	cancel context.CancelFunc
	done   chan error
}

func start(t *testing.T) *stage {
	t.Helper()
	s := &stage{t: t, now: time.Now(), done: make(chan error, 1)}
	s.store = pki.NewStore(filepath.Join(t.TempDir(), "tls"), func() time.Time { return s.now }, nil)
	s.store.Floor = time.Time{}
	s.ensure()
	quiet := slog.New(slog.DiscardHandler)
	s.Front = New(Options{
		Address: netip.MustParseAddr("127.0.0.1"), Certificate: s.store.ServingCertificate(pki.ServingAPI),
		Logger: quiet,
	})
	read := []string{http.MethodGet}
	s.Add(Route{Path: "/ping", Methods: read, Rate: 1000, Burst: 1000, Handler: s.Ping()})
	s.Add(Route{Path: "/cacerts", Methods: read, Rate: 1000, Burst: 1000, Handler: s.CACerts(func() []byte { return s.store.CertPEM(pki.ServerCA) })})
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	s.cancel = cancel
	go func() { s.done <- s.Run(ctx) }()
	t.Cleanup(func() { s.stopped() })
	return s
}

func (s *stage) ensure() {
	s.t.Helper()
	if _, err := s.store.Ensure(pki.Tree, pki.Facts{NodeName: "n1"}); err != nil {
		s.t.Fatal(err)
	}
}

// stopped stops the front and tells how long that took.
func (s *stage) stopped() time.Duration {
	s.t.Helper()
	s.cancel()
	begin := time.Now()
	if s.done != nil {
		if err := <-s.done; err != nil {
			s.t.Error(err)
		}
		s.done = nil
	}
	return time.Since(begin)
}

func (s *stage) client() *http.Client {
	s.t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.store.CertPEM(pki.ServerCA))
	pair, err := tls.LoadX509KeyPair(s.store.CertFile(pki.ClientAdmin), s.store.KeyFile(pki.ClientAdmin))
	if err != nil {
		s.t.Fatal(err)
	}
	tr := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{
		MinVersion: tls.VersionTLS12, RootCAs: roots, Certificates: []tls.Certificate{pair}, Time: func() time.Time { return s.now },
	}}
	s.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// ask sends a GET; the response is closed at the end of the test.
func (s *stage) ask(c *http.Client, path string) *http.Response {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, "https://"+s.Addr().String()+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = resp.Body.Close() })
	return resp
}

func (s *stage) get(c *http.Client, path string) (*http.Response, string) {
	s.t.Helper()
	resp := s.ask(c, path)
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp, string(body)
}

func TestRoutes(t *testing.T) {
	s := start(t)
	s.Handle("/v1-skiff/mine", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "module") }))
	c := s.client()
	resp, body := s.get(c, "/api/v1/nodes")
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" || !strings.Contains(body, "skiff status") {
		t.Errorf("before the API: %s %s", resp.Status, body)
	}
	s.SetAPI(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, "%s %s %s", r.Proto, r.URL.Path, r.TLS.PeerCertificates[0].Subject.CommonName)
	}))
	for path, want := range map[string]string{
		"/ping":                          "pong",
		"/cacerts":                       string(s.store.CertPEM(pki.ServerCA)),
		"/v1-skiff/mine":                 "module",
		"/v1-skiff/nothing":              "skiff has nothing at /v1-skiff/nothing\n",
		"/api/v1/nodes":                  "HTTP/2.0 /api/v1/nodes system:admin",
		"/api/v1/nodes/n1/proxy//a/../b": "HTTP/2.0 /api/v1/nodes/n1/proxy//a/../b system:admin",
	} {
		if _, body := s.get(c, path); body != want {
			t.Errorf("%s: %q, want %q", path, body, want)
		}
	}
	s.SetAPI(nil)
	if resp, _ := s.get(c, "/api"); resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("after the API: %s", resp.Status)
	}
}

// TestNewCertificate renews while a connection stands: that one lives on, the
// next one sees the new certificate.
func TestNewCertificate(t *testing.T) {
	s := start(t)
	c := s.client()
	first, _ := s.get(c, "/ping")
	conns := map[string]bool{}
	s.SetAPI(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { conns[r.RemoteAddr] = true }))
	s.get(c, "/x")
	s.now = s.now.AddDate(0, 11, 0)
	s.ensure()
	s.get(c, "/x")
	if len(conns) != 1 {
		t.Errorf("the connection did not survive: %v", conns)
	}
	second, _ := s.get(s.client(), "/ping")
	if first.TLS.PeerCertificates[0].Equal(second.TLS.PeerCertificates[0]) {
		t.Error("the old certificate is still served")
	}
}

func TestStopEndsWatches(t *testing.T) {
	s := start(t)
	ended := make(chan struct{})
	s.SetAPI(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "event\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		close(ended)
	}))
	line := s.stream(s.client(), "/api/v1/pods?watch=true")
	if got := s.stopped(); got > time.Second {
		t.Errorf("stop took %s", got)
	}
	<-ended
	if _, err := line.ReadString('\n'); err != io.EOF {
		t.Errorf("the watch ended with %v, want EOF", err)
	}
}

func TestStopCutsWhatDoesNotEnd(t *testing.T) {
	s := start(t)
	s.SetAPI(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "log line\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	s.stream(s.client(), "/api/v1/namespaces/a/pods/b/log?follow=true")
	if got := s.stopped(); got < drainTime || got > drainTime+cancelTime {
		t.Errorf("stop took %s", got)
	}
}

func (s *stage) stream(c *http.Client, path string) *bufio.Reader {
	s.t.Helper()
	r := bufio.NewReader(s.ask(c, path).Body)
	if _, err := r.ReadString('\n'); err != nil {
		s.t.Fatal(err)
	}
	return r
}

func TestListenErrors(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	port := l.Addr().(*net.TCPAddr).Port
	err = New(Options{Address: netip.MustParseAddr("127.0.0.1"), Port: port}).Listen()
	if err == nil || !strings.Contains(err.Error(), "--https-listen-port") || !strings.Contains(err.Error(), fmt.Sprint(port)) {
		t.Errorf("port in use: %v", err)
	}
	err = New(Options{Address: netip.MustParseAddr("192.0.2.1"), Port: port}).Listen()
	if err == nil || !strings.Contains(err.Error(), "--bind-address") {
		t.Errorf("foreign address: %v", err)
	}
}

func TestSpecificAddressAnswersOnLoopbackToo(t *testing.T) {
	f := New(Options{Address: netip.MustParseAddr("127.0.0.2")})
	if err := f.Listen(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", f.Addr().(*net.TCPAddr).Port))
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
}
