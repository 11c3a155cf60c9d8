// Package controllers runs kube-controller-manager inside the process, with
// typed options and as the API server's own identity. It has no port of its
// own. It must not know what else runs here. Start reading at
// Controllers.Run.
package controllers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/kubernetes/cmd/kube-controller-manager/app"
	kcmconfig "k8s.io/kubernetes/cmd/kube-controller-manager/app/config"

	"skiff/pkg/component"
	"skiff/pkg/config"
)

const (
	name = "kube-controller-manager"
	// extraArgs is the option that users pass arguments through with.
	extraArgs = "kube-controller-manager-arg"
)

// Options is what New needs.
type Options struct {
	Config config.Completed
	// Loopback is the API server's configuration for its own clients; it is
	// called when Run starts.
	Loopback func() *rest.Config
	Logger   *slog.Logger
}

// Controllers is kube-controller-manager as a component.
type Controllers struct {
	Options

	built    chan struct{} // closed when all controllers are built
	policies bool          // policyStatus is wanted; set by configure
}

var (
	_ component.Component = (*Controllers)(nil)
	_ component.Readier   = (*Controllers)(nil)
)

// New returns the component.
func New(o Options) *Controllers { return &Controllers{Options: o, built: make(chan struct{})} }

// Name implements component.Component.
func (c *Controllers) Name() string { return name }

// Ready implements component.Readier. It is nil once every controller has been
// put together, which is when the kubelet may start: see docs/adr on the CSI
// plug-in's package variables.
func (c *Controllers) Ready(context.Context) error {
	select {
	case <-c.built:
		return nil
	default:
		return errors.New("controllers are being put together")
	}
}

// Run implements component.Component. The controller manager cannot be started
// twice in one process.
func (c *Controllers) Run(ctx context.Context) error {
	cfg, err := c.configure(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	late := make(chan error, 1)
	go func() {
		err := c.late(ctx, cfg)
		if err != nil {
			cancel()
		}
		late <- err
	}()
	if err := app.Run(ctx, cfg.Complete()); err != nil {
		err = fmt.Errorf("run %s: %w", name, err)
		cancel()
		return errors.Join(err, <-late)
	}
	cancel()
	return <-late
}

// late runs what the controller manager would start at once although hardly
// anybody needs it.
func (c *Controllers) late(ctx context.Context, cfg *kcmconfig.Config) error {
	if !c.policies {
		return nil
	}
	return policyStatus{
		config:  c.Loopback(),
		workers: int(cfg.ComponentConfig.ValidatingAdmissionPolicyStatusController.ConcurrentPolicySyncs),
		logger:  c.Logger,
	}.run(ctx)
}

func (c *Controllers) configure(ctx context.Context) (*kcmconfig.Config, error) {
	loopback := c.Loopback()
	if loopback == nil {
		return nil, errors.New("start " + name + ": kube-apiserver has not been built yet")
	}
	o, err := c.options(loopback)
	if err != nil {
		return nil, err
	}
	o.Generic.Controllers, c.policies = postpone(o.Generic.Controllers)
	cfg, err := o.Config(ctx, app.KnownControllers(), app.ControllersDisabledByDefault(), app.ControllerAliases())
	if err != nil {
		return nil, fmt.Errorf("configure %s: %w", name, err)
	}
	// Config can only make a client from a file; this one has the identity.
	cfg.Kubeconfig = rest.AddUserAgent(loopback, name)
	cfg.Kubeconfig.Wrap(c.observe())
	cfg.Client, err = kubernetes.NewForConfig(cfg.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("make client of %s: %w", name, err)
	}
	return cfg, nil
}

// observe returns a wrapper of the controllers' transport that notices when
// they are built. The controller manager has no hook for it, but starts its
// shared informers only then, and so their first read is the sign.
func (c *Controllers) observe() func(http.RoundTripper) http.RoundTripper {
	var once sync.Once
	return func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			if isInformer(r) {
				once.Do(func() { close(c.built) })
			}
			return next.RoundTrip(r)
		})
	}
}

// isInformer reports whether r comes from the shared informers; before they
// start, the same client only asks for the API server's health.
func isInformer(r *http.Request) bool {
	return strings.HasSuffix(r.UserAgent(), "/shared-informers") && !strings.HasPrefix(r.URL.Path, "/healthz")
}

type roundTripper func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
