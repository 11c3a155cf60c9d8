package dns

import (
	"context"
	"log/slog"
	"time"

	authv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"skiff/internal/backoff"
	"skiff/internal/pause"
)

// agentsGroup is the group of the nodes' own identities, see manifests/rbac.yaml.
const agentsGroup = "skiff:agents"

// client talks to the API with the node's identity.
type client struct{ kubernetes.Interface }

func newClient(kubeconfig string) (*client, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	c, err := kubernetes.NewForConfig(withProtobuf(cfg))
	if err != nil {
		return nil, err
	}
	return &client{c}, nil
}

// waitAllowed waits until the API answers and lets us watch what CoreDNS needs,
// or ctx ends. Informers that start earlier would be refused and then wait
// out their own growing back-off, which at first start costs seconds.
func (c *client) waitAllowed(ctx context.Context) {
	review := &authv1.SelfSubjectAccessReview{Spec: authv1.SelfSubjectAccessReviewSpec{
		ResourceAttributes: &authv1.ResourceAttributes{Verb: "watch", Group: "discovery.k8s.io", Resource: "endpointslices"},
	}}
	pauses := backoff.Sequence{Min: 50 * time.Millisecond, Max: 400 * time.Millisecond}
	for {
		r, err := c.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
		if err == nil && r.Status.Allowed {
			return
		}
		if pauses.Wait(ctx) != nil {
			return
		}
	}
}

// retryUntil calls fn with growing pauses until it succeeds or ctx ends.
func retryUntil(ctx context.Context, logger *slog.Logger, what string, fn func(context.Context) error) error {
	pauses := backoff.Sequence{Min: 100 * time.Millisecond, Max: 30 * time.Second}
	for {
		err := fn(ctx)
		if err == nil {
			return nil
		}
		next := pauses.Next()
		logger.Debug("will try again", "what", what, "in", next, "error", err)
		if !pause.For(ctx, next) {
			return context.Cause(ctx)
		}
	}
}
