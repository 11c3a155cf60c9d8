package ingress

import (
	"context"
	"crypto"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"

	"skiff/internal/signal"
	"skiff/pkg/agent/ingress/acme"
	"skiff/pkg/agent/ingress/catalog"
	"skiff/pkg/agent/ingress/rules"
	"skiff/pkg/pki"
)

const (
	// accountSecret keeps the key of the account at the authority.
	accountSecret = "skiff-ingress-acme"
	accountKey    = "account.key"

	// firstPause and longestPause are between two tries for one certificate.
	firstPause   = time.Minute
	longestPause = 6 * time.Hour
	// settle is how long a Secret that was written may take to be seen.
	settle = 10 * time.Second
)

// issuing gets the certificates that Ingresses want from an ACME authority, one
// after the other, and renews them.
type issuing struct {
	client  kubernetes.Interface
	logger  *slog.Logger
	changed func()
	due     signal.Signal
	reach   *reach

	mu       sync.Mutex
	queue    []order                          // guarded by mu; what is due, first to last
	current  types.NamespacedName             // guarded by mu; what is being got
	settings acmeSettings                     // guarded by mu
	later    map[types.NamespacedName]retryAt // guarded by mu; when to look at a Secret again
	issuer   *acme.Issuer                     // guarded by mu; nil until the first order
	made     acmeSettings                     // guarded by mu; what issuer was made of
	parsed   catalog.Certificates             // guarded by mu
}

// order is a certificate that is due.
type order struct {
	rules.Want
	events record.EventRecorder
}

// retryAt is when to try again.
type retryAt struct {
	pause time.Duration
	until time.Time
}

func newIssuing(client kubernetes.Interface, logger *slog.Logger, changed func()) *issuing {
	return &issuing{
		client: client, logger: logger, changed: changed, due: signal.New(),
		reach: newReach(), later: make(map[types.NamespacedName]retryAt),
	}
}

// challenge answers the authority.
func (s *issuing) challenge(host, token string) (string, bool) {
	if token == s.reach.token {
		return token, true
	}
	s.mu.Lock()
	issuer := s.issuer
	s.mu.Unlock()
	if issuer == nil {
		return "", false
	}
	return issuer.Challenge(host, token)
}

// want says what certificates there should be. It returns after what time to ask
// again, or 0.
func (s *issuing) want(a acmeSettings, wants []rules.Want, secret func(namespace, name string) *corev1.Secret, events record.EventRecorder) (next time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	sooner := func(at time.Time) {
		if in := max(time.Second, at.Sub(now)); next == 0 || in < next {
			next = in
		}
	}
	s.settings, s.queue = a, nil
	for _, w := range wants {
		if w.Secret == s.current {
			continue // what comes of it is looked at when it has ended
		}
		have := secret(w.Secret.Namespace, w.Secret.Name)
		if have != nil && have.Labels[managedByLabel] != managedBy {
			continue // the user has brought his own
		}
		if have != nil {
			if at := s.goodUntil(have, w.Hosts); at.After(now) {
				sooner(at)
				continue
			}
		}
		if f := s.later[w.Secret]; f.until.After(now) {
			sooner(f.until)
			continue
		}
		s.queue = append(s.queue, order{w, events})
	}
	if len(s.queue) > 0 {
		s.due.Send()
	}
	return next
}

// goodUntil is when a certificate should be replaced; the zero time if it is not
// one of these hosts. The caller holds mu.
func (s *issuing) goodUntil(secret *corev1.Secret, hosts []string) time.Time {
	found, err := s.parsed.Of(secret)
	if err != nil {
		return time.Time{}
	}
	for _, h := range hosts {
		if found.Leaf.VerifyHostname(h) != nil {
			return time.Time{}
		}
	}
	return acme.RenewAt(found.Leaf)
}

// run gets what is due until ctx ends.
func (s *issuing) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.due:
		}
		for ctx.Err() == nil {
			s.mu.Lock()
			if len(s.queue) == 0 {
				s.mu.Unlock()
				break
			}
			o, a := s.queue[0], s.settings
			s.queue = s.queue[1:]
			s.current = o.Secret
			s.mu.Unlock()
			s.one(ctx, o, a)
		}
	}
}

