package component

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// Group runs components: each starts when what it depends on is ready and is
// told to stop when all that depend on it have returned. One component failing
// without Restart stops the Group. All methods are safe for concurrent use;
// Run is called once.
type Group struct {
	logger *slog.Logger
	ready  chan struct{}
	stop   chan struct{} // closed when the stop begins
	wg     sync.WaitGroup

	mu       sync.Mutex
	nodes    []*node
	running  bool
	stopping bool
	isReady  bool
	spawn    func(*node)             // starts a node's life with the values of Run's ctx
	cancel   context.CancelCauseFunc // begins the stop
	cause    error                   // why the Group stops; set before stop is closed
	changed  chan struct{}           // closed at the next change of a Status; nil if nobody waits
	errs     []error
}

// NewGroup returns an empty Group. Its log records carry the attribute
// "component" where they are about one.
func NewGroup(logger *slog.Logger) *Group {
	return &Group{
		logger: logger,
		ready:  make(chan struct{}),
		stop:   make(chan struct{}),
	}
}

// Add registers a component. On a running Group it starts as soon as its
// dependencies allow; on a stopping one it never does.
func (g *Group) Add(c Component, opts ...Option) Ref {
	n := &node{name: c.Name(), run: c.Run}
	if r, ok := c.(Readier); ok {
		n.check = r.Ready
	}
	return g.add(n, opts)
}

// Task registers a function that has something to do once. The task is ready
// when fn has returned nil; an error is a failure like any component's. The
// ctx lives on after fn has returned, until all that depend on the task have
// returned.
func (g *Group) Task(name string, fn func(context.Context) error, opts ...Option) Ref {
	return g.add(&node{name: name, run: fn, task: true}, opts)
}

func (g *Group) add(n *node, opts []Option) Ref {
	n.group = g
	n.logger = g.logger.With("component", n.name)
	n.stopWithin = DefaultStopWithin
	n.ready = make(chan struct{})
	n.done = make(chan struct{})
	for _, o := range opts {
		o(n)
	}
	n.status.Name = n.name
	for _, d := range n.deps {
		n.status.After = append(n.status.After, d.name)
	}

	g.mu.Lock()
	defer g.mu.Unlock()
	g.nodes = append(g.nodes, n)
	for _, d := range n.deps {
		d.dependents = append(d.dependents, n)
	}
	n.status.enter(Waiting, "")
	switch {
	case g.stopping:
		n.status.enter(Stopped, "added while stopping")
		close(n.done)
	case g.running:
		g.spawn(n)
	}
	return Ref{n}
}

// errStop is the cause of the components' cancellation when the ctx of Run has
// ended without one of its own.
var errStop = errors.New("skiff is stopping")

// Run starts the components and blocks until ctx ends or a component fails,
// and then until all have returned, each for at most its StopWithin. It returns
// nil after an orderly stop, else every failure joined, each with the name of
// its component.
func (g *Group) Run(ctx context.Context) error {
	runCtx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	g.mu.Lock()
	if g.running {
		g.mu.Unlock()
		return errors.New("run group: it has been run already")
	}
	g.running = true
	g.cancel = cancel
	// A node is told to stop in its turn, not by the end of ctx. Who calls spawn
	// holds g.mu and has seen !g.stopping, which is why wg.Go never races with
	// wg.Wait.
	base := context.WithoutCancel(ctx)
	g.spawn = func(n *node) {
		g.wg.Go(func() {
			defer close(n.done)
			n.supervise(base)
		})
	}
	for _, n := range g.nodes {
		g.spawn(n)
	}
	g.updateReady()
	g.mu.Unlock()

	<-runCtx.Done()

	cause := context.Cause(runCtx)
	g.logger.Info("stopping", "reason", cause)
	begin := time.Now()
	g.mu.Lock()
	g.stopping = true
	g.cause = cause
	if errors.Is(cause, context.Canceled) {
		g.cause = errStop
	}
	g.mu.Unlock()
	close(g.stop)
	g.wg.Wait()

	g.mu.Lock()
	defer g.mu.Unlock()
	g.logger.Info("stopped", "after", time.Since(begin).Round(time.Millisecond))
	return errors.Join(g.errs...)
}

// Ready is closed when all components added so far have been ready at the same
// time for the first time.
func (g *Group) Ready() <-chan struct{} { return g.ready }

// Changed returns a channel that is closed when the Status of a component has
// another state, message or number of restarts than at the time of the call.
func (g *Group) Changed() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.changed == nil {
		g.changed = make(chan struct{})
	}
	return g.changed
}

// Status returns a snapshot of all components in the order they were added.
func (g *Group) Status() []Status {
	g.mu.Lock()
	defer g.mu.Unlock()
	all := make([]Status, len(g.nodes))
	for i, n := range g.nodes {
		all[i] = n.status.clone()
	}
	return all
}

// fail notes an error of the named component and begins the stop.
func (g *Group) fail(name string, err error) {
	err = fmt.Errorf("%s: %w", name, err)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.errs = append(g.errs, err)
	g.cancel(err)
}

// updateReady closes g.ready when everything is. The caller holds g.mu.
func (g *Group) updateReady() {
	if g.isReady || !g.running || g.stopping {
		return
	}
	for _, n := range g.nodes {
		if n.status.State != Ready {
			return
		}
	}
	g.isReady = true
	close(g.ready)
}
