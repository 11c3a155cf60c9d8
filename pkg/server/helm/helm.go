// Package helm installs, upgrades and uninstalls what HelmChart objects ask
// for, with Helm's own library inside this process: no Jobs, no images. It must
// not know who made the objects, nor how the API is served. Start reading at
// Controller.Run, then worker.sync; DESIGN.md says what happens when.
package helm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"helm.sh/helm/v4/pkg/kube"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"

	"skiff/pkg/component"
	"skiff/pkg/kube/demand"
)

const name = "helm-controller"

// Options is what New needs.
type Options struct {
	// Loopback is the API server's configuration for its own clients; it is
	// called when Run starts.
	Loopback func() *rest.Config
	// Static is the directory that charts are taken from by path.
	Static string
	// Lead runs a function for as long as this server is the one that may act;
	// nil means that there is no other.
	Lead   func(ctx context.Context, run func(context.Context) error) error
	Logger *slog.Logger
}

// Controller is the component.
type Controller struct{ o Options }

var _ component.Component = (*Controller)(nil)

// New returns the component.
func New(o Options) *Controller {
	// The field manager of what Helm applies. Without this it would be the name
	// of our executable, which is pkg/deploy's. Upstream has no other way.
	kube.ManagedFieldsManager = "helm"
	return &Controller{o}
}

// Name implements component.Component.
func (c *Controller) Name() string { return name }

// linger is how long the controller stays after the last HelmChart has gone.
const linger = 10 * time.Second

// Run implements component.Component: it works while there are HelmCharts.
func (c *Controller) Run(ctx context.Context) error {
	config := c.o.Loopback()
	if config == nil {
		return errors.New("start " + name + ": kube-apiserver has not been built yet")
	}
	if err := os.MkdirAll(c.o.Static, 0o700); err != nil {
		return fmt.Errorf("make directory for charts: %w", err)
	}
	config = rest.CopyConfig(config)
	config.UserAgent = "skiff-helm"
	config.QPS, config.Burst = 50, 100
	config.ContentType, config.AcceptContentTypes = "", "" // custom objects know JSON only
	run := func(ctx context.Context) error {
		return demand.While(ctx, demand.Options{
			Config: config, Resources: []schema.GroupVersionResource{charts}, Linger: linger, Logger: c.o.Logger,
		}, func(ctx context.Context) error { return work(ctx, config, c.o) })
	}
	if c.o.Lead != nil {
		return c.o.Lead(ctx, run)
	}
	if err := run(ctx); err != nil {
		return fmt.Errorf("run %s: %w", name, err)
	}
	return nil
}
