// Package password keeps in the cluster which machine has which node name: the
// hash of a node's password in a Secret, and what its hardware calls itself. It
// does not know how the password travels. Start reading at Keeper.Claim.
package password

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"skiff/pkg/join"
)

// SecretType is that of the Secrets.
const SecretType = "skiff.dev/node-password"

// Keys of a Secret.
const (
	keyHash    = "hash"
	keyMachine = "machine"
)

const suffix = ".node-password.skiff"

// Times.
const (
	// goneAfter is how long a node must have been away before the same machine
	// may have its name with another password.
	goneAfter = 5 * time.Minute
	// strayAfter is how long a password is kept for a node that never came.
	strayAfter = 24 * time.Hour
	// patience bounds what a joining node waits for the API.
	patience = 5 * time.Second
)

// SecretName is the name of a node's Secret in kube-system.
func SecretName(node string) string { return node + suffix }

// Keeper decides who has a name.
type Keeper struct {
	// Client reaches the API; it returns nil while there is none.
	Client func() kubernetes.Interface
	Now    func() time.Time
	Logger *slog.Logger

	// hashing bounds what joining nodes can make the server compute at once.
	hashing chan struct{}
}

var _ join.Names = (*Keeper)(nil)

// New returns a Keeper.
func New(client func() kubernetes.Interface, now func() time.Time, logger *slog.Logger) *Keeper {
	return &Keeper{Client: client, Now: now, Logger: logger, hashing: make(chan struct{}, 1)}
}

// Claim implements join.Names. The first machine has the name; after that it
// is for who knows the password.
func (k *Keeper) Claim(ctx context.Context, c join.Claim) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return k.Keep(ctx, c)
}

// Keep is Claim for the server's own node, which nobody waits for: a slow machine
// may take longer to compute a hash than a joining node would wait.
func (k *Keeper) Keep(ctx context.Context, c join.Claim) error {
	client := k.Client()
	if client == nil {
		return join.Refuse(join.CodeStarting, "the Kubernetes API of the server is starting, and node passwords are kept there")
	}
	for range 3 { // Two machines may come at once.
		s, err := client.CoreV1().Secrets(metav1.NamespaceSystem).Get(ctx, SecretName(c.Node), metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err) && (c.New || c.Proven):
			err = k.create(ctx, client, c)
		case apierrors.IsNotFound(err):
			return join.Refuse(join.CodeUnknown, "the certificate of node %q has expired, and the cluster has forgotten the node; start it with a token", c.Node)
		case err == nil && c.Proven:
			return nil
		case err == nil:
			err = k.compare(ctx, client, s, c)
		}
		if apierrors.IsAlreadyExists(err) || apierrors.IsConflict(err) {
			continue
		}
		return unavailable(err)
	}
	return join.Refuse(join.CodeStarting, "the password of node %q was changed by others meanwhile", c.Node)
}

// unavailable makes of an error of the API one that asks to come back.
func unavailable(err error) error {
	if err == nil || join.CodeOf(err) != join.CodeInternal || errors.Is(err, errHash) {
		return err
	}
	return join.Refuse(join.CodeStarting, "node passwords cannot be read from the Kubernetes API at this moment: %w", err)
}

func (k *Keeper) create(ctx context.Context, client kubernetes.Interface, c join.Claim) error {
	var text string
	err := k.compute(ctx, func() (err error) {
		text, err = hash(c.Password)
		return err
	})
	if err != nil {
		return err
	}
	immutable := true
	_, err = client.CoreV1().Secrets(metav1.NamespaceSystem).Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: SecretName(c.Node), Namespace: metav1.NamespaceSystem},
		Type:       SecretType,
		Immutable:  &immutable,
		Data:       map[string][]byte{keyHash: []byte(text), keyMachine: []byte(c.Machine)},
	}, metav1.CreateOptions{})
	if err == nil {
		k.Logger.Info("node name is taken", "node", c.Node)
	}
	return err
}

