package edge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"
)

// Options are what a Server is made with and keeps.
type Options struct {
	Logger *slog.Logger
	// Listen opens sockets; nil is the net package's. Tests and those who hold sockets already give their own.
	Listen func(ctx context.Context, network, address string) (net.Listener, error)
	// Challenge answers ACME HTTP-01: the key authorization of a token asked of a host, if there is one. nil answers none.
	Challenge func(host, token string) (string, bool)
	// Drain is how long requests may go on when Run ends or a listener closes; 0 is 30 s.
	Drain time.Duration
}

// ListenerError is why a listener does not answer. Apply returns it, joined with others.
type ListenerError struct {
	// Listener is its name.
	Listener string
	Err      error
}

func (e *ListenerError) Error() string { return fmt.Sprintf("listener %s: %v", e.Listener, e.Err) }
func (e *ListenerError) Unwrap() error { return e.Err }

// RouteError is what makes no sense in a route: a broken expression, a password hash nobody can check. The route is left out and the rest serves.
type RouteError struct {
	// Route is its name.
	Route string
	Err   error
}

func (e *RouteError) Error() string { return fmt.Sprintf("route %s: %v", e.Route, e.Err) }
func (e *RouteError) Unwrap() error { return e.Err }

// ErrClosed is Apply's after Run ended.
var ErrClosed = errors.New("the edge is closed")
