package edge

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// secure dials a listener whatever the URL says.
func (w *world) secure(listener string, conf *tls.Config) func(*http.Transport) {
	return func(tr *http.Transport) {
		tr.TLSClientConfig, tr.ForceAttemptHTTP2 = conf, true
		tr.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, w.Addr(listener).String())
		}
	}
}

// TestOneSocket has HTTPS, passthrough and terminated streams on one port, told apart by the server name.
func TestOneSocket(t *testing.T) {
	ca := newAuthority(t)
	inner, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{*ca.sign(t, "pass.org")}})
	if err != nil {
		t.Fatal(err)
	}
	plainEcho, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range []net.Listener{inner, plainEcho} {
		t.Cleanup(func() { _ = l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					_, _ = io.Copy(c, c)
					_ = c.Close()
				}()
			}
		}()
	}
	endpoint := func(l net.Listener) Backend {
		return Backend{Endpoints: []Endpoint{{netip.MustParseAddrPort(l.Addr().String())}}}
	}
	secured := serving(t, mirrorOf)
	w := start(t, Options{}, Config{Backends: map[string]Backend{"inner": endpoint(inner), "echo": endpoint(plainEcho), "web": secured}})
	port := freePort(t)
	lis := func(name, host string, p Protocol, certs ...string) Listener {
		l := Listener{Name: name, Address: "127.0.0.1", Port: port, Protocol: p, Hostname: host}
		if len(certs) > 0 {
			l.Certificates = []*tls.Certificate{ca.sign(t, certs...)}
		}
		return l
	}
	exact, wild := lis("exact", "a.web.org", HTTPS, "a.web.org"), lis("wild", "*.web.org", HTTPS, "*.web.org")
	wild.Certificates = append(wild.Certificates, ca.sign(t, "b.web.org"))
	exact.Hosts = []VirtualHost{{Routes: []Route{{Name: "exact", Backends: to("web"), Filters: []Filter{{ResponseHeaders: &HeaderEdit{Set: []Header{{"Route", "exact"}}}}}}}}}
	wild.Hosts = []VirtualHost{{Routes: []Route{{Name: "wild", Backends: to("web"), Filters: []Filter{{ResponseHeaders: &HeaderEdit{Set: []Header{{"Route", "wild"}}}}}}}}}
	pass, ended := lis("pass", "pass.org", TLSPassthrough), lis("ended", "ended.org", TLSTerminate, "ended.org")
	pass.Streams, ended.Streams = []StreamRoute{{Backends: to("inner")}}, []StreamRoute{{Backends: to("echo")}}
	w.apply(Config{Listeners: []Listener{wild, exact, pass, ended}, Backends: map[string]Backend{"inner": endpoint(inner), "echo": endpoint(plainEcho), "web": secured}})

	for name, proto := range map[string]string{"a.web.org": "exact", "b.web.org": "wild", "x.web.org": "wild"} {
		cl := client(t, w.secure("exact", &tls.Config{RootCAs: ca.pool}))
		resp, err := cl.Get("https://" + name + "/")
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		body, _ := io.ReadAll(resp.Body)
		if resp.ProtoMajor != 2 || resp.Header.Get("Route") != proto || !strings.Contains(string(body), "X-Forwarded-Proto: https\r\n") {
			t.Errorf("%s: %s, route %q\n%s", name, resp.Proto, resp.Header.Get("Route"), body)
		}
		if names := resp.TLS.PeerCertificates[0].DNSNames; name != "x.web.org" && names[0] != name {
			t.Errorf("%s was shown the certificate of %v", name, names)
		}
		// A request of another listener's host must not come over this connection; one of the same listener's may.
		for other, status := range map[string]int{"a.web.org": 421, "c.web.org": 200, "other.org": 404} {
			if proto == "exact" {
				status = map[string]int{"a.web.org": 200, "c.web.org": 421, "other.org": 404}[other]
			}
			if got := ask(t, cl, "GET", "https://"+name+"/", "", "Host: "+other); got.Status != status {
				t.Errorf("%s over the connection of %s: %d, want %d", other, name, got.Status, status)
			}
		}
	}
	for _, name := range []string{"pass.org", "ended.org"} {
		c, err := tls.Dial("tcp", w.Addr("pass").String(), &tls.Config{RootCAs: ca.pool, ServerName: name})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		_, _ = io.WriteString(c, "through")
		_ = c.CloseWrite()
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		if b, err := io.ReadAll(c); string(b) != "through" || err != nil {
			t.Errorf("%s: %q, %v", name, b, err)
		}
		_ = c.Close()
	}
	if c, err := tls.Dial("tcp", w.Addr("pass").String(), &tls.Config{RootCAs: ca.pool, ServerName: "nobody.org"}); err == nil {
		t.Error("a server name of no listener was let in")
		_ = c.Close()
	}
}

func freePort(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return netip.MustParseAddrPort(l.Addr().String()).Port()
}

