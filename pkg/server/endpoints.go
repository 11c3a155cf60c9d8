package server

import (
	"net/http"
	"sync"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"skiff/pkg/join"
	"skiff/pkg/pki"
	"skiff/pkg/server/front"
	"skiff/pkg/server/helm"
	"skiff/pkg/tunnel"
)

// endpoints is every path of the server's port that is not the Kubernetes
// API's: who may call it, how often, and what it costs at most. What is not
// here, nor Kubernetes', is 404. Rates are those of one address, behind which
// there may be a whole fleet that starts at once.
func (s *Server) endpoints() []front.Route {
	i, read, write := s.identity, []string{http.MethodGet, http.MethodHead}, []string{http.MethodPost}
	anyone := front.Access{Name: "anyone"}
	routes := []front.Route{
		{
			Path: "/ping", Methods: read, Rate: 20, Burst: 200, InFlight: 64,
			Who: anyone, Handler: s.front.Ping(),
		},
		{
			Path: join.CACertsPath, Methods: read, Rate: 20, Burst: 200, InFlight: 64,
			Who: anyone, Handler: s.front.CACerts(func() []byte { return i.store.CertPEM(pki.ServerCA) }),
		},
		{
			Path: join.Path, Methods: write, Rate: 20, Burst: 200, InFlight: 20,
			Who:  front.Access{Name: "a token, or a node for itself"}, // Who it is about is in the body.
			Body: join.MaxRequest, Handler: i.join,
		},
		{
			Path: join.TokenPath, Methods: write, Rate: 1, Burst: 20, InFlight: 2,
			Who:  front.Access{Name: "the server token, or system:masters"}, // Wrong tokens are counted there.
			Body: join.MaxRequest, Handler: join.Rotation{Server: i.join},
		},
	}
	if s.tunnel != nil {
		routes = append(routes, front.Route{
			Path: tunnel.Path, Methods: []string{http.MethodGet}, Rate: 10, Burst: 200, // They last: a node has four at most.
			Who: s.nodes(), Handler: s.tunnel,
		})
	}
	return routes
}

// nodes are callers with a valid certificate of a node: join.Server.Node says
// which.
func (s *Server) nodes() front.Access {
	return front.Access{Name: "certificate of a node", Check: func(r *http.Request) error {
		_, err := s.identity.join.Node(r)
		return err
	}}
}

// staticCharts serves the charts of the static directory, which hold no
// secrets: HelmCharts of K3s name them by URL.
func staticCharts(files http.Handler) front.Route {
	return front.Route{
		Path: helm.StaticPrefix, Methods: []string{http.MethodGet, http.MethodHead}, Rate: 5, Burst: 50, InFlight: 8,
		Who: front.Access{Name: "anyone"}, Handler: files,
	}
}

// client returns a function that gives a client of the API, nil until that has
// been built. Requests of nodes do not wait for each other's turn.
func (s *Server) client() func() kubernetes.Interface {
	var mu sync.Mutex
	var made kubernetes.Interface
	return func() kubernetes.Interface {
		mu.Lock()
		defer mu.Unlock()
		if made != nil {
			return made
		}
		if s.api == nil || s.api.Loopback() == nil {
			return nil
		}
		cfg := rest.AddUserAgent(s.api.Loopback(), "node-passwords")
		cfg.QPS, cfg.Burst = 100, 200
		client, err := kubernetes.NewForConfig(cfg)
		if err != nil {
			s.o.Logger.Error("client for node passwords could not be made", "error", err)
			return nil
		}
		made = client
		return client
	}
}
