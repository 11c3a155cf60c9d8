// Package apiserver runs kube-apiserver inside the process, with typed
// options. It serves its own listener on the loopback interface, which only
// the control plane itself uses; everybody else reaches Handler through the
// front port. It must not know about the front, the other components or what
// starts it. Start reading at APIServer.Run; options.go has every setting.
package apiserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/rest"
	aggregator "k8s.io/kube-aggregator/pkg/apiserver"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
	rbacrest "k8s.io/kubernetes/pkg/registry/rbac/rest"
	schedulingrest "k8s.io/kubernetes/pkg/registry/scheduling/rest"

	"skiff/pkg/component"
	"skiff/pkg/config"
	"skiff/pkg/datastore"
)

// Options is what New needs.
type Options struct {
	Config    config.Completed
	Datastore datastore.Endpoint
	// Events is where events are kept; the zero value means with all the rest.
	Events datastore.Endpoint
	// Listener is the API server's own, on a loopback address; Run closes it.
	Listener net.Listener
	// Advertised is this server's address at this moment, and Moved a channel
	// that is closed when there is another. Without them it is the
	// configuration's.
	Advertised func() netip.Addr
	Moved      func() <-chan struct{}
	// Earlier is the time at which what is issued now may begin; nil means the
	// clock's.
	Earlier func() time.Time
	// Publish is told the handler as soon as it can be called, before
	// everything behind it is ready, and nil when that ends. It may be nil.
	Publish func(http.Handler)
	// Egress is how to connect to kubelets and into the cluster; nil for
	// directly.
	Egress *Egress
	// Extend adds API groups of ours to kube-apiserver before it serves. Each
	// needs an APIService without a service in the cluster. It may be nil.
	Extend func(*genericapiserver.GenericAPIServer) error
	Logger *slog.Logger
}

// APIServer is kube-apiserver as a component.
type APIServer struct {
	Options

	built    atomic.Pointer[built]
	endpoint *endpoint // nil if others share the datastore; set by chain
}

var (
	_ component.Component = (*APIServer)(nil)
	_ component.Readier   = (*APIServer)(nil)
)

// built is what exists once the server has been put together.
type built struct {
	handler  http.Handler
	loopback *rest.Config
	probe    *probe
}

// New returns the component.
func New(o Options) *APIServer { return &APIServer{Options: o} }

// Name implements component.Component.
func (a *APIServer) Name() string { return "kube-apiserver" }

// Handler is the whole API with authentication (which needs Request.TLS),
// authorization and aggregation. It is nil until Run has built the server, and
// answers sensibly, if only with 503, from then on.
func (a *APIServer) Handler() http.Handler {
	if b := a.built.Load(); b != nil {
		return b.handler
	}
	return nil
}

// Loopback returns a copy of the client configuration that the API server
// makes for itself: system:masters over the loopback listener, without rate
// limit. It is nil until Run has built the server; a component that starts
// After the API server may rely on it.
func (a *APIServer) Loopback() *rest.Config {
	if b := a.built.Load(); b != nil {
		return rest.CopyConfig(b.loopback)
	}
	return nil
}

// undated is upstream's loopback configuration with our certificate in place
// of its own, which is made for the time of the start and three years: it is
// not valid after the clock has been set back by an hour, or from 1970 to the
// present. Ours begins in 1970 and is renewed.
func (a *APIServer) undated(upstream *rest.Config) *rest.Config {
	c := rest.CopyConfig(upstream)
	c.TLSClientConfig.ServerName = "localhost"
	c.TLSClientConfig.CAData = nil
	c.TLSClientConfig.CAFile = a.file("server-ca.crt")
	return c
}

// Ready implements component.Readier by asking the API server's own /readyz.
func (a *APIServer) Ready(ctx context.Context) error {
	b := a.built.Load()
	if b == nil {
		return errors.New("still being put together")
	}
	return b.probe.ready(ctx)
}

