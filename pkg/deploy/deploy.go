// Package deploy applies manifests: the files below a directory as they appear
// and change, and those bundled with skiff. Each file is tracked by an AddOn
// object, what leaves a file leaves the cluster, and a broken file harms no
// other. It must not know what the manifests are for, nor how the API is
// served. Start reading at Deployer, then pass.go; DESIGN.md has the rules.
package deploy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"

	"k8s.io/client-go/rest"

	"skiff/internal/signal"
	"skiff/pkg/component"
	"skiff/pkg/status"
)

// Notes takes lines for `skiff status`; status.Notes satisfies it.
type Notes interface {
	Set(key, message string)
	Clear(key string)
}

// Options say what to apply and where.
type Options struct {
	// Config returns how to reach the API as an administrator. It may block
	// until that is known.
	Config func(ctx context.Context) (*rest.Config, error)
	// Dir is the directory with the user's files. It is made when missing.
	Dir string
	// Bundled holds skiff's own manifests at its root. A file of the user with
	// the same name takes the place of one of them. May be nil.
	Bundled fs.FS
	// Disabled reports whether the objects of the named file are unwanted. May
	// be nil.
	Disabled func(name string) bool
	// Vars are put in the place of %{NAME}% in bundled files.
	Vars map[string]string
	// AddOns is told where all manifests stand, after each change. It, Notes and
	// Logger may be nil.
	AddOns func(list []status.AddOn)
	Notes  Notes
	Logger *slog.Logger
}

// Deployer is the component. Make it with New.
type Deployer struct {
	o Options

	mu      sync.Mutex
	bundled error // guarded by mu; nil once the bundled manifests have been applied
}

var (
	_ component.Component = (*Deployer)(nil)
	_ component.Readier   = (*Deployer)(nil)
)

// New returns a Deployer that has not started anything.
func New(o Options) *Deployer {
	if o.Disabled == nil {
		o.Disabled = func(string) bool { return false }
	}
	if o.AddOns == nil {
		o.AddOns = func([]status.AddOn) {}
	}
	if o.Notes == nil {
		o.Notes = noNotes{}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Deployer{o: o, bundled: errors.New("bundled manifests have not been applied yet")}
}

// Name implements component.Component.
func (d *Deployer) Name() string { return "deploy" }

// Ready implements component.Readier: nil once the bundled manifests have been
// applied. Files of the user do not count; `skiff status` has a line for each
// that does not work.
func (d *Deployer) Ready(context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.bundled
}

// Run implements component.Component.
func (d *Deployer) Run(ctx context.Context) error {
	if err := os.MkdirAll(d.o.Dir, 0o700); err != nil {
		return fmt.Errorf("make manifest directory: %w", err)
	}
	config, err := d.o.Config(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("get access to the API for manifests: %w", err)
	}
	cluster, err := newCluster(config, d.o.Logger)
	if err != nil {
		return fmt.Errorf("make client for manifests: %w", err)
	}
	changed := signal.New()
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wg.Go(func() { watchTree(ctx, d.o.Dir, changed.Send, d.o.Logger) })

	w := &worker{o: d.o, cluster: cluster, states: map[string]*state{}, now: time.Now, kick: changed.Send}
	w.restores = newRestores(ctx, cluster, &wg, changed.Send)
	w.bundledDone = d.setBundled
	return w.run(ctx, changed)
}

func (d *Deployer) setBundled(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.bundled != nil {
		d.bundled = err
	}
}

type noNotes struct{}

func (noNotes) Set(string, string) {}
func (noNotes) Clear(string)       {}
