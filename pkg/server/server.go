// Package server puts the control plane together: which parts there are, what
// each is given, and what has to be ready before it starts. It knows nothing
// of the node (pkg/agent), which joins it through the same door as nodes
// elsewhere. Start reading at New, then Server.AddTo.
package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/mux"
	"k8s.io/apiserver/pkg/server/routes"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/component-base/metrics/prometheus/slis"

	"skiff/manifests"
	"skiff/pkg/address"
	"skiff/pkg/clock"
	"skiff/pkg/component"
	"skiff/pkg/config"
	"skiff/pkg/datastore"
	"skiff/pkg/deploy"
	"skiff/pkg/join"
	"skiff/pkg/kube/series"
	"skiff/pkg/pki"
	"skiff/pkg/server/apiserver"
	"skiff/pkg/server/cloud"
	"skiff/pkg/server/controllers"
	"skiff/pkg/server/front"
	"skiff/pkg/server/metrics"
	"skiff/pkg/server/scheduler"
	"skiff/pkg/server/volumes"
	"skiff/pkg/status"
	"skiff/pkg/tunnel"
)

// Options is what New needs besides the configuration.
type Options struct {
	Logger *slog.Logger
	// Series are the components' metrics.
	Series *series.Registries
	// Notes takes lines for `skiff status`.
	Notes status.Notes
	// Addresses are those of this machine, which may change.
	Addresses *address.Book
	// Clock knows what this machine's clock is worth.
	Clock *clock.Keeper
	// AddOns is told where all manifests stand; it may be nil.
	AddOns func([]status.AddOn)
	// Modules are optional parts, in the order they are installed.
	Modules []Module
}

// Server is a control plane that has not been started. Its port is claimed and
// its certificates and token are on disk.
type Server struct {
	cfg       config.Completed
	o         Options
	identity  *identity
	front     *front.Front
	datastore datastore.Datastore
	events    datastore.Datastore // nil if they are kept with everything else
	api       *apiserver.APIServer
	tunnel    *tunnel.Server              // of the nodes; nil if there is none
	tunnels   []*tunnel.Server            // all: the modules have their own
	reader    func() kubernetes.Interface // of the API; it returns nil before there is one
	bundled   []fs.FS
	added     []addition
}

// Refs are the parts that others may have to wait for.
type Refs struct {
	Front     component.Ref // the port is served, /v1-skiff/ works
	Datastore component.Ref
	API       component.Ref // /readyz is ok
	// Controllers is ready when all controllers have been built: a kubelet in
	// this process must start after it (docs/adr, kubelet after controllers).
	Controllers component.Ref
	Scheduler   component.Ref
	Deploy      component.Ref
}

// Gates are the feature gates that a server of this configuration wants other
// than upstream; pass them to kube.Setup.
func Gates(cfg config.Completed) map[string]bool {
	if ds := cfg.Server.DatastoreEndpoint; ds != "" && ds != "sqlite" {
		return nil
	}
	// Both are for API servers that share a store: they tell each other who
	// they are by writing a lease every ten seconds.
	return map[string]bool{"APIServerIdentity": false, "UnknownVersionInteroperabilityProxy": false}
}

// New claims the port, makes or renews certificates, token and kubeconfig, and
// puts the parts together. On an error nothing is left open.
func New(cfg config.Completed, o Options) (_ *Server, err error) {
	if len(cfg.Extra.CloudController) > 0 {
		return nil, errors.New("invalid --kube-cloud-controller-manager-arg: skiff's node controller has no flags")
	}
	s := &Server{cfg: cfg, o: o, bundled: []fs.FS{manifests.FS}}
	s.reader = s.client()
	s.identity, err = newIdentity(cfg, o.Addresses, o.Clock, s.client(), o.Logger.With("component", "certificates"))
	if err != nil {
		return nil, err
	}
	s.openTunnel()
	s.front = front.New(front.Options{
		Address:     cfg.Server.BindAddress,
		Port:        cfg.Server.Port,
		Certificate: s.identity.store.ServingCertificate(pki.ServingAPI),
		Logger:      o.Logger.With("component", "front"),
	})
	for _, r := range s.endpoints() {
		s.front.Add(r)
	}
	// First the port: who has it now may well be another skiff on this data.
	if err := s.front.Listen(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.front.Close())
		}
	}()
	if err := s.identity.ensure(); err != nil {
		return nil, err
	}
	if err := s.openDatastore(); err != nil {
		return nil, err
	}
	for _, m := range o.Modules {
		if err := m.Install(&host{s, m}); err != nil {
			return nil, fmt.Errorf("install module %s: %w", m.Name(), err)
		}
	}
	return s, s.openAPI()
}

