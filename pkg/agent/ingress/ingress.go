// Package ingress serves Ingress and Gateway API objects in process: it watches
// them, has them translated (subpackages rules and gateway), gives the result to
// the proxy (subpackage edge), and publishes the proxy as the endpoint of a
// Service of type LoadBalancer, kube-system/skiff-ingress. It runs only while
// there is an Ingress or a Gateway. It must not know how traffic is forwarded,
// nor how a load balancer gets it here. Start reading at Ingress.Run, then
// controller.go; DESIGN.md has the picture.
package ingress

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"skiff/internal/backoff"
	"skiff/pkg/agent/ingress/gateway"
	"skiff/pkg/component"
	"skiff/pkg/kube/demand"
)

// User is who this component is to the API; manifests/ingress.yaml says what it
// may do.
const User = "system:skiff-ingress"

// linger is how long it goes on after the last Ingress or Gateway went.
const linger = 10 * time.Second

// Options is what New needs.
type Options struct {
	// Config is how to reach the API as somebody who may impersonate User. It is
	// called when Run starts.
	Config func() *rest.Config
	// NodeName is the node that the endpoints are on.
	NodeName string
	// Addresses waits for the addresses to listen on: of the node, reachable
	// from pods and from other nodes' kube-proxy, one for each family.
	Addresses func(context.Context) ([]netip.Addr, error)
	// Disabled makes Run remove what an earlier run published and do nothing.
	Disabled bool
	Logger   *slog.Logger
}

// Ingress is the component.
type Ingress struct{ o Options }

var _ component.Component = (*Ingress)(nil)

// New returns the component.
func New(o Options) *Ingress { return &Ingress{o} }

// Name implements component.Component.
func (i *Ingress) Name() string { return "ingress" }

// resources are what asks for a proxy.
func resources() []schema.GroupVersionResource {
	return []schema.GroupVersionResource{
		{Group: "networking.k8s.io", Version: "v1", Resource: "ingresses"},
		{Group: "gateway.networking.k8s.io", Version: "v1", Resource: "gateways"},
	}
}

// Run implements component.Component.
func (i *Ingress) Run(ctx context.Context) error {
	loopback := i.o.Config()
	if loopback == nil {
		return fmt.Errorf("start ingress: the API server has not been built yet")
	}
	config := rest.AddUserAgent(loopback, "skiff-ingress")
	config.Impersonate = rest.ImpersonationConfig{UserName: User}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("make client of ingress: %w", err)
	}
	if err := i.tidy(ctx, config, client); err != nil || i.o.Disabled {
		if err == nil {
			<-ctx.Done()
		}
		return ignoreEnd(ctx, err)
	}
	// Before the first Gateway there is its class, which wants to be accepted, and
	// with it come the schemas of the definitions.
	ctx, cancel := context.WithCancel(ctx)
	var accepting sync.WaitGroup
	defer accepting.Wait()
	defer cancel()
	accepting.Go(func() {
		if err := gateway.AcceptClasses(ctx, gateway.Options{Config: config, Logger: i.o.Logger}); err != nil {
			i.o.Logger.Warn("GatewayClasses are not accepted", "error", err)
		}
	})
	accepting.Go(func() {
		if err := gateway.KeepDefinitions(ctx, gateway.Options{Config: config, Logger: i.o.Logger}); err != nil {
			i.o.Logger.Warn("objects of the Gateway API are not validated", "error", err)
		}
	})
	return demand.While(ctx, demand.Options{Config: config, Resources: resources(), Linger: linger, Logger: i.o.Logger},
		func(asked context.Context) error {
			err := i.serve(asked, config, client)
			if ctx.Err() == nil && asked.Err() != nil {
				// Not skiff ends, but nobody asks any more: the ports are free again.
				return withdraw(ctx, client, i.o.NodeName)
			}
			return err
		})
}

// tidy takes back what an earlier run has published if nothing asks for it now.
// It waits until the API lets us look.
func (i *Ingress) tidy(ctx context.Context, config *rest.Config, client kubernetes.Interface) error {
	objects, err := metadata.NewForConfig(metadata.ConfigFor(config))
	if err != nil {
		return fmt.Errorf("make metadata client of ingress: %w", err)
	}
	pauses := backoff.Sequence{Min: 50 * time.Millisecond, Max: 5 * time.Second}
	for {
		asked, err := i.asked(ctx, objects)
		if err == nil && !asked {
			err = withdraw(ctx, client, i.o.NodeName)
		}
		if err == nil {
			return nil
		}
		// At the first start the rules that allow us anything are yet to come.
		i.o.Logger.Debug("cannot look for Ingresses yet", "error", err)
		if err := pauses.Wait(ctx); err != nil {
			return err
		}
	}
}

// asked reports whether there is an object that asks for a proxy.
func (i *Ingress) asked(ctx context.Context, objects metadata.Interface) (bool, error) {
	if i.o.Disabled {
		return false, nil
	}
	for _, r := range resources() {
		found, err := objects.Resource(r).List(ctx, metav1.ListOptions{Limit: 1})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("list %s: %w", r.Resource, err)
		}
		if len(found.Items) > 0 {
			return true, nil
		}
	}
	return false, nil
}

func ignoreEnd(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}
