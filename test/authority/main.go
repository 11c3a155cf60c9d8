// Command authority is Pebble, the server that Let's Encrypt tests its clients
// with, and a name server of its own that leads every name under .test to one
// address. Tests run it inside of a host:
//
//	authority ADDRESS DIR
//
// It serves https://127.0.0.1:14000/dir, checks names on port 80 of ADDRESS, and
// writes its own certificate to DIR/ca.pem when it is ready.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
	"github.com/miekg/dns"
)

const listen = "127.0.0.1:14000"

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: authority ADDRESS DIR")
	}
	if err := run(net.ParseIP(os.Args[1]), os.Args[2]); err != nil {
		log.Fatal("authority: ", err)
	}
}

func run(address net.IP, dir string) error {
	names, err := serveNames(address)
	if err != nil {
		return err
	}
	// Pebble waits between steps on purpose; a test need not.
	if err := os.Setenv("PEBBLE_VA_NOSLEEP", "1"); err != nil {
		return err
	}
	store, quiet := db.NewMemoryStore(), log.New(io.Discard, "", 0)
	authority := ca.New(quiet, store, "", "ecdsa", 0, 1, map[string]ca.Profile{"default": {Description: "for tests", ValidityPeriod: 3600}})
	validation := va.New(quiet, 80, 0, false, names, store)
	front := wfe.New(quiet, store, validation, authority, nil, false, false, 1, 1)
	pair, chain, err := certificate()
	if err != nil {
		return err
	}
	l, err := tls.Listen("tcp", listen, &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12})
	if err != nil {
		return err
	}
	temporary := filepath.Join(dir, "ca.new")
	if err := os.WriteFile(temporary, chain, 0o644); err != nil {
		return err
	}
	if err := os.Rename(temporary, filepath.Join(dir, "ca.pem")); err != nil {
		return err
	}
	return (&http.Server{Handler: front.Handler(), ReadHeaderTimeout: 10 * time.Second}).Serve(l)
}

// serveNames starts the name server and returns where it is. Pebble asks by TCP.
func serveNames(address net.IP) (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	server := &dns.Server{Listener: l, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		name := q.Question[0].Name
		switch {
		case !strings.HasSuffix(name, ".test."):
			m.Rcode = dns.RcodeNameError
		case q.Question[0].Qtype == dns.TypeA:
			m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: address}}
		}
		_ = w.WriteMsg(m)
	})}
	go func() { _ = server.ActivateAndServe() }()
	return l.Addr().String(), nil
}

// certificate is of the authority's own web server.
func certificate() (tls.Certificate, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, nil, fmt.Errorf("sign: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}
