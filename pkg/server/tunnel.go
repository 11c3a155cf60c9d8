package server

import (
	"errors"
	"net/http"
	"slices"
	"strings"

	"skiff/pkg/pki"
	"skiff/pkg/server/apiserver"
	"skiff/pkg/server/egress"
	"skiff/pkg/tunnel"
)

// openTunnel accepts the sessions of nodes, unless the API server is to reach
// nodes by itself.
func (s *Server) openTunnel() {
	if s.cfg.Cluster.EgressSelectorMode == egress.Disabled {
		return
	}
	s.tunnel = &tunnel.Server{Authorize: s.node, Logger: s.o.Logger.With("component", "tunnel")}
	s.front.Handle(tunnel.Path, s.tunnel)
	s.tunnels = append(s.tunnels, s.tunnel)
}

// node returns the node that a request is from, by its certificate.
func (s *Server) node(r *http.Request) (string, error) {
	id, err := s.identity.store.VerifyPeer(r.TLS, pki.ClientCA)
	if err != nil {
		return "", err
	}
	name, ok := strings.CutPrefix(id.CN, "system:node:")
	if !ok || name == "" || !slices.Contains(id.Org, pki.NodesOrg) {
		return "", errors.New("this is for nodes of the cluster, and the client certificate is not that of one")
	}
	return name, nil
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
