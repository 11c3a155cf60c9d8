// Package edge is the HTTP data plane of a node: it listens where it is told, chooses a route for each request and carries the request to a
// backend. It knows nothing of Kubernetes: a Config says everything in the terms of HTTP, and whoever watches Ingress and Gateway API objects
// compiles them to one. Start reading at Config, then Server.Apply, then socket.handle for what happens to a request; DESIGN.md says why it is
// built this way and what never happens to a connection.
package edge