// compute runs fn when its turn has come.
func (k *Keeper) compute(ctx context.Context, fn func() error) error {
	select {
	case k.hashing <- struct{}{}:
		defer func() { <-k.hashing }()
		return fn()
	case <-ctx.Done():
		return join.Refuse(join.CodeBusy, "the server verifies many node passwords; try again")
	}
}

func (k *Keeper) compare(ctx context.Context, client kubernetes.Interface, s *corev1.Secret, c join.Claim) error {
	var same bool
	err := k.compute(ctx, func() (err error) {
		same, err = matches(string(s.Data[keyHash]), c.Password)
		return err
	})
	if err != nil {
		return fmt.Errorf("secret %s/%s: %w; `skiff node forget %s` on the server removes it", s.Namespace, s.Name, err, c.Node)
	}
	if same {
		return nil
	}
	reinstalled := c.New && c.Machine != "" && c.Machine == string(s.Data[keyMachine])
	if !reinstalled {
		return taken(c.Node, "")
	}
	wait, err := k.gone(ctx, client, c.Node)
	if err != nil {
		return err
	}
	if wait > 0 {
		return taken(c.Node, fmt.Sprintf(" This looks like the same machine: it will be let in by itself when node %s has been away for %s, in about %s.", c.Node, goneAfter, wait.Round(time.Second)))
	}
	if err := k.remove(ctx, client, s); err != nil {
		return err
	}
	k.Logger.Warn("machine was re-installed: its node has a new password", "node", c.Node, "machine", c.Machine)
	return k.create(ctx, client, c)
}

func taken(node, more string) error {
	return join.Refuse(join.CodeName, "node name %q belongs to a machine with another node password. If this is that machine, re-installed: run `skiff node forget %s` on the server.%s If it is another machine: give it another name with --node-name, or start it with --with-node-id", node, node, more)
}

// gone returns how long it takes until the node has been away for long enough.
func (k *Keeper) gone(ctx context.Context, client kubernetes.Interface, node string) (time.Duration, error) {
	n, err := client.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status != corev1.ConditionTrue {
			return max(0, goneAfter-k.Now().Sub(c.LastTransitionTime.Time)), nil
		}
	}
	return goneAfter, nil
}

// remove deletes a Secret as it was read.
func (k *Keeper) remove(ctx context.Context, client kubernetes.Interface, s *corev1.Secret) error {
	err := client.CoreV1().Secrets(s.Namespace).Delete(ctx, s.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(s.UID))})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// Forget makes a name free: the next machine that comes with a token has it.
// It reports whether anybody had it.
func Forget(ctx context.Context, client kubernetes.Interface, node string) (bool, error) {
	err := client.CoreV1().Secrets(metav1.NamespaceSystem).Delete(ctx, SecretName(node), metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("forget the password of node %s: %w", node, err)
	}
	return true, nil
}

// Gone is called when a Node object has been deleted: its name is free.
func (k *Keeper) Gone(ctx context.Context, node string) error {
	client := k.Client()
	if client == nil {
		return errors.New("forget a node's password: the API is not there")
	}
	had, err := Forget(ctx, client, node)
	if had {
		k.Logger.Info("node was deleted, its name is free", "node", node)
	}
	return err
}

// Sweep removes what Gone has missed: passwords without a Node, but not those
// of a node that is joining at this moment.
func (k *Keeper) Sweep(ctx context.Context) error {
	client := k.Client()
	if client == nil {
		return errors.New("look for passwords of deleted nodes: the API is not there")
	}
	list, err := client.CoreV1().Secrets(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{FieldSelector: "type=" + SecretType})
	if err != nil {
		return fmt.Errorf("look for passwords of deleted nodes: %w", err)
	}
	for _, s := range list.Items {
		node, ok := strings.CutSuffix(s.Name, suffix)
		if !ok || s.Type != SecretType || k.Now().Sub(s.CreationTimestamp.Time) < strayAfter {
			continue
		}
		_, err := client.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
		if !apierrors.IsNotFound(err) {
			continue
		}
		if err := k.remove(ctx, client, &s); err != nil {
			return fmt.Errorf("forget the password of deleted node %s: %w", node, err)
		}
		k.Logger.Info("node was deleted, its name is free", "node", node)
	}
	return nil
}