// Run implements component.Component.
func (a *APIServer) Run(ctx context.Context) error {
	server, forget, err := a.build(ctx)
	if err != nil {
		return errors.Join(err, a.Listener.Close())
	}
	prepared, err := server.PrepareRun()
	if err != nil {
		return fmt.Errorf("prepare kube-apiserver: %w", err)
	}
	forget()
	generic := server.GenericAPIServer
	loopback := a.undated(generic.LoopbackClientConfig)
	p, err := newProbe(loopback)
	if err != nil {
		return err
	}
	a.built.Store(&built{handler: generic.Handler, loopback: loopback, probe: p})
	if a.Publish != nil {
		a.Publish(generic.Handler)
		// Whoever calls during the stop is told so instead of left waiting.
		defer context.AfterFunc(ctx, func() { a.Publish(nil) })()
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	if a.endpoint != nil && a.Moved != nil {
		wg.Go(func() { a.endpoint.follow(ctx, a.Moved) })
	}
	if err := prepared.Run(ctx); err != nil {
		return fmt.Errorf("run kube-apiserver: %w", err)
	}
	return nil
}

// build goes through upstream's stages: options, configuration, server. What
// is needed only until the server is prepared goes when forget is called.
func (a *APIServer) build(ctx context.Context) (server *aggregator.APIAggregator, forget func(), err error) {
	opts, err := a.options()
	if err != nil {
		return nil, nil, err
	}
	completed, err := opts.Complete(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("complete options of kube-apiserver: %w", err)
	}
	if errs := completed.Validate(); len(errs) > 0 {
		return nil, nil, fmt.Errorf("validate options of kube-apiserver: %w", utilerrors.NewAggregate(errs))
	}
	cfg, err := a.configure(completed)
	if err != nil {
		return nil, nil, fmt.Errorf("configure kube-apiserver: %w", err)
	}
	server, err = a.chain(cfg)
	return server, func() { forgetSchemas(cfg) }, err
}

func (a *APIServer) chain(cfg *app.Config) (*aggregator.APIAggregator, error) {
	generic := cfg.KubeAPIs.ControlPlane.Generic
	// The port of Service default/kubernetes is read from the listener. The
	// clients that need the true one have been made by NewConfig.
	generic.SecureServing.Listener = advertised{generic.SecureServing.Listener, a.Config.Server.Port}
	// Upstream's hooks wait a second before they begin; policy.go does not.
	for _, g := range genericConfigs(cfg) {
		nameOperations(g)
		// Options.Extend adds a /metrics of this component's own series.
		g.EnableMetrics = false
		g.DisabledPostStartHooks.Insert(rbacrest.PostStartHookName, schedulingrest.PostStartHookName)
	}
	if err := a.setEndpoint(cfg); err != nil {
		return nil, err
	}
	a.backdateTokens(cfg)
	cc, err := cfg.Complete()
	if err != nil {
		return nil, fmt.Errorf("complete configuration of kube-apiserver: %w", err)
	}
	if a.Egress != nil {
		a.Egress.Use(cfg.KubeAPIs.ControlPlane.VersionedInformers)
	}
	addOpenAPI := postponeOpenAPI(generic)
	server, err := app.CreateServerChain(cc)
	if err != nil {
		return nil, fmt.Errorf("create kube-apiserver: %w", err)
	}
	if err := addOpenAPI(server); err != nil {
		return nil, err
	}
	if err := a.extend(server); err != nil {
		return nil, err
	}
	hook := func(c genericapiserver.PostStartHookContext) error { return ensurePolicy(c, c.LoopbackClientConfig) }
	if err := server.GenericAPIServer.AddPostStartHook("skiff/default-policy", hook); err != nil {
		return nil, fmt.Errorf("add default policy to kube-apiserver: %w", err)
	}
	return server, nil
}

// extend lets Options.Extend add to the server behind the aggregator.
func (a *APIServer) extend(aggregator *aggregator.APIAggregator) error {
	if a.Extend == nil {
		return nil
	}
	server, ok := aggregator.GenericAPIServer.NextDelegate().(*genericapiserver.GenericAPIServer)
	if !ok {
		return errors.New("extend the API: kube-apiserver is not behind the aggregator")
	}
	if err := a.Extend(server); err != nil {
		return fmt.Errorf("extend kube-apiserver: %w", err)
	}
	return nil
}

// genericConfigs are what the three servers in the process have in common.
func genericConfigs(c *app.Config) []*genericapiserver.Config {
	return []*genericapiserver.Config{
		c.KubeAPIs.ControlPlane.Generic, &c.Aggregator.GenericConfig.Config, &c.ApiExtensions.GenericConfig.Config,
	}
}

// advertised is a listener that gives another port as its own.
type advertised struct {
	net.Listener

	port int
}

// Addr implements net.Listener.
func (l advertised) Addr() net.Addr {
	addr, ok := l.Listener.Addr().(*net.TCPAddr)
	if !ok {
		return l.Listener.Addr()
	}
	return &net.TCPAddr{IP: addr.IP, Port: l.port, Zone: addr.Zone}
}
