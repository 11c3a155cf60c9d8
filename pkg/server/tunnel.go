package server

import (
	"skiff/pkg/server/apiserver"
	"skiff/pkg/server/egress"
	"skiff/pkg/tunnel"
)

// openTunnel makes what accepts the sessions of nodes, unless the API server is
// to reach nodes by itself.
func (s *Server) openTunnel() {
	if s.cfg.Cluster.EgressSelectorMode == egress.Disabled {
		return
	}
	s.tunnel = &tunnel.Server{Authorize: s.identity.join.Node, Logger: s.o.Logger.With("component", "tunnel")}
	s.tunnels = append(s.tunnels, s.tunnel)
}

// egress is how the API server reaches nodes, nil for without a tunnel.
func (s *Server) egress() *apiserver.Egress {
	if s.tunnel == nil {
		return nil
	}
	own := s.cfg.Node.Name
	if s.cfg.Server.DisableAgent {
		own = ""
	}
	mode := s.cfg.Cluster.EgressSelectorMode
	e := egress.New(egress.Options{
		Mode: mode, OwnNode: own, Tunnel: s.tunnel.DialContext, Logger: s.o.Logger.With("component", "egress"),
	})
	way := &apiserver.Egress{Kubelet: e.Kubelet, Use: e.Use}
	if mode != egress.Agent {
		way.Cluster = e.Cluster
	}
	return way
}