func TestClientCertificate(t *testing.T) {
	ca, clients := newAuthority(t), newAuthority(t)
	port := freePort(t)
	lis := func(name string, optional, asks bool) Listener {
		l := Listener{
			Name: name, Address: "127.0.0.1", Port: port, Protocol: HTTPS, Hostname: name, Certificates: []*tls.Certificate{ca.sign(t, name)},
			Hosts: []VirtualHost{{Routes: []Route{{Backends: to("b")}}}}, ClientCertOptional: optional,
		}
		if asks {
			l.ClientCAs = clients.pool
		}
		return l
	}
	w := start(t, Options{}, Config{Listeners: []Listener{lis("must.org", false, true), lis("may.org", true, true), lis("open.org", false, false)}, Backends: map[string]Backend{"b": says(t, "b")}})
	good, bad := clients.sign(t, "someone"), newAuthority(t).sign(t, "stranger")
	for _, c := range []struct {
		host string
		cert *tls.Certificate
		ok   bool
	}{
		{"must.org", good, true},
		{"must.org", bad, false},
		{"must.org", nil, false},
		{"may.org", good, true},
		{"may.org", bad, true},
		{"may.org", nil, true},
		{"open.org", nil, true},
	} {
		cl := client(t, w.secure("must.org", &tls.Config{RootCAs: ca.pool, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if c.cert == nil {
				return &tls.Certificate{}, nil
			}
			return c.cert, nil
		}}))
		resp, err := cl.Get("https://" + c.host + "/")
		if (err == nil) != c.ok {
			t.Errorf("%s with certificate %v: %v, want success to be %t", c.host, c.cert != nil, err, c.ok)
		}
		if err == nil {
			_ = resp.Body.Close()
		}
	}
}

func TestBackendTLS(t *testing.T) {
	ca := newAuthority(t)
	secure := func(names ...string) []Endpoint {
		l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{*ca.sign(t, names...)}, NextProtos: []string{"h2", "http/1.1"}})
		if err != nil {
			t.Fatal(err)
		}
		s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Proto+" "+r.TLS.ServerName) })}
		go func() { _ = s.Serve(l) }()
		t.Cleanup(func() { _ = s.Close() })
		return []Endpoint{{netip.MustParseAddrPort(l.Addr().String())}}
	}
	in := secure("in.org")
	backends := map[string]Backend{
		"good":     {TLS: &BackendTLS{ServerName: "in.org", RootCAs: ca.pool}, Endpoints: in},
		"name":     {TLS: &BackendTLS{ServerName: "other.org", RootCAs: ca.pool}, Endpoints: in},
		"ca":       {TLS: &BackendTLS{ServerName: "in.org", RootCAs: newAuthority(t).pool}, Endpoints: in},
		"insecure": {TLS: &BackendTLS{ServerName: "x", Insecure: true}, Endpoints: in},
		"san":      {TLS: &BackendTLS{ServerName: "sni.org", RootCAs: ca.pool, SubjectAltNames: []string{"no", "in.org"}}, Endpoints: in},
		"san none": {TLS: &BackendTLS{ServerName: "in.org", RootCAs: ca.pool, SubjectAltNames: []string{"no"}}, Endpoints: in},
	}
	var routes []Route
	for name := range backends {
		routes = append(routes, Route{Matches: at("/" + strings.ReplaceAll(name, " ", "-")), Backends: to(name)})
	}
	w := start(t, Options{}, web(backends, routes...))
	got := map[string]string{}
	for name := range backends {
		a := ask(t, client(t, nil), "GET", w.url("/"+strings.ReplaceAll(name, " ", "-")), "")
		got[name] = http.StatusText(a.Status)
		if a.Status == 200 {
			got[name] = a.Body
		}
	}
	bad := "Bad Gateway"
	if d := cmp.Diff(map[string]string{"good": "HTTP/2.0 in.org", "name": bad, "ca": bad, "insecure": "HTTP/2.0 x", "san": "HTTP/2.0 sni.org", "san none": bad}, got); d != "" {
		t.Errorf("answers (-want +got):\n%s", d)
	}
}

func TestApplyErrors(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	w := start(t, Options{}, Config{})
	c := web(map[string]Backend{"b": says(t, "b")}, Route{Name: "good", Backends: to("b")}, Route{Name: "bad", Matches: []Match{{Path: PathMatch{Kind: PathRegexp, Value: "("}}}},
		Route{Name: "header", Matches: at("/header"), Filters: []Filter{{RequestHeaders: &HeaderEdit{Set: []Header{{"X-A", "a\r\nB: c"}}}}}})
	c.Listeners = append(c.Listeners, Listener{Name: "taken", Address: "127.0.0.1", Port: netip.MustParseAddrPort(taken.Addr().String()).Port()})
	err = w.Apply(context.Background(), c)
	var listener *ListenerError
	var route *RouteError
	if !errors.As(err, &listener) || listener.Listener != "taken" || !errors.As(err, &route) || route.Route != "bad" || !strings.Contains(err.Error(), "route header") {
		t.Errorf("Apply: %v", err)
	}
	if got := ask(t, client(t, nil), "GET", w.url("/"), ""); got.Body != "b" {
		t.Errorf("what is right answers %+v", got)
	}
	w.stop()
	if err := w.Apply(context.Background(), c); !errors.Is(err, ErrClosed) {
		t.Errorf("Apply after Run: %v", err)
	}
}
