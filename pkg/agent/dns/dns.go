// Package dns is the cluster's name server: CoreDNS as a library, one
// instance per node, listening on the node's pod gateway and published as an
// endpoint of the Service kube-system/kube-dns. It is configured by the same
// ConfigMaps that K3s users know (coredns, coredns-custom) and forwards to the
// host's own resolvers, never to a public one. It must not know how the pod
// network is made nor how the API is served. Start reading at Server, then
// corefile.go; DESIGN.md explains what is done to a Corefile and why.
package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"skiff/internal/pause"
	"skiff/internal/signal"
	"skiff/pkg/component"
)

// DefaultPort is the UDP and TCP port of the name server on the pod gateway.
// It is not 53, so that a name server of the host that listens on every
// address does not get in the way; kube-proxy translates.
const DefaultPort = 10053

// Notes takes lines for `skiff status`; status.Notes satisfies it.
type Notes interface {
	Set(key, message string)
	Clear(key string)
}

// Options say how to run the name server. All fields are needed unless a
// default is given.
type Options struct {
	// NodeName names the EndpointSlice kube-dns-<NodeName> and its owner.
	NodeName string
	// Kubeconfig is the file with the credentials for watching Services,
	// EndpointSlices and Namespaces and writing the EndpointSlice.
	Kubeconfig string
	// Dir is a directory of our own for the files a Corefile refers to.
	Dir string
	// ClusterDomain is the zone of the cluster, without the final dot.
	ClusterDomain string
	// ServiceIPs are the addresses of the Service kube-dns. A host that uses
	// them as its resolver would make us ask ourselves.
	ServiceIPs []netip.Addr
	// ResolvConf is the file with the host's resolvers; SystemdResolvConf the
	// one where systemd-resolved keeps the real list when ResolvConf names its
	// stub only.
	ResolvConf, SystemdResolvConf string
	// Addresses blocks until the addresses to listen on exist: one for each IP
	// family of the cluster, in its order.
	Addresses func(ctx context.Context) ([]netip.Addr, error)
	// Port is the preferred port; another one is taken when it is in use.
	// Default: DefaultPort.
	Port uint16
	// Allow limits who may ask, when not empty.
	Allow []netip.Prefix
	// Disabled makes Run remove what an earlier run published and do nothing.
	Disabled bool
	// Notes may be nil.
	Notes  Notes
	Logger *slog.Logger
}

// Server is the component. Make it with New.
type Server struct {
	o Options

	mu      sync.Mutex
	listen  []netip.AddrPort // guarded by mu; none until listening
	problem string           // guarded by mu; what Ready says before listening
}

var (
	_ component.Component = (*Server)(nil)
	_ component.Readier   = (*Server)(nil)
)

// New returns a Server that has not started anything.
func New(o Options) *Server {
	if o.Port == 0 {
		o.Port = DefaultPort
	}
	if o.Notes == nil {
		o.Notes = noNotes{}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Server{o: o, problem: "not started"}
}

// Name implements component.Component.
func (s *Server) Name() string { return "dns" }

// Run implements component.Component.
func (s *Server) Run(ctx context.Context) error {
	client, err := newClient(s.o.Kubeconfig)
	if err != nil {
		return fmt.Errorf("make client for cluster DNS: %w", err)
	}
	if s.o.Disabled {
		if err := retryUntil(ctx, s.o.Logger, "remove the endpoint of cluster DNS", func(ctx context.Context) error {
			return unpublish(ctx, client, s.o.NodeName)
		}); err != nil {
			return nil
		}
		<-ctx.Done()
		return nil
	}
	return s.serve(ctx, client)
}

// where waits for the addresses to listen on and chooses the port.
func (s *Server) where(ctx context.Context) ([]netip.AddrPort, error) {
	s.setProblem("waiting for the address of the pod network")
	addrs, err := s.o.Addresses(ctx)
	if err != nil {
		return nil, fmt.Errorf("get address for cluster DNS: %w", err)
	}
	return choosePort(ctx, addrs, s.o.Port)
}

// serve runs the inputs, the publisher and CoreDNS until ctx ends.
func (s *Server) serve(parent context.Context, client *client) error {
	ctx, cancel := context.WithCancel(parent)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()

	changed := signal.New()
	resolvers := &resolvers{file: s.o.ResolvConf, systemd: s.o.SystemdResolvConf, changed: changed.Send, logger: s.o.Logger}
	wg.Go(func() { resolvers.watch(ctx) })

	s.setProblem("waiting for permission to watch Services; group " + agentsGroup + " needs the bundled RBAC rules")
	first, cancelFirst := context.WithTimeout(ctx, firstWait)
	defer cancelFirst()
	client.waitAllowed(first)
	in := newInputs(client, changed.Send)
	wg.Go(func() { in.run(ctx) })
	listen, err := s.where(ctx)
	if err != nil {
		if parent.Err() != nil {
			return nil
		}
		return err
	}
	s.setProblem("waiting for the API server")
	in.waitSynced(first)

	eng := &engine{o: s.o, listen: listen, report: reporter{client: client, notes: s.o.Notes, logger: s.o.Logger}}
	defer eng.stop()
	s.setProblem("starting CoreDNS")
	if err := eng.apply(ctx, in.snapshot(), resolvers.list(s.own(listen))); err != nil {
		return err
	}
	s.setListening(listen)
	s.o.Logger.Info("cluster DNS is listening", "addresses", listen, "domain", s.o.ClusterDomain)
	wg.Go(func() { publishAll(ctx, client, s.o, listen) })

	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
		if !pause.Quiet(ctx, changed, settleTime) {
			return nil
		}
		if err := eng.apply(ctx, in.snapshot(), resolvers.list(s.own(listen))); err != nil {
			return err
		}
	}
}

const (
	// firstWait bounds how long the start waits for the API: without it names
	// outside the cluster are resolved all the same.
	firstWait = 5 * time.Second
	// settleTime lets several changes become one restart of CoreDNS.
	settleTime = 200 * time.Millisecond
)

// own lists the addresses that lead back to this name server.
func (s *Server) own(listen []netip.AddrPort) []netip.Addr {
	own := slices.Clone(s.o.ServiceIPs)
	for _, l := range listen {
		own = append(own, l.Addr())
	}
	return own
}

// Ready implements component.Readier: it asks our own socket for the name of
// the API's Service.
func (s *Server) Ready(ctx context.Context) error {
	if s.o.Disabled {
		return nil
	}
	s.mu.Lock()
	listen, problem := s.listen, s.problem
	s.mu.Unlock()
	if len(listen) == 0 {
		return errors.New(problem)
	}
	// The API's Service has one family, the cluster's first.
	return probe(ctx, listen[0], "kubernetes.default.svc."+s.o.ClusterDomain+".")
}

// Listening returns where the name server listens; nothing means not yet.
func (s *Server) Listening() []netip.AddrPort {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.listen
}

func (s *Server) setProblem(p string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.problem = p
}

func (s *Server) setListening(a []netip.AddrPort) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listen = a
}

type noNotes struct{}

func (noNotes) Set(string, string) {}
func (noNotes) Clear(string)       {}
