// Package k3s takes over what K3s has left on a machine: its configuration,
// its certificate authorities and token, and the objects of its SQLite
// datastore, so that the same cluster goes on as skiff's. K3s' own files are
// only read. The package starts nothing and asks no API: it works while neither
// K3s nor skiff runs. Start reading at Migrate; DESIGN.md says which objects
// come along.
package k3s

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"skiff/internal/lockfile"
	"skiff/pkg/paths"
	"skiff/pkg/snapshot"
)

// Source is where K3s keeps things.
type Source struct {
	Data       string // /var/lib/rancher/k3s
	Config     string // config.yaml; drop-ins are in Config+".d"
	Registries string
	Password   string   // of the node
	Units      []string // unit files of systemd, and environment files; those that exist count
	Run        string   // K3s' sockets; shims name it in their arguments
	Proc       string   // root of procfs
}

// Options says what to take over, and how.
type Options struct {
	From  Source
	To    paths.Layout
	Force bool // put in the place of what is there, which is kept beside it
	Dry   bool // only say what would be done
}

// Report says what was done, or would be.
type Report struct {
	Role     string // "server" or "agent"
	Written  []string
	Aside    []string // what was in the way, by its new name
	Settings []Setting
	Objects  Objects
	// Server is true if the cluster's authorities and token came along.
	Server bool
	Advice []string
}

// ExistsError says that something is there that would be overwritten.
type ExistsError struct{ Paths []string }

// Error names the files and the way out.
func (e *ExistsError) Error() string {
	return fmt.Sprintf("these are there already, and would be replaced: %v; with --force they are renamed to …before-migration… first", e.Paths)
}

// Migrate takes over what K3s has left. Nothing of skiff's is changed before
// everything of K3s' has been read and written beside it.
func Migrate(ctx context.Context, o Options, now time.Time) (r Report, err error) {
	if err := o.From.found(); err != nil {
		return r, err
	}
	if err := o.From.stopped(); err != nil {
		return r, err
	}
	settings, err := o.From.settings()
	if err != nil {
		return r, err
	}
	r.Role = settings.role
	plan, err := newPlan(o, settings, &r)
	if err != nil {
		return r, err
	}
	if o.Dry {
		return r, plan.try(ctx, &r)
	}
	if there := plan.there(); len(there) > 0 && !o.Force {
		return r, &ExistsError{there}
	}
	if err := os.MkdirAll(o.To.Data, 0o755); err != nil {
		return r, fmt.Errorf("make --data-dir: %w", err)
	}
	lock, err := lockfile.Acquire(o.To.LockFile())
	if held, ok := errors.AsType[*lockfile.HeldError](err); ok {
		return r, fmt.Errorf("skiff (process %d) is running on --data-dir %s; stop it first: %w", held.PID, o.To.Data, err)
	}
	if err != nil {
		return r, fmt.Errorf("take --data-dir: %w", err)
	}
	defer func() { err = errors.Join(err, lock.Release()) }()
	if err := snapshot.Finish(o.To); err != nil {
		return r, err
	}
	draft := o.To.ServerRestored() + ".tmp"
	if err := os.RemoveAll(draft); err != nil {
		return r, fmt.Errorf("remove an earlier attempt: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(draft)) }()
	if err := plan.build(ctx, draft, &r); err != nil {
		return r, err
	}
	return r, plan.install(draft, now, &r)
}

// found says what is missing where K3s should be.
func (s Source) found() error {
	if _, err := os.Stat(s.Data); err != nil {
		if _, cerr := os.Stat(s.Config); cerr != nil {
			return fmt.Errorf("there is no K3s here: neither %s nor %s can be read (%w); --from and --config say where they are", s.Data, s.Config, err)
		}
	}
	if _, err := os.Stat(filepath.Join(s.Data, "server", "db", "etcd")); err == nil {
		return fmt.Errorf("K3s keeps its objects in etcd here (%s), and skiff can take them over from SQLite only: keep the manifests of what you run and apply them to a new skiff, or move the cluster to a single K3s server with SQLite first", filepath.Join(s.Data, "server", "db", "etcd"))
	} else if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("look for K3s' datastore: %w", err)
	}
	return nil
}

// stopped refuses a K3s that runs, and pods of it that still do: their
// containers would stay beside those that skiff starts for the same pods.
func (s Source) stopped() error {
	entries, err := os.ReadDir(s.Proc)
	if err != nil {
		return fmt.Errorf("look for a running K3s: %w", err)
	}
	for _, e := range entries {
		comm, err := os.ReadFile(filepath.Join(s.Proc, e.Name(), "comm"))
		if err != nil {
			continue // No process, or none any more.
		}
		cmdline, err := os.ReadFile(filepath.Join(s.Proc, e.Name(), "cmdline"))
		if err != nil {
			continue
		}
		switch what := running(string(comm), string(cmdline), s.Run); what {
		case "":
		case "a pod":
			return fmt.Errorf("pods of K3s still run (process %s): stop them with k3s-killall.sh, which K3s' installer has put beside the k3s command", e.Name())
		default:
			return fmt.Errorf("K3s runs (process %s): stop it, with its pods, by k3s-killall.sh, and disable it: systemctl disable --now k3s", e.Name())
		}
	}
	return nil
}
