// Package gateway translates the Gateway API (standard channel, v1) into the
// listeners that the edge serves, and writes into the objects' status what
// became of them. It must not know how the edge serves, which addresses and
// ports lead to it, or where Services and Secrets are looked up: the ingress
// controller hands that in. Start reading at Source.Translate, then translate;
// DESIGN.md says in which order things are decided.
package gateway

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	v1 "sigs.k8s.io/gateway-api/apis/v1"
	api "sigs.k8s.io/gateway-api/pkg/client/clientset/versioned/typed/apis/v1"

	"skiff/pkg/agent/ingress/catalog"
	"skiff/pkg/agent/ingress/edge"
)

// Controller is the controllerName of the GatewayClasses that are served.
const Controller = "skiff.dev/gateway"

// Options are what a Source is made with.
type Options struct {
	// Config is how to reach the API; who that is must be allowed to list and
	// watch the resources and to update their status.
	Config *rest.Config
	// Changed is called after something changed that a translation depends on,
	// often many times in a row. It must not block.
	Changed func()
	Logger  *slog.Logger
}

// Source knows the objects of the Gateway API.
type Source struct {
	o      Options
	client *api.GatewayV1Client

	classes  *store[*v1.GatewayClass]
	gateways *store[*v1.Gateway]
	sets     *store[*v1.ListenerSet]
	http     *store[*v1.HTTPRoute]
	grpc     *store[*v1.GRPCRoute]
	tls      *store[*v1.TLSRoute]
	tcp      *store[*v1.TCPRoute]
	grants   *store[*v1.ReferenceGrant]
	policies *store[*v1.BackendTLSPolicy]
}

// New makes a Source. It knows nothing until Run.
func New(o Options) (*Source, error) {
	client, err := newClient(o.Config)
	if err != nil {
		return nil, err
	}
	return &Source{
		o: o, client: client,
		classes: newStore[*v1.GatewayClass](o.Changed), gateways: newStore[*v1.Gateway](o.Changed), sets: newStore[*v1.ListenerSet](o.Changed),
		http: newStore[*v1.HTTPRoute](o.Changed), grpc: newStore[*v1.GRPCRoute](o.Changed),
		tls: newStore[*v1.TLSRoute](o.Changed), tcp: newStore[*v1.TCPRoute](o.Changed),
		grants: newStore[*v1.ReferenceGrant](o.Changed), policies: newStore[*v1.BackendTLSPolicy](o.Changed),
	}, nil
}

func newClient(config *rest.Config) (*api.GatewayV1Client, error) {
	client, err := api.NewForConfig(jsonConfig(config))
	if err != nil {
		return nil, fmt.Errorf("make client of the Gateway API: %w", err)
	}
	return client, nil
}

// Run watches the API until ctx ends. A resource whose definition is missing
// counts as having no objects and is looked for again.
func (s *Source) Run(ctx context.Context) error {
	ctx = klog.NewContext(ctx, klog.Background())
	var wg sync.WaitGroup
	follow(ctx, &wg, s.client.GatewayClasses(), s.classes, &v1.GatewayClass{})
	follow(ctx, &wg, s.client.Gateways(""), s.gateways, &v1.Gateway{})
	follow(ctx, &wg, s.client.ListenerSets(""), s.sets, &v1.ListenerSet{})
	follow(ctx, &wg, s.client.HTTPRoutes(""), s.http, &v1.HTTPRoute{})
	follow(ctx, &wg, s.client.GRPCRoutes(""), s.grpc, &v1.GRPCRoute{})
	follow(ctx, &wg, s.client.TLSRoutes(""), s.tls, &v1.TLSRoute{})
	follow(ctx, &wg, s.client.TCPRoutes(""), s.tcp, &v1.TCPRoute{})
	follow(ctx, &wg, s.client.ReferenceGrants(""), s.grants, &v1.ReferenceGrant{})
	follow(ctx, &wg, s.client.BackendTLSPolicies(""), s.policies, &v1.BackendTLSPolicy{})
	wg.Wait()
	return nil
}

// Synced reports whether all resources have been listed once.
func (s *Source) Synced() bool {
	return s.classes.known() && s.gateways.known() && s.sets.known() && s.http.known() && s.grpc.known() &&
		s.tls.known() && s.tcp.known() && s.grants.known() && s.policies.known()
}

// Inputs are what a translation needs besides the objects of the Gateway API.
type Inputs struct {
	Lookup       catalog.Lookup
	Certificates *catalog.Certificates
	// Addresses are those that clients reach the edge at.
	Addresses []string
	// Apart returns the addresses of a Gateway alone; none while it has none
	// yet. Nil where a Gateway cannot have its own.
	Apart func(gateway types.NamespacedName) []string
}

// Result is a translation.
type Result struct {
	// Listeners have the Port that the Gateway asks for and no Address. Those of
	// all Gateways share the node's addresses, but for the Gateways in Apart.
	Listeners []edge.Listener
	// Apart are Gateways that cannot be told from older ones on the shared
	// addresses, by the names of their listeners: they need addresses of their
	// own, see Inputs.Apart.
	Apart map[string]types.NamespacedName
	// Kept are listeners on the shared addresses whose Gateways have had addresses
	// of their own, and keep them too.
	Kept map[string]types.NamespacedName
	// Targets are the backends of the listeners' routes.
	Targets catalog.Targets

	world *world
}

// Translate turns the objects as they are known now into listeners. The same
// objects give the same result.
func (s *Source) Translate(in Inputs) Result {
	return translate(objects{
		classes: s.classes.all(), gateways: s.gateways.all(), sets: s.sets.all(), http: s.http.all(), grpc: s.grpc.all(),
		tls: s.tls.all(), tcp: s.tcp.all(), grants: s.grants.all(), policies: s.policies.all(),
	}, in)
}
