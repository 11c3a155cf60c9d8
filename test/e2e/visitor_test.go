package e2e

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// visitor is somebody outside who knows the node's address.
type visitor struct {
	*space
	addr string
}

// reply is what a visitor got.
type reply struct {
	status int
	header http.Header
	body   string
}

// dial connects to the node, whatever name is asked for.
func (m *visitor) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	return m.Network().DialContext(ctx, network, net.JoinHostPort(m.addr, port))
}

// client follows no redirects and believes every certificate.
func (m *visitor) client() *http.Client {
	return &http.Client{
		Timeout:       10 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport:     &http.Transport{DialContext: m.dial, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true},
	}
}

func (m *visitor) get(scheme, host, path string) (reply, error) {
	client := m.client()
	defer client.CloseIdleConnections()
	return fetch(m.t.Context(), client, scheme+"://"+host+path)
}

func fetch(ctx context.Context, client *http.Client, url string) (reply, error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return reply{}, err
	}
	r, err := client.Do(q)
	if err != nil {
		return reply{}, err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	return reply{r.StatusCode, r.Header, string(body)}, err
}

// answers waits for a 200 with all of this in it.
func (m *visitor) answers(scheme, host, path string, want ...string) {
	m.t.Helper()
	m.eventually(scheme+"://"+host+path+" to answer", func() error {
		got, err := m.get(scheme, host, path)
		if err != nil {
			return err
		}
		for _, w := range want {
			if got.status != 200 || !strings.Contains(got.body, w) {
				return fmt.Errorf("%d %s, want %s in it", got.status, got.body, w)
			}
		}
		return nil
	})
}

// load asks without a pause until the returned function is called, which says
// what went wrong. Every tenth request is over a new connection.
func (m *visitor) load() (stop func() []error) {
	ctx, cancel := context.WithCancel(m.t.Context())
	var running sync.WaitGroup
	var mu sync.Mutex
	var failed []error
	for range 4 {
		running.Go(func() {
			client := m.client()
			defer client.CloseIdleConnections()
			for n := 0; ctx.Err() == nil; n++ {
				scheme := []string{"http", "https"}[n%2]
				got, err := fetch(ctx, client, scheme+"://shop.test/load")
				if err == nil && got.status != 200 {
					err = fmt.Errorf("%d %s", got.status, got.body)
				}
				if err != nil && ctx.Err() == nil {
					mu.Lock()
					failed = append(failed, fmt.Errorf("%s: %w", time.Now().Format(time.TimeOnly), err))
					mu.Unlock()
				}
				if n%10 == 9 {
					client.CloseIdleConnections()
				}
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	return func() []error {
		cancel()
		running.Wait()
		return failed
	}
}

// certificate is the common name of what is shown for a host name.
func (m *visitor) certificate(host string) string {
	c, err := m.shown(host)
	if err != nil {
		return err.Error()
	}
	return c.Subject.CommonName
}

// issuer is the common name of who has signed it.
func (m *visitor) issuer(host string) string {
	c, err := m.shown(host)
	if err != nil {
		return err.Error()
	}
	return c.Issuer.CommonName
}

func (m *visitor) shown(host string) (*x509.Certificate, error) {
	raw, err := m.dial(m.t.Context(), "tcp", host+":443")
	if err != nil {
		return nil, err
	}
	c := tls.Client(raw, &tls.Config{ServerName: host, InsecureSkipVerify: true})
	defer c.Close()
	if err := c.HandshakeContext(m.t.Context()); err != nil {
		return nil, err
	}
	return c.ConnectionState().PeerCertificates[0], nil
}

// setCertificate puts a new certificate for shop.test into the Secret.
func (m *visitor) setCertificate(name string) {
	m.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		m.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{"shop.test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	chain, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		m.t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		m.t.Fatal(err)
	}
	encode := func(kind string, b []byte) string {
		var out bytes.Buffer
		_ = pem.Encode(&out, &pem.Block{Type: kind, Bytes: b})
		return base64.StdEncoding.EncodeToString(out.Bytes())
	}
	m.apply(fmt.Sprintf("apiVersion: v1\nkind: Secret\ntype: kubernetes.io/tls\nmetadata: {name: shop-tls}\ndata: {tls.crt: %s, tls.key: %s}\n",
		encode("CERTIFICATE", chain), encode("PRIVATE KEY", der)))
}

// chat sends messages over a WebSocket and gets them back.
func (m *visitor) chat(url string) {
	m.t.Helper()
	dialer := websocket.Dialer{NetDialContext: m.dial, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	c, _, err := dialer.DialContext(m.t.Context(), url, nil)
	if err != nil {
		m.t.Errorf("open %s: %v", url, err)
		return
	}
	defer c.Close()
	for _, size := range []int{1, 1 << 10, 1 << 17} {
		sent := bytes.Repeat([]byte("x"), size)
		if err := c.WriteMessage(websocket.BinaryMessage, sent); err != nil {
			m.t.Errorf("send %d bytes to %s: %v", size, url, err)
			return
		}
		if _, got, err := c.ReadMessage(); err != nil || !bytes.Equal(got, sent) {
			m.t.Errorf("%s: sent %d bytes, got %d back, %v", url, size, len(got), err)
			return
		}
	}
}

// rpc makes a unary and a streaming call over TLS.
func (m *visitor) rpc(host string) {
	m.t.Helper()
	c, err := grpc.NewClient("passthrough:///"+host+":443", grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{InsecureSkipVerify: true})),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return m.dial(ctx, "tcp", addr) }))
	if err != nil {
		m.t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(m.t.Context(), 10*time.Second)
	defer cancel()
	health := healthpb.NewHealthClient(c)
	one, err := health.Check(ctx, &healthpb.HealthCheckRequest{Service: "shop"})
	if err != nil || one.Status != healthpb.HealthCheckResponse_SERVING {
		m.t.Errorf("gRPC call: %v, %v", one, err)
	}
	if _, err := health.Check(ctx, &healthpb.HealthCheckRequest{Service: "no such"}); err == nil || !strings.Contains(err.Error(), "NotFound") {
		m.t.Errorf("a gRPC error must come through with its code, got %v", err)
	}
	stream, err := health.Watch(ctx, &healthpb.HealthCheckRequest{Service: "shop"})
	if err != nil {
		m.t.Errorf("gRPC stream: %v", err)
		return
	}
	if first, err := stream.Recv(); err != nil || first.Status != healthpb.HealthCheckResponse_SERVING {
		m.t.Errorf("gRPC stream: %v, %v", first, err)
	}
}

// said waits for a warning about an Ingress with all of this in it.
func (s *space) said(name, reason string, want ...string) {
	s.t.Helper()
	s.eventually("event "+reason+" of Ingress "+name, func() error {
		out := s.kubectl("get", "events", "--field-selector", "reason="+reason+",involvedObject.name="+name, "-o", "jsonpath={.items[*].message}")
		if slices.ContainsFunc(want, func(w string) bool { return !strings.Contains(out, w) }) {
			return fmt.Errorf("%q, want %q in it", out, want)
		}
		return nil
	})
}

// is is nil if both are the same.
func is(got, want string) error {
	if got != want {
		return fmt.Errorf("got %q, want %q", got, want)
	}
	return nil
}