// openDatastore makes the datastore. Where nobody else uses it, events have a
// file of their own: they are half of all writes, and worth no waiting for the
// disk.
func (s *Server) openDatastore() (err error) {
	cfg := s.cfg
	s.datastore, err = datastore.Open(datastore.Options{
		Endpoint:   cfg.Server.DatastoreEndpoint,
		Dir:        cfg.Paths.ServerDB(),
		Socket:     cfg.Paths.DatastoreSocket(),
		Durability: cfg.Server.DatastoreDurability,
		Bootstrap:  true,
		Snapshot:   s.newestSnapshot,
		Notes:      s.o.Notes,
		Logger:     s.o.Logger.With("component", "datastore"),
	})
	if err != nil {
		return err
	}
	if s.datastore.Endpoint().Shared {
		return s.measure(s.datastore)
	}
	s.events, err = datastore.Open(datastore.Options{
		Name:       "events",
		Endpoint:   "sqlite://" + cfg.Paths.ServerEventsDB(),
		Socket:     cfg.Paths.EventsSocket(),
		Durability: "relaxed",
		Disposable: true,
		Logger:     s.o.Logger.With("component", "events"),
	})
	if err != nil {
		return err
	}
	return s.measure(s.datastore, s.events)
}

// measure adds the figures of the datastores to the API server's.
func (s *Server) measure(stores ...datastore.Datastore) error {
	for _, ds := range stores {
		for _, c := range ds.Metrics() {
			if err := s.o.Series.Register(series.APIServer, c); err != nil {
				return fmt.Errorf("register the datastore's metrics: %w", err)
			}
		}
	}
	return nil
}

// openAPI makes the API server with its own listener, which is nobody else's
// business.
func (s *Server) openAPI() error {
	loopback := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 0)
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(loopback))
	if err != nil {
		return fmt.Errorf("listen for the control plane itself: %w", err)
	}
	events := s.datastore.Endpoint()
	if s.events != nil {
		events = s.events.Endpoint()
	}
	s.api = apiserver.New(apiserver.Options{
		Config:     s.cfg,
		Datastore:  s.datastore.Endpoint(),
		Events:     events,
		Listener:   l,
		Advertised: s.o.Addresses.Advertised,
		Moved:      s.o.Addresses.Changed,
		Earlier:    s.o.Clock.Earlier,
		Publish:    s.front.SetAPI,
		Extend:     s.extend,
		Egress:     s.egress(),
		Logger:     s.o.Logger.With("component", "kube-apiserver"),
	})
	return nil
}

// extend adds the metrics of the control plane, those of parts that have no port
// under their own names, and the API groups that skiff serves itself.
func (s *Server) extend(server *genericapiserver.GenericAPIServer) error {
	// Upstream registers its series where it would serve them.
	routes.DefaultMetrics{}.Install(mux.NewPathRecorderMux("unused"))
	paths := server.Handler.NonGoRestfulMux
	paths.Handle("/metrics", s.o.Series.Handler(series.APIServer))
	paths.Handle("/metrics/kube-scheduler", s.o.Series.Handler(series.Scheduler))
	paths.Handle("/metrics/kube-controller-manager", s.o.Series.Handler(series.Controllers))
	slis.SLIMetricsWithReset{}.Install(paths)
	if s.cfg.Disabled("metrics-server") {
		return nil
	}
	return metrics.Install(server, metrics.Options{Loopback: s.api.Loopback, Logger: s.o.Logger.With("component", "metrics")})
}

// InProcess is a transport to the supervisor's paths for a node in this
// process. It works as soon as New has returned.
func (s *Server) InProcess() http.RoundTripper { return join.InProcess(s.front.Handler()) }

// Loopback is how parts in this process reach the API server, with all rights;
// nil until it has been built. Who needs less impersonates somebody.
func (s *Server) Loopback() *rest.Config { return s.api.Loopback() }

