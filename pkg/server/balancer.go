package server

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/kubernetes/pkg/cluster/ports"

	"skiff/internal/netx"
	"skiff/pkg/component"
	"skiff/pkg/server/servicelb"
)

// addBalancer adds the load balancer of Services, or, where it is left out,
// takes back the addresses that it has given before.
func (s *Server) addBalancer(g *component.Group, api component.Ref, logger *slog.Logger) {
	if !s.cfg.Disabled("servicelb") {
		g.Add(servicelb.New(servicelb.Options{Loopback: s.api.Loopback, Taken: s.portTaken, Logger: logger}),
			component.After(api), component.Restart(component.Backoff{}))
		return
	}
	g.Task("servicelb-off", func(ctx context.Context) error {
		client, err := kubernetes.NewForConfig(s.api.Loopback())
		if err != nil {
			return fmt.Errorf("make client to take addresses from Services: %w", err)
		}
		return servicelb.Clear(ctx, client)
	}, component.After(api))
}

// portTaken says why a port of a node is not for a Service to have: kube-proxy
// would take it away from whoever listens there.
func (s *Server) portTaken(node string, protocol corev1.Protocol, addr netip.AddrPort) error {
	if protocol == corev1.ProtocolTCP && addr.Port() == ports.KubeletPort {
		return fmt.Errorf("port %d is the kubelet's", ports.KubeletPort)
	}
	if s.cfg.Server.DisableAgent || node != s.cfg.Node.Name {
		return nil
	}
	switch protocol {
	case corev1.ProtocolTCP:
		return netx.CheckPortFree(addr)
	case corev1.ProtocolUDP:
		return netx.CheckUDPPortFree(addr)
	}
	return nil
}
