// Package removal takes skiff off a machine: it ends it (pkg/halt), then undoes
// what it has changed (pkg/hostchange). It can be ended at any moment, and run
// again. It knows nothing of command lines. Start reading at Removal.Run.
package removal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"skiff/internal/lockfile"
	"skiff/pkg/halt"
	"skiff/pkg/hostchange"
	"skiff/pkg/paths"
)

// Removal is one run of it.
type Removal struct {
	Layout paths.Layout
	// KeepData keeps the data directory, volumes elsewhere, and what lies beside
	// the configuration: a later installation finds everything.
	KeepData bool
	// Patience is how long skiff may take that was asked to stop; see halt.Halt.
	Patience time.Duration
	// Self is the executable of this process.
	Self string
	Run  hostchange.Run
	// Say is told what is being done, a line each.
	Say func(format string, args ...any)
}

// ErrNothing says that there is nothing to remove.
var ErrNothing = errors.New("skiff is not installed on this machine")

// Load reads what is written down.
func (r *Removal) Load() (*hostchange.Recorder, error) {
	rec, err := hostchange.Open(r.Layout)
	if err != nil {
		return nil, err
	}
	if !rec.Fresh() {
		return rec, nil
	}
	if _, err := os.Stat(r.Layout.Data); err == nil {
		return nil, fmt.Errorf("there is a data directory %s but no journal %s, so nobody knows what skiff has changed here; start skiff once, which writes one, or remove it by hand", r.Layout.Data, r.Layout.HostChanges())
	}
	return nil, ErrNothing
}

// DataDirs are the data directories of the skiffs that have run here.
func DataDirs(changes []hostchange.Change) []string { return values(changes, hostchange.Data) }

// Units are the files of the services that run skiff.
func Units(changes []hostchange.Change) []string { return values(changes, hostchange.Unit) }

func values(changes []hostchange.Change, kind hostchange.Kind) []string {
	var out []string
	for _, c := range changes {
		if c.Kind == kind {
			out = append(out, c.Value)
		}
	}
	return out
}

// Remove does it all.
func (r *Removal) Remove(ctx context.Context, rec *hostchange.Recorder) error {
	changes := rec.Lasting()
	if err := r.check(changes, rec.Fleeting()); err != nil {
		return err
	}
	var locks []*lockfile.Lock
	defer func() {
		for _, l := range locks {
			_ = l.Release() // The file may be gone.
		}
	}()
	for _, dir := range DataDirs(changes) {
		lock, err := r.Stop(ctx, rec, dir)
		if err != nil {
			return err
		}
		if lock != nil {
			locks = append(locks, lock)
		}
	}
	// What was written down while it stopped counts, too.
	rec, err := hostchange.Open(r.Layout)
	if err != nil {
		return err
	}
	if err := r.KillAll(ctx, rec); err != nil {
		return err
	}
	if err := r.check(rec.Lasting(), nil); err != nil {
		return err
	}
	return r.undo(rec).Lasting(ctx, r.kept)
}

// check finds what must not be removed.
func (r *Removal) check(changes, fleeting []hostchange.Change) error {
	changes = slices.DeleteFunc(slices.Clone(changes), r.kept)
	mounts, err := hostchange.Foreign(changes, fleeting)
	if err != nil {
		return err
	}
	if len(mounts) == 0 {
		return nil
	}
	way := "unmount it first"
	if !r.KeepData {
		way += ", or give --keep-data"
	}
	return fmt.Errorf("nothing has been removed, because there is mounted what skiff has not mounted:\n  %s\n%s", strings.Join(mounts, "\n  "), way)
}

// kept reports whether a change stays.
func (r *Removal) kept(c hostchange.Change) bool {
	if !r.KeepData {
		return false
	}
	switch c.Kind {
	case hostchange.Data, hostchange.Volumes:
		return true
	case hostchange.File, hostchange.Dir:
		return c.Value != r.Layout.AdminKubeconfig() && c.Value != r.Layout.Etc && strings.HasPrefix(c.Value, r.Layout.Etc+"/")
	}
	return false
}

// Stop ends the skiff of a data directory, whose lock is the caller's then.
func (r *Removal) Stop(ctx context.Context, rec *hostchange.Recorder, dir string) (*lockfile.Lock, error) {
	return r.halt(rec, dir).Stop(ctx)
}

// KillAll ends what skiff has left running, and undoes what a reboot would.
func (r *Removal) KillAll(ctx context.Context, rec *hostchange.Recorder) error {
	for _, dir := range DataDirs(rec.Lasting()) {
		if err := r.halt(rec, dir).Kill(ctx); err != nil {
			return err
		}
	}
	return r.undo(rec).Boot(ctx, r.Layout.Run)
}

func (r *Removal) halt(rec *hostchange.Recorder, dir string) *halt.Halt {
	layout := r.Layout
	layout.Data = dir
	return &halt.Halt{Layout: layout, Units: Units(rec.Lasting()), Patience: r.Patience, Run: r.Run, Say: r.Say}
}

// Halt is what ends the skiff of a data directory.
func (r *Removal) Halt(rec *hostchange.Recorder, dir string) *halt.Halt { return r.halt(rec, dir) }

func (r *Removal) undo(rec *hostchange.Recorder) *hostchange.Undo {
	return &hostchange.Undo{
		Recorder: rec, Run: r.Run, Self: r.Self,
		Step: func(c hostchange.Change) error { r.Say("%s", describe(c)); return nil },
		Left: func(what string) { r.Say("left: %s, which skiff has not made", what) },
	}
}

// describe says what is undone, for people.
func describe(c hostchange.Change) string {
	name, before, _ := strings.Cut(c.Value, "=")
	switch c.Kind {
	case hostchange.Sysctl:
		if before == "*" {
			before = "as it was"
		}
		return fmt.Sprintf("restoring sysctl %s = %s", name, c.Before)
	case hostchange.Mounts:
		return "unmounting what is below " + c.Value
	case hostchange.Cgroup:
		return "ending control group " + c.Value
	case hostchange.Propagation:
		return "restoring the propagation of mounts"
	case hostchange.Table:
		return "removing nftables table " + c.Value
	case hostchange.Routes:
		return "removing the routes to other nodes' pods"
	case hostchange.Replaced:
		return "putting back " + c.Value
	case hostchange.UFW:
		return "removing ufw's rule " + c.Value
	case hostchange.Firewalld:
		return "removing from firewalld what was added with " + c.Value
	case hostchange.TimeSync:
		return "switching the time service off, as it was"
	case hostchange.Unit:
		return "removing service " + filepath.Base(c.Value)
	}
	kind := map[hostchange.Kind]string{
		hostchange.Data: "data directory ", hostchange.Tree: "directory ", hostchange.Dir: "directory ", hostchange.Volumes: "volumes ",
		hostchange.Interface: "interface ", hostchange.Address: "address ", hostchange.Link: "link ",
	}[c.Kind]
	return "removing " + kind + c.Value
}
