// Package acme gets certificates from an authority that speaks ACME (RFC 8555,
// for example Let's Encrypt) and checks host names by HTTP-01. It must not know
// where keys and certificates are kept, nor who serves the challenges. Start
// reading at Issuer.Obtain.
package acme

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/acme"
)

// LetsEncrypt is the directory of the authority that is asked unless another
// one is named.
const LetsEncrypt = "https://acme-v02.api.letsencrypt.org/directory"

// patience is how long an authority may take for one certificate.
const patience = 3 * time.Minute

// Options is what New needs.
type Options struct {
	// Directory is the URL of the authority; empty is LetsEncrypt.
	Directory string
	// Email is told the authority, which warns there of certificates that end.
	// It may be empty.
	Email string
	// Account is the key that stands for the account. The account is made with
	// the first certificate.
	Account crypto.Signer
	// HTTP talks to the authority; nil is the default client.
	HTTP   *http.Client
	Logger *slog.Logger
}

// Issuer gets certificates.
type Issuer struct {
	o      Options
	client *acme.Client

	mu         sync.Mutex
	registered bool              // guarded by mu
	answers    map[string]string // guarded by mu; key authorizations, by token
}

// New returns an Issuer that has not talked to anybody.
func New(o Options) *Issuer {
	if o.Directory == "" {
		o.Directory = LetsEncrypt
	}
	return &Issuer{
		o:       o,
		client:  &acme.Client{Key: o.Account, DirectoryURL: o.Directory, HTTPClient: o.HTTP, UserAgent: "skiff"},
		answers: make(map[string]string),
	}
}

// Challenge is the answer to the authority's request for
// /.well-known/acme-challenge/TOKEN on port 80 of a host.
func (i *Issuer) Challenge(_, token string) (answer string, ok bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	answer, ok = i.answers[token]
	return answer, ok
}

// Obtain gets a certificate of the key for the names, none of which may be a
// wildcard: HTTP-01 cannot prove those. It returns the chain as PEM, the leaf
// first. The error is for the one who owns the names.
func (i *Issuer) Obtain(ctx context.Context, key crypto.Signer, names []string) ([]byte, error) {
	for _, name := range names {
		if strings.HasPrefix(name, "*.") {
			return nil, fmt.Errorf("get a certificate for %s: the authority cannot check a wildcard name by HTTP; name each host, or bring a certificate of your own", name)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	chain, err := i.obtain(ctx, key, names)
	if err != nil {
		return nil, fmt.Errorf("get a certificate for %s from %s: %w", strings.Join(names, ", "), i.o.Directory, explain(err))
	}
	return chain, nil
}

func (i *Issuer) obtain(ctx context.Context, key crypto.Signer, names []string) ([]byte, error) {
	if err := i.register(ctx); err != nil {
		return nil, err
	}
	order, err := i.client.AuthorizeOrder(ctx, acme.DomainIDs(names...))
	if err != nil {
		return nil, err
	}
	for _, url := range order.AuthzURLs {
		if err := i.prove(ctx, url); err != nil {
			return nil, err
		}
	}
	ready, err := i.client.WaitOrder(ctx, order.URI)
	if err != nil {
		return nil, err
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: names}, key)
	if err != nil {
		return nil, fmt.Errorf("make signing request: %w", err)
	}
	chain, err := i.finish(ctx, order.URI, ready.FinalizeURL, request)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	for _, der := range chain {
		if err := pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: der}); err != nil {
			return nil, fmt.Errorf("encode certificate: %w", err)
		}
	}
	return out.Bytes(), nil
}

// finish sends the signing request and waits for the certificate. An authority
// that takes its time need not repeat the order's address (RFC 8555, 7.4), which
// the library counts on: so we ask again at the address that we know.
func (i *Issuer) finish(ctx context.Context, order, finalize string, request []byte) ([][]byte, error) {
	chain, _, err := i.client.CreateOrderCert(ctx, finalize, request, true)
	if err == nil {
		return chain, nil
	}
	done, waitErr := i.client.WaitOrder(ctx, order)
	if waitErr != nil || done.CertURL == "" {
		return nil, err
	}
	return i.client.FetchCert(ctx, done.CertURL, true)
}

// register makes the account, or finds the one that the key has already.
func (i *Issuer) register(ctx context.Context) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.registered {
		return nil
	}
	account := &acme.Account{}
	if i.o.Email != "" {
		account.Contact = []string{"mailto:" + i.o.Email}
	}
	_, err := i.client.Register(ctx, account, acme.AcceptTOS)
	if err != nil && !errors.Is(err, acme.ErrAccountAlreadyExists) {
		return fmt.Errorf("register with the authority: %w", err)
	}
	i.registered = true
	return nil
}

// prove shows the authority that a name leads here.
func (i *Issuer) prove(ctx context.Context, url string) error {
	authz, err := i.client.GetAuthorization(ctx, url)
	if err != nil {
		return err
	}
	if authz.Status == acme.StatusValid {
		return nil
	}
	var challenge *acme.Challenge
	for _, c := range authz.Challenges {
		if c.Type == "http-01" {
			challenge = c
		}
	}
	if challenge == nil {
		return fmt.Errorf("the authority offers no HTTP-01 challenge for %s", authz.Identifier.Value)
	}
	answer, err := i.client.HTTP01ChallengeResponse(challenge.Token)
	if err != nil {
		return err
	}
	i.set(challenge.Token, answer)
	defer i.set(challenge.Token, "")
	if _, err := i.client.Accept(ctx, challenge); err != nil {
		return err
	}
	if _, err = i.client.WaitAuthorization(ctx, authz.URI); err != nil {
		return err
	}
	i.o.Logger.Info("host name proved to the authority", "host", authz.Identifier.Value)
	return nil
}

// set keeps the answer to a challenge, or forgets it if it is empty.
func (i *Issuer) set(token, answer string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if answer == "" {
		delete(i.answers, token)
		return
	}
	i.answers[token] = answer
}
