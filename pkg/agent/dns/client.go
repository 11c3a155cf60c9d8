package dns

import (
	"context"
	"log/slog"
	"time"

	authv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
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
	for pause := 50 * time.Millisecond; ctx.Err() == nil; pause = min(2*pause, 400*time.Millisecond) {
		r, err := c.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
		if err == nil && r.Status.Allowed {
			return
		}
		wait(ctx, pause)
	}
}

// retryUntil calls fn with growing pauses until it succeeds or ctx ends.
func retryUntil(ctx context.Context, logger *slog.Logger, what string, fn func(context.Context) error) error {
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 30*time.Second) {
		err := fn(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		logger.Debug("will try again", "what", what, "in", pause, "error", err)
		wait(ctx, pause)
	}
}
