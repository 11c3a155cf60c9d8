// Package bootstrap keeps bootstrap tokens: secrets for a time, by which agents
// join, in the form that kubeadm and K3s have given them (Secrets of type
// bootstrap.kubernetes.io/token in kube-system). Start reading at Options.
package bootstrap

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"skiff/pkg/join"
	"skiff/pkg/token"
)

// Names of upstream, k8s.io/cluster-bootstrap/token/api.
const (
	SecretType = corev1.SecretTypeBootstrapToken

	prefix         = "bootstrap-token-"
	keyID          = "token-id"
	keySecret      = "token-secret"
	keyExpires     = "expiration"
	keyDescription = "description"
	keyGroups      = "auth-extra-groups"
	keyUsage       = "usage-bootstrap-" // and a usage
)

// DefaultGroup is that of tokens made here.
const DefaultGroup = "system:bootstrappers:skiff:default-node-token"

// Usages a token may have. Only with the first one it lets agents join.
const (
	UsageAuthentication = "authentication"
	UsageSigning        = "signing"
)

// Options are what a token is made with, and what List tells.
type Options struct {
	Token       token.Token // without pin
	Description string
	Groups      []string
	Usages      []string
	Expires     time.Time // zero: never
}

var groupForm = regexp.MustCompile(`\Asystem:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]\z`)

// Check says what is wrong with o, by the names of the flags.
func (o Options) Check() error {
	var errs []error
	if !o.Token.Bootstrap() {
		errs = append(errs, errors.New("invalid token: want six characters, a dot and sixteen characters of a-z and 0-9, as abcdef.0123456789abcdef"))
	}
	for _, g := range o.Groups {
		if !groupForm.MatchString(g) {
			errs = append(errs, fmt.Errorf("invalid --groups %q: want a name that begins with system:bootstrappers: and goes on with a-z, 0-9, ':' and '-'", g))
		}
	}
	for _, u := range o.Usages {
		if u != UsageAuthentication && u != UsageSigning {
			errs = append(errs, fmt.Errorf("invalid --usages %q: want %s or %s", u, UsageAuthentication, UsageSigning))
		}
	}
	if len(o.Usages) == 0 {
		errs = append(errs, errors.New("invalid --usages: want at least one"))
	}
	return errors.Join(errs...)
}

// Create keeps a new token.
func Create(ctx context.Context, client kubernetes.Interface, o Options) error {
	if err := o.Check(); err != nil {
		return err
	}
	id, secret, _ := strings.Cut(o.Token.Secret.Reveal(), ".")
	data := map[string]string{keyID: id, keySecret: secret}
	if o.Description != "" {
		data[keyDescription] = o.Description
	}
	if len(o.Groups) > 0 {
		data[keyGroups] = strings.Join(o.Groups, ",")
	}
	if !o.Expires.IsZero() {
		data[keyExpires] = o.Expires.UTC().Format(time.RFC3339)
	}
	for _, u := range o.Usages {
		data[keyUsage+u] = "true"
	}
	_, err := client.CoreV1().Secrets(metav1.NamespaceSystem).Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: prefix + id, Namespace: metav1.NamespaceSystem}, Type: SecretType, StringData: data,
	}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create bootstrap token: there is one with the id %s already; `skiff token delete %s` removes it", id, id)
	}
	if err != nil {
		return fmt.Errorf("create bootstrap token: %w", err)
	}
	return nil
}

// List returns the tokens, soonest to expire first.
func List(ctx context.Context, client kubernetes.Interface) ([]Options, error) {
	list, err := client.CoreV1().Secrets(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{FieldSelector: "type=" + string(SecretType)})
	if err != nil {
		return nil, fmt.Errorf("list bootstrap tokens: %w", err)
	}
	var out []Options
	for _, s := range list.Items {
		if o, err := read(&s); err == nil {
			out = append(out, o)
		}
	}
	slices.SortFunc(out, func(a, b Options) int {
		if never := a.Expires.IsZero(); never != b.Expires.IsZero() {
			if never {
				return 1
			}
			return -1
		}
		if c := a.Expires.Compare(b.Expires); c != 0 {
			return c
		}
		return strings.Compare(a.Token.ID(), b.Token.ID())
	})
	return out, nil
}

