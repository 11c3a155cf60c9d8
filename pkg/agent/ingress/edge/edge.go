// Package edge is the HTTP data plane of a node: it listens where it is told, chooses a route for each request and carries the request to a
// backend. It knows nothing of Kubernetes: a Config says everything in the terms of HTTP, and whoever watches Ingress and Gateway API objects
// compiles them to one. Start reading at Config, then Server.Apply, then router.go for how a request finds its route; DESIGN.md says why it is
// built this way and what never happens to a connection.
//
//	func New(Options) *Server
//	func (*Server) Apply(Config) error                     // at any time until Run ends; opens listeners at once; what is wrong is joined, the rest serves
//	func (*Server) SetEndpoints(key string, []Endpoint) bool // false: no such backend in the last Config
//	func (*Server) Addr(listener string) net.Addr           // where a listener is bound, nil if it is not
//	func (*Server) Run(ctx) error                           // until ctx ends, then drains
//	func (*Server) Collectors() []prometheus.Collector
package edge
