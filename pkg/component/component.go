// Package component supervises the long-running parts of one skiff process:
// it starts them in dependency order, says what each is waiting for, and stops
// them in reverse. It knows nothing about Kubernetes. Start reading at Group;
// DESIGN.md has the state machine.
package component

import "context"

// Component is one long-running part of the process.
//
// Run is called at most once unless the component was added with Restart. It
// blocks until ctx ends and everything it started has stopped: Run returning
// is what "stopped" means. Returning while ctx is alive, also with nil, is a
// failure. The ctx is the component's own and ends only after every component
// that was added After it has returned.
type Component interface {
	// Name is the component's stable name ("kube-apiserver"): it appears in
	// the log, in `skiff status` and as a pprof label.
	Name() string
	Run(ctx context.Context) error
}

// Readier is optionally implemented by a Component. Ready returns nil when the
// component can serve those that depend on it, otherwise an error that tells a
// person what is still missing. It is polled often until it is nil and then
// now and again for as long as the component runs, so it is readiness and
// health at once. It must be safe to call concurrently with Run, and before
// Run has got anywhere.
type Readier interface {
	Ready(ctx context.Context) error
}
