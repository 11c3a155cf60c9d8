package component

import (
	"context"
	"time"
)

// DefaultStopWithin is how long a component may take to return after its ctx
// has ended, unless StopWithin says otherwise.
const DefaultStopWithin = 10 * time.Second

// Ref is a handle to a component of a Group. It exists only once the component
// has been added, so a dependency can be neither misspelt nor a cycle. The zero
// Ref refers to nothing and is ignored by After, which lets a composition root
// pass on the handle of a part that the user has disabled.
type Ref struct{ n *node }

// Name returns the component's name, or "" for the zero Ref.
func (r Ref) Name() string {
	if r.n == nil {
		return ""
	}
	return r.n.name
}

// Option changes how a Group treats one component.
type Option func(*node)

// After makes the component start when all deps have been ready once, and stop
// before any of them is told to. The deps must be of the same Group.
func After(deps ...Ref) Option {
	return func(n *node) {
		for _, d := range deps {
			if d.n != nil {
				n.deps = append(n.deps, d.n)
			}
		}
	}
}

// Backoff is the pause between two runs of a component that is restarted: Min
// after the first failure, doubling up to Max. A run that lasted longer than
// Max starts the sequence again. Zero values mean 500 ms and 30 s.
type Backoff struct{ Min, Max time.Duration }

// Restart lets the component be run again after it has failed. Those that
// depend on it go on meanwhile and the component counts as degraded. Without
// Restart its failure stops the whole Group.
func Restart(b Backoff) Option {
	if b.Min <= 0 {
		b.Min = 500 * time.Millisecond
	}
	if b.Max <= 0 {
		b.Max = 30 * time.Second
	}
	b.Max = max(b.Max, b.Min)
	return func(n *node) { n.restart = &b }
}

// StopWithin replaces DefaultStopWithin. A component that takes longer is named
// in the log and in the error of Group.Run, and the stop goes on without it.
func StopWithin(d time.Duration) Option {
	return func(n *node) { n.stopWithin = d }
}

// Func makes a Component of two functions. The ready function may be nil: the
// component is then ready as soon as it runs.
func Func(name string, run func(context.Context) error, ready func(context.Context) error) Component {
	return &funcComponent{name: name, run: run, ready: ready}
}

type funcComponent struct {
	name       string
	run, ready func(context.Context) error
}

var (
	_ Component = (*funcComponent)(nil)
	_ Readier   = (*funcComponent)(nil)
)

func (f *funcComponent) Name() string                  { return f.name }
func (f *funcComponent) Run(ctx context.Context) error { return f.run(ctx) }

func (f *funcComponent) Ready(ctx context.Context) error {
	if f.ready == nil {
		return nil
	}
	return f.ready(ctx)
}
