package ingress

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/pkg/pki"
)

const (
	// defaultSecret keeps the certificate for names that nobody has brought one
	// for. A user may put his own there.
	defaultSecret = "skiff-ingress-default"
	// defaultLife is long: nobody verifies it, and nobody should have to think of it.
	defaultLife = 10 * 365 * 24 * time.Hour
	// defaultRest is how much of it may be left when it is made anew.
	defaultRest = 365 * 24 * time.Hour
)

// certificate is the default one.
type certificate struct{ tls *tls.Certificate }

// defaultCertificate finds the default certificate, and makes one if there is
// none or ours is about to end. It returns nil while the user's is missing.
func (c *controller) defaultCertificate(ctx context.Context, s settings) (*certificate, error) {
	if key := s.certificate; key.Name != "" {
		if secret := c.refs.secret(key.Namespace, key.Name); secret != nil {
			found, err := c.certificates.Of(secret)
			if err == nil {
				return &certificate{found}, nil
			}
			c.Logger.Warn("the default certificate cannot be used, showing our own", "secret", key, "error", err)
		}
	}
	secret := c.refs.secret(namespace, defaultSecret)
	select {
	case <-c.refs.byKey[refKey{"secrets", namespace, defaultSecret}].known:
	default:
		return nil, nil // it is being looked for
	}
	if secret != nil {
		found, err := c.certificates.Of(secret)
		if err == nil && (secret.Labels[managedByLabel] != managedBy || time.Until(found.Leaf.NotAfter) > defaultRest) {
			return &certificate{found}, nil
		}
		if secret.Labels[managedByLabel] != managedBy {
			return nil, fmt.Errorf("use the default certificate: %w", err)
		}
	}
	made, err := c.makeDefault(ctx, secret)
	if err != nil {
		return nil, err
	}
	found, err := c.certificates.Of(made)
	if err != nil {
		return nil, fmt.Errorf("read the default certificate: %w", err)
	}
	return &certificate{found}, nil
}

// makeDefault writes a new self-signed certificate to its Secret.
func (c *controller) makeDefault(ctx context.Context, old *corev1.Secret) (*corev1.Secret, error) {
	chain, key, err := selfSigned(time.Now(), "skiff default certificate", c.NodeName)
	if err != nil {
		return nil, fmt.Errorf("make the default certificate: %w", err)
	}
	api := c.client.CoreV1().Secrets(namespace)
	data := map[string][]byte{corev1.TLSCertKey: chain, corev1.TLSPrivateKeyKey: key}
	if old != nil {
		next := old.DeepCopy()
		next.Data = data
		made, err := api.Update(ctx, next, metav1.UpdateOptions{})
		if err != nil {
			return nil, fmt.Errorf("renew Secret %s/%s: %w", namespace, defaultSecret, err)
		}
		return made, nil
	}
	made, err := api.Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: defaultSecret, Namespace: namespace, Labels: labels()}, Type: corev1.SecretTypeTLS, Data: data,
	}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		// Another server was faster.
		made, err = api.Get(ctx, defaultSecret, metav1.GetOptions{})
	}
	if err != nil {
		return nil, fmt.Errorf("write Secret %s/%s: %w", namespace, defaultSecret, err)
	}
	return made, nil
}

// selfSigned makes a certificate that nobody vouches for.
func selfSigned(now time.Time, name string, hosts ...string) (chain, keyPEM []byte, err error) {
	key, keyPEM, err := pki.NewKey()
	if err != nil {
		return nil, nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, nil, fmt.Errorf("make serial number: %w", err)
	}
	// A clock that has been set back must not make it invalid.
	from := now
	if floor := pki.BuildFloor(); floor.Before(from) {
		from = floor
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, DNSNames: hosts, NotBefore: from, NotAfter: now.Add(defaultLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, nil, fmt.Errorf("sign it: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), keyPEM, nil
}
