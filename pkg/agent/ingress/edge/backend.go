package edge

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"net/http"
	"net/netip"
	"reflect"
	"strconv"
	"sync/atomic"
	"time"
)

// backend is a compiled Backend with what it has open.
type backend struct {
	conf      Backend
	endpoints atomic.Pointer[[]*endpoint]
	turn      atomic.Uint32
	// std carries what is not clear-text HTTP/1.1.
	std *http.Transport
}

func newBackend(conf Backend) *backend {
	b := &backend{conf: conf}
	b.endpoints.Store(&[]*endpoint{})
	if conf.TLS != nil || conf.Protocol == BackendH2C {
		b.std = newTransport(conf)
	}
	return b
}

// same says whether a backend can go on under a new Config.
func (b *backend) same(conf Backend) bool {
	x, y := b.conf, conf
	x.Endpoints, y.Endpoints = nil, nil
	xt, yt := x.TLS, y.TLS
	x.TLS, y.TLS = nil, nil
	if !reflect.DeepEqual(x, y) || (xt == nil) != (yt == nil) {
		return false
	}
	if xt == nil {
		return true
	}
	a, c := *xt, *yt
	pools := a.RootCAs == c.RootCAs || a.RootCAs != nil && c.RootCAs != nil && a.RootCAs.Equal(c.RootCAs)
	certs := a.Certificate == c.Certificate || a.Certificate != nil && c.Certificate != nil && reflect.DeepEqual(a.Certificate.Certificate, c.Certificate.Certificate)
	a.RootCAs, c.RootCAs, a.Certificate, c.Certificate = nil, nil, nil, nil
	return pools && certs && reflect.DeepEqual(a, c)
}

// set replaces the endpoints; those that stay keep their connections, the others close theirs as requests end.
func (b *backend) set(list []Endpoint) {
	have := map[netip.AddrPort]*endpoint{}
	for _, e := range *b.endpoints.Load() {
		have[e.at] = e
	}
	next := make([]*endpoint, 0, len(list))
	for _, e := range list {
		if known := have[e.Addr]; known != nil {
			next = append(next, known)
			delete(have, e.Addr)
			continue
		}
		next = append(next, newEndpoint(e.Addr))
	}
	b.endpoints.Store(&next)
	for _, gone := range have {
		gone.retire()
	}
	if len(have) > 0 && b.std != nil {
		b.std.CloseIdleConnections()
	}
}

// choose is the endpoint for a try: the one the session or the client sticks to, else the next one that is not known to be down.
func (b *backend) choose(sticky string, client netip.Addr, tries int) *endpoint {
	list := *b.endpoints.Load()
	if len(list) == 0 {
		return nil
	}
	now := time.Now().UnixNano()
	if sticky != "" && tries == 0 {
		for _, e := range list {
			if e.id == sticky && e.up(now) {
				return e
			}
		}
	}
	if b.conf.HashClient && tries == 0 {
		return rendezvous(list, client, now)
	}
	n := int(b.turn.Add(1))
	for i := range list {
		if e := list[(n+i)%len(list)]; e.up(now) {
			return e
		}
	}
	return list[n%len(list)]
}

// rendezvous keeps a client on its endpoint while that one is there.
func rendezvous(list []*endpoint, client netip.Addr, now int64) *endpoint {
	var best *endpoint
	var top uint64
	for _, e := range list {
		h := fnv.New64a()
		_, _ = h.Write(client.AsSlice())
		_, _ = h.Write([]byte(e.id))
		v := h.Sum64()
		v ^= v >> 33
		v *= 0xff51afd7ed558ccd
		v ^= v >> 33
		if e.up(now) && (best == nil || v > top) {
			best, top = e, v
		}
	}
	if best == nil {
		return list[0]
	}
	return best
}

func endpointID(a netip.AddrPort) string {
	h := fnv.New64a()
	_, _ = h.Write([]byte("skiff " + a.String()))
	return strconv.FormatUint(h.Sum64(), 36)
}

// newTransport speaks HTTP/2 without TLS, or TLS with whichever version the endpoint offers.
func newTransport(conf Backend) *http.Transport {
	protocols := new(http.Protocols)
	t := &http.Transport{
		Protocols: protocols, MaxIdleConnsPerHost: maxIdle, IdleConnTimeout: idleUpstream, DisableCompression: true,
		TLSHandshakeTimeout: handshakeTimeout,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			timeout := connectTimeout
			if d, ok := ctx.Value(connectKey{}).(time.Duration); ok && d > 0 {
				timeout = d
			}
			n, err := (&net.Dialer{Timeout: timeout}).DialContext(ctx, network, addr)
			if err != nil {
				return nil, &dialError{err}
			}
			return n, nil
		},
	}
	if conf.TLS == nil {
		protocols.SetUnencryptedHTTP2(true)
		return t
	}
	if conf.Protocol != BackendH2C {
		protocols.SetHTTP1(true)
	}
	protocols.SetHTTP2(true)
	t.TLSClientConfig = clientTLS(conf.TLS)
	return t
}

// connectKey carries Timeouts.Connect to a transport that serves several routes.
type connectKey struct{}

var errNoName = errors.New("the endpoint's certificate is for none of the names asked for")

func clientTLS(t *BackendTLS) *tls.Config {
	conf := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName, RootCAs: t.RootCAs, InsecureSkipVerify: t.Insecure}
	if t.Certificate != nil {
		conf.Certificates = []tls.Certificate{*t.Certificate}
	}
	if t.Insecure || len(t.SubjectAltNames) == 0 {
		return conf
	}
	// The chain is verified here and the names are compared with those asked for: crypto/tls would insist on the SNI.
	conf.InsecureSkipVerify = true
	conf.VerifyConnection = func(cs tls.ConnectionState) error {
		return verifyNames(cs.PeerCertificates, t)
	}
	return conf
}

func verifyNames(chain []*x509.Certificate, t *BackendTLS) error {
	if len(chain) == 0 {
		return errNoName
	}
	opts := x509.VerifyOptions{Roots: t.RootCAs, Intermediates: x509.NewCertPool()}
	for _, c := range chain[1:] {
		opts.Intermediates.AddCert(c)
	}
	if _, err := chain[0].Verify(opts); err != nil {
		return fmt.Errorf("verify the endpoint's certificate: %w", err)
	}
	for _, name := range t.SubjectAltNames {
		if chain[0].VerifyHostname(name) == nil {
			return nil
		}
		for _, u := range chain[0].URIs {
			if u.String() == name {
				return nil
			}
		}
	}
	return errNoName
}

// dialError is a connection that was not made: nothing was sent.
type dialError struct{ err error }

func (e *dialError) Error() string { return e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }
