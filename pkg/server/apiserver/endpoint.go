package apiserver

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"

	corev1 "k8s.io/api/core/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	discoveryv1client "k8s.io/client-go/kubernetes/typed/discovery/v1"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
	"k8s.io/kubernetes/pkg/controlplane/reconcilers"
)

// endpoint keeps the endpoint of Service default/kubernetes at this server's
// address. Upstream's controller knows the address of the start only, and asks
// every ten seconds; this one puts the present address in its place, and asks
// as well when there is another.
type endpoint struct {
	reconcilers.EndpointReconciler

	address func() netip.Addr
	logger  *slog.Logger

	mu      sync.Mutex
	service string // guarded by mu: as upstream's controller said last; "" if it has not
	ports   []corev1.EndpointPort
	written netip.Addr // guarded by mu
}

// setEndpoint takes the place of upstream's reconciler. Where several servers
// share the datastore theirs are kept apart by leases, which upstream does.
func (a *APIServer) setEndpoint(cfg *app.Config) error {
	if a.Datastore.Shared || a.Advertised == nil {
		return nil
	}
	loopback := cfg.KubeAPIs.ControlPlane.Generic.LoopbackClientConfig
	core, err := corev1client.NewForConfig(loopback)
	if err != nil {
		return fmt.Errorf("make client for the API server's endpoint: %w", err)
	}
	discovery, err := discoveryv1client.NewForConfig(loopback)
	if err != nil {
		return fmt.Errorf("make client for the API server's endpoint: %w", err)
	}
	a.endpoint = &endpoint{
		EndpointReconciler: reconcilers.NewMasterCountEndpointReconciler(1, reconcilers.NewEndpointsAdapter(core, discovery)),
		address:            a.Advertised, logger: a.Logger,
	}
	cfg.KubeAPIs.Extra.EndpointReconcilerConfig.Reconciler = a.endpoint
	return nil
}

// ReconcileEndpoints implements reconcilers.EndpointReconciler.
func (e *endpoint) ReconcileEndpoints(service string, _ net.IP, ports []corev1.EndpointPort, reconcilePorts bool) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.service, e.ports = service, ports
	return e.write(reconcilePorts)
}

// write must be called with mu held.
func (e *endpoint) write(reconcilePorts bool) error {
	now := e.address()
	if err := e.EndpointReconciler.ReconcileEndpoints(e.service, now.AsSlice(), e.ports, reconcilePorts); err != nil {
		return fmt.Errorf("write endpoint %s: %w", now, err)
	}
	if e.written.IsValid() && e.written != now {
		e.logger.Info("Service kubernetes leads to the new address", "address", now)
	}
	e.written = now
	return nil
}

// RemoveEndpoints implements reconcilers.EndpointReconciler.
func (e *endpoint) RemoveEndpoints(service string, _ net.IP, ports []corev1.EndpointPort) error {
	return e.EndpointReconciler.RemoveEndpoints(service, e.address().AsSlice(), ports)
}

// follow writes the endpoint whenever the address is another. What fails is
// tried again by upstream's controller.
func (e *endpoint) follow(ctx context.Context, moved func() <-chan struct{}) {
	for {
		next := moved()
		e.mu.Lock()
		if e.service != "" && e.written != e.address() {
			if err := e.write(false); err != nil {
				e.logger.Warn("Service kubernetes leads nowhere for a moment", "error", err)
			}
		}
		e.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-next:
		}
	}
}