// one gets one certificate and says how it went.
func (s *issuing) one(ctx context.Context, o order, a acmeSettings) {
	names := strings.Join(o.Hosts, ", ")
	if !s.reach.wait(ctx) && ctx.Err() == nil {
		s.logger.Warn("port 80 of this node does not answer; asking for a certificate all the same", "hosts", names, "waited", reachPatience)
	}
	s.logger.Info("asking for a certificate", "hosts", names, "secret", o.Secret)
	err := s.obtain(ctx, o, a)
	if ctx.Err() != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current = types.NamespacedName{}
	defer s.changed()
	if err == nil {
		s.later[o.Secret] = retryAt{until: time.Now().Add(settle)}
		o.events.Eventf(o.Ingress, corev1.EventTypeNormal, "CertificateIssued", "got a certificate for %s, it is in Secret %s", names, o.Secret)
		return
	}
	f := s.later[o.Secret]
	f.pause = min(longestPause, max(firstPause, 2*f.pause, acme.RetryAfter(err)))
	f.until = time.Now().Add(f.pause)
	s.later[o.Secret] = f
	o.events.Eventf(o.Ingress, corev1.EventTypeWarning, "CertificateFailed", "%v; trying again in %s", err, f.pause)
	s.logger.Warn("no certificate for an Ingress", "hosts", names, "error", err, "again", f.pause)
}

func (s *issuing) obtain(ctx context.Context, o order, a acmeSettings) error {
	issuer, err := s.open(ctx, a)
	if err != nil {
		return err
	}
	key, keyPEM, err := pki.NewKey()
	if err != nil {
		return err
	}
	chain, err := issuer.Obtain(ctx, key, o.Hosts)
	if err != nil {
		return err
	}
	api := s.client.CoreV1().Secrets(o.Secret.Namespace)
	data := map[string][]byte{corev1.TLSCertKey: chain, corev1.TLSPrivateKeyKey: keyPEM}
	_, err = api.Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: o.Secret.Name, Namespace: o.Secret.Namespace, Labels: labels()}, Type: corev1.SecretTypeTLS, Data: data,
	}, metav1.CreateOptions{})
	if !apierrors.IsAlreadyExists(err) {
		return err
	}
	have, err := api.Get(ctx, o.Secret.Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	have.Data = data
	_, err = api.Update(ctx, have, metav1.UpdateOptions{})
	return err
}

// open returns the issuer of these settings. The account's key is made with the
// first order and kept.
func (s *issuing) open(ctx context.Context, a acmeSettings) (*acme.Issuer, error) {
	s.mu.Lock()
	issuer, made := s.issuer, s.made
	s.mu.Unlock()
	if issuer != nil && made.directory == a.directory && made.email == a.email && made.ca == a.ca {
		return issuer, nil
	}
	account, err := s.account(ctx)
	if err != nil {
		return nil, fmt.Errorf("get the account's key: %w", err)
	}
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{RootCAs: a.roots, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true}
	issuer = acme.New(acme.Options{
		Directory: a.directory, Email: a.email, Account: account, Logger: s.logger,
		HTTP: &http.Client{Transport: transport, Timeout: time.Minute},
	})
	s.mu.Lock()
	s.issuer, s.made = issuer, a
	s.mu.Unlock()
	return issuer, nil
}

func (s *issuing) account(ctx context.Context) (crypto.Signer, error) {
	api := s.client.CoreV1().Secrets(namespace)
	have, err := api.Get(ctx, accountSecret, metav1.GetOptions{})
	if err == nil {
		return pki.ParseKey(have.Data[accountKey])
	}
	if !apierrors.IsNotFound(err) {
		return nil, err
	}
	key, keyPEM, err := pki.NewKey()
	if err != nil {
		return nil, err
	}
	_, err = api.Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: accountSecret, Namespace: namespace, Labels: labels()}, Data: map[string][]byte{accountKey: keyPEM},
	}, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	return key, nil
}