// AddTo adds the control plane to the group. What waits for what:
//
//	front   certificates   datastore   events   tunnel
//	                           └─────────┼─────────┘
//	                               kube-apiserver
//	            ┌──────────────┼─────────────┬──────────────┐
//	controller-manager     scheduler   node-controller   deploy   servicelb, runtime-classes
//	                                                        │
//	                                                 helm-controller
//
// At the end the order is the reverse. The front stands alone: it says what is
// missing while the API starts, and stops together with it.
func (s *Server) AddTo(g *component.Group) Refs {
	logger := func(name string) *slog.Logger { return s.o.Logger.With("component", name) }
	var r Refs
	r.Front = g.Add(s.front)
	g.Add(s.identity.renewer)
	r.Datastore = g.Add(s.datastore)
	stores := []component.Ref{r.Datastore}
	if s.events != nil {
		stores = append(stores, g.Add(s.events))
	}
	for _, t := range s.tunnels {
		stores = append(stores, g.Add(t, component.Restart(component.Backoff{})))
	}
	r.API = g.Add(s.api, component.After(stores...))
	r.Controllers = g.Add(controllers.New(controllers.Options{
		Config: s.cfg, Loopback: s.api.Loopback, Logger: logger("kube-controller-manager"),
	}), component.After(r.API))
	r.Scheduler = g.Add(scheduler.New(scheduler.Options{
		Config: s.cfg, Loopback: s.api.Loopback, Logger: logger("kube-scheduler"),
	}), component.After(r.API))
	own := s.cfg.Node.Name
	if s.cfg.Server.DisableAgent {
		own = ""
	}
	g.Add(cloud.New(cloud.Options{
		Loopback: s.api.Loopback, OwnNode: own, Removed: s.identity.names.Gone, Logger: logger("node-controller"),
	}), component.After(r.API))
	r.Deploy = g.Add(s.deployer(logger("deploy")), component.After(r.API))
	// Not earlier: nothing waits for it, and hashing takes time from what does.
	g.Add(component.Func("node-passwords", s.identity.keepNames, nil), component.After(r.Deploy), component.Restart(component.Backoff{}))
	s.addBalancer(g, r.API, logger("servicelb"))
	s.addRuntimeClasses(g, r.API, logger("runtime-classes"))
	if !s.cfg.Disabled("local-storage") {
		g.Add(volumes.New(volumes.Options{Loopback: s.api.Loopback, Logger: logger("local-volumes")}),
			component.After(r.API), component.Restart(component.Backoff{}))
	}
	s.addHelm(g, r.Deploy, logger("helm"))
	s.addSnapshots(g, r.API, logger("snapshots"))
	g.Task("first-state", s.datastore.Settle, component.After(r.Controllers, r.Scheduler, r.Deploy))
	for _, a := range s.added {
		a.addTo(g, r)
	}
	return r
}

// deployer applies the bundled manifests, ours and the modules', and those of
// the user.
func (s *Server) deployer(logger *slog.Logger) *deploy.Deployer {
	return deploy.New(deploy.Options{
		Config: func(context.Context) (*rest.Config, error) {
			c := s.api.Loopback()
			if c == nil {
				return nil, errors.New("kube-apiserver has not been built yet")
			}
			return c, nil
		},
		Dir:     s.cfg.Paths.Manifests(),
		Bundled: union(s.bundled),
		Disabled: func(name string) bool {
			return s.cfg.Disabled(name) || name == "gateway-api" && s.cfg.Disabled("ingress")
		},
		Vars:   s.vars(),
		AddOns: s.o.AddOns,
		Notes:  s.o.Notes,
		Logger: logger,
	})
}

// vars are what bundled manifests may refer to, by the names that K3s has.
func (s *Server) vars() map[string]string {
	quoted := make([]string, len(s.cfg.Cluster.DNS))
	for i, a := range s.cfg.Cluster.DNS {
		quoted[i] = strconv.Quote(a.String())
	}
	policy := "SingleStack"
	if len(quoted) > 1 {
		policy = "RequireDualStack"
	}
	return map[string]string{
		"CLUSTER_DNS": s.cfg.Cluster.DNS[0].String(), "CLUSTER_DNS_LIST": strings.Join(quoted, ", "),
		"CLUSTER_DNS_IPFAMILYPOLICY": policy, "CLUSTER_DOMAIN": s.cfg.Cluster.Domain,
	}
}