var errNoToken = errors.New("is not a bootstrap token")

func read(s *corev1.Secret) (Options, error) {
	at := func(key string) string { return string(s.Data[key]) }
	o := Options{Token: token.Token{Secret: token.Secret(at(keyID) + "." + at(keySecret))}, Description: at(keyDescription)}
	if s.Type != SecretType || s.Name != prefix+at(keyID) || !o.Token.Bootstrap() {
		return o, fmt.Errorf("secret %s %w", s.Name, errNoToken)
	}
	if groups := at(keyGroups); groups != "" {
		o.Groups = strings.Split(groups, ",")
	}
	for key, value := range s.Data {
		if usage, ok := strings.CutPrefix(key, keyUsage); ok && string(value) == "true" {
			o.Usages = append(o.Usages, usage)
		}
	}
	slices.Sort(o.Usages)
	if expires := at(keyExpires); expires != "" {
		t, err := time.Parse(time.RFC3339, expires)
		if err != nil {
			return o, fmt.Errorf("secret %s %w: %w", s.Name, errNoToken, err)
		}
		o.Expires = t
	}
	return o, nil
}

// Delete removes the token with an id. It reports whether there was one.
func Delete(ctx context.Context, client kubernetes.Interface, id string) (bool, error) {
	secrets := client.CoreV1().Secrets(metav1.NamespaceSystem)
	err := secrets.Delete(ctx, prefix+id, metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("delete bootstrap token %s: %w", id, err)
	}
	return true, nil
}

// Verifier tells which bootstrap tokens let agents join.
type Verifier struct {
	// Client reaches the API; it returns nil while there is none.
	Client func() kubernetes.Interface
	Now    func() time.Time
}

var _ join.Bootstrap = (*Verifier)(nil)

// patience bounds what a joining node waits for the API.
const patience = 5 * time.Second

// Verify implements join.Bootstrap.
func (v *Verifier) Verify(ctx context.Context, t token.Token) error {
	client := v.Client()
	if client == nil {
		return join.Refuse(join.CodeStarting, "the Kubernetes API of the server is starting, and bootstrap tokens are kept there")
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	const makeOne = "make another on the server with `skiff token create`"
	s, err := client.CoreV1().Secrets(metav1.NamespaceSystem).Get(ctx, prefix+t.ID(), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return join.Refuse(join.CodeBootstrap, "bootstrap token %s is not known: it never was one of this cluster, or it has expired or was deleted; %s", t.ID(), makeOne)
	}
	if err != nil {
		return join.Refuse(join.CodeStarting, "bootstrap tokens cannot be read from the Kubernetes API at this moment: %w", err)
	}
	o, err := read(s)
	if err != nil || subtle.ConstantTimeCompare([]byte(o.Token.Secret), []byte(t.Secret)) != 1 {
		// As above: who does not know the secret learns nothing of the id.
		return join.Refuse(join.CodeBootstrap, "bootstrap token %s is not known: it never was one of this cluster, or it has expired or was deleted; %s", t.ID(), makeOne)
	}
	if !o.Expires.IsZero() && !v.Now().Before(o.Expires) {
		return join.Refuse(join.CodeBootstrap, "bootstrap token %s has expired at %s; %s", t.ID(), o.Expires.UTC().Format(time.RFC3339), makeOne)
	}
	if !slices.Contains(o.Usages, UsageAuthentication) {
		return join.Refuse(join.CodeBootstrap, "bootstrap token %s is not for joining, its usages are %s; %s", t.ID(), strings.Join(o.Usages, ", "), makeOne)
	}
	return nil
}
