package upgrade

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"skiff/internal/atomicfile"
	"skiff/internal/lockfile"
	"skiff/pkg/release"
)

// Installer puts a new executable in the place of the one of the service.
type Installer struct {
	Dir     Dir
	Target  string  // the executable of the service
	Present Release // what it is
	Service Service
	Data    Data
	// Config are files and directories that go back with the executable.
	Config []string
	// Suits refuses a version that does not suit the cluster.
	Suits func(to Release) error
	// Snapshot makes one of the server's data; nil where there is none.
	Snapshot func(ctx context.Context) (path string, err error)
	// Try has the new executable look at the configuration and at a copy of the
	// data, without doing anything to either.
	Try func(ctx context.Context, executable, snapshot string) error
	// Confirm asks before anything is changed.
	Confirm       func(m release.Manifest) error
	Limit, Settle time.Duration
	// Force goes on although skiff is not ready now.
	Force bool
	// DryRun ends where something would be changed.
	DryRun bool
	// Say tells the person what is being done.
	Say func(format string, args ...any)
}

// Install does everything up to the new start of the service, which is to be
// followed by Follow. On an error nothing has changed. ErrSame says that there
// is nothing to do.
func (i *Installer) Install(ctx context.Context, r *release.Reader) (err error) {
	if err := os.MkdirAll(string(i.Dir), 0o700); err != nil {
		return fmt.Errorf("make directory of the upgrade: %w", err)
	}
	lock, err := takeLock(ctx, i.Dir.installLock())
	if held, ok := errors.AsType[*lockfile.HeldError](err); ok {
		return fmt.Errorf("another upgrade is at work (process %d); see `skiff upgrade status`", held.PID)
	}
	if err != nil {
		return fmt.Errorf("begin the upgrade: %w", err)
	}
	defer func() { err = errors.Join(err, lock.Release()) }()
	if err := i.settled(ctx); err != nil {
		return err
	}
	to, err := i.check(ctx, r.Manifest)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, i.tidy()) }()
	if err := i.stage(r); err != nil {
		return err
	}
	snapshot, err := i.snapshot(ctx)
	if err != nil {
		return err
	}
	changed := false
	defer func() {
		if snapshot != "" && !changed { // only a few are kept, and this one is of no moment
			err = errors.Join(err, os.Remove(snapshot))
		}
	}()
	i.Say("Trying the new version on a copy of the data and with the configuration.")
	if err := i.Try(ctx, staged(i.Target), snapshot); err != nil {
		return fmt.Errorf("the new version cannot be used here; nothing has been changed: %w", err)
	}
	if i.DryRun {
		i.Say("All is well; with --dry-run it ends here, and nothing has been changed.")
		return nil
	}
	changed = true // or may be
	if err := i.swap(ctx, to, snapshot); err != nil {
		return err
	}
	return i.restart(ctx)
}

// settled refuses to begin while the last upgrade is not over. One that was
// interrupted before it had changed anything is over now.
func (i *Installer) settled(ctx context.Context) error {
	s, err := i.Dir.update(ctx, func(s *State) error {
		if s.Phase != Prepared || s.New.is(s.Target) {
			return errUnchanged
		}
		s.drop()
		return nil
	})
	if err != nil {
		return err
	}
	if !s.Phase.Ended() {
		return fmt.Errorf("an upgrade is not over yet, wait for it or take it back with `skiff upgrade rollback`: %s", s.Text())
	}
	return nil
}

func (s *State) drop() { s.Phase, s.Ended = Dropped, time.Now().UTC() }

// check compares what the file has with the machine and the cluster.
func (i *Installer) check(ctx context.Context, m release.Manifest) (Release, error) {
	to := Release{Version: m.Version, Kubernetes: m.Kubernetes, Schema: m.Schema}
	if m.OS != runtime.GOOS || m.Arch != runtime.GOARCH {
		return to, fmt.Errorf("the file is for %s/%s, and this machine is %s/%s; take %s",
			m.OS, m.Arch, runtime.GOOS, runtime.GOARCH, release.FileName(m.Version, runtime.GOARCH))
	}
	if to.Version == i.Present.Version {
		return to, ErrSame
	}
	if err := i.Suits(to); err != nil {
		return to, err
	}
	if h := askHealth(ctx, i.Service.Socket, identity{}); h.PID != 0 && !h.Ready && !i.Force {
		return to, fmt.Errorf("skiff is not ready before the upgrade, and could not be judged by that after it: %s; mend that first, or use --force, and then it is enough that the new version runs", h.Why)
	}
	present, err := identify(i.Target)
	if err != nil {
		return to, fmt.Errorf("look at the executable of the service: %w", err)
	}
	if err := room(filepath.Dir(i.Target), m.Size); err != nil {
		return to, err
	}
	// At worst the old executable does not fit beside the new one, and is copied.
	if err := room(string(i.Dir), present.Size); err != nil {
		return to, err
	}
	return to, i.Confirm(m)
}

// stage unpacks the new executable beside the old one.
func (i *Installer) stage(r *release.Reader) error {
	i.Say("Unpacking skiff %s.", r.Manifest.Version)
	err := writeFile(staged(i.Target), func(w io.Writer) error { return r.Extract(w) })
	if err != nil {
		return fmt.Errorf("put the new version beside %s: %w", i.Target, err)
	}
	return nil
}

func (i *Installer) snapshot(ctx context.Context) (string, error) {
	if i.Snapshot == nil {
		return "", nil
	}
	path, err := i.Snapshot(ctx)
	if err != nil {
		return "", fmt.Errorf("make a snapshot before the upgrade: %w", err)
	}
	i.Say("Snapshot made: %s.", path)
	return path, nil
}

// Tidy removes what an upgrade has left that was cut off before it had changed
// anything. The service calls it when it starts.
func Tidy(dir Dir, executable string, logger *slog.Logger) {
	var left []string
	for _, name := range []string{staged(executable), dir.Scratch()} {
		if _, err := os.Lstat(name); err == nil {
			left = append(left, name)
		}
	}
	if len(left) == 0 || dir.Installing() {
		return
	}
	for _, name := range left {
		logger.Info("an upgrade was cut off before it had changed anything; what is left of it is removed", "file", name)
		if err := os.RemoveAll(name); err != nil {
			logger.Warn("what is left of an upgrade could not be removed", "file", name, "error", err)
		}
	}
}

// tidy removes what is of no use after the installation, however it ended.
func (i *Installer) tidy() error {
	errs := []error{os.RemoveAll(i.Dir.Scratch())}
	if err := os.Remove(staged(i.Target)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// swap is the change itself. Whatever moment the power fails at, the service's
// executable is the old one or the new one, whole; and before it is the new one
// the journal and the guard are on the disk.
func (i *Installer) swap(ctx context.Context, to Release, snapshot string) error {
	if err := duplicate(i.Target, i.Dir.Previous(), i.Dir.Previous()+".tmp"); err != nil {
		return fmt.Errorf("keep the present executable: %w", err)
	}
	if err := i.Dir.saveConfig(i.Config); err != nil {
		return err
	}
	old, errOld := identify(i.Dir.Previous())
	next, errNew := identify(staged(i.Target))
	if err := errors.Join(errOld, errNew); err != nil {
		return fmt.Errorf("look at the executables: %w", err)
	}
	_, err := i.Dir.update(ctx, func(s *State) error {
		*s = State{
			Phase: Prepared, From: i.Present, To: to, Target: i.Target, Old: old, New: next, Begun: time.Now().UTC(),
			Service: i.Service, Limit: i.Limit, Settle: i.Settle, Undemanding: i.Force, Snapshot: snapshot, Data: i.Data,
			// What a later form of the datastore has, the old version cannot read.
			RestoreData: snapshot != "" && to.Schema > i.Present.Schema,
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := i.Dir.arm(); err != nil {
		return err
	}
	if err := os.Rename(staged(i.Target), i.Target); err != nil {
		return fmt.Errorf("put the new version in place: %w", err)
	}
	if err := atomicfile.SyncDir(filepath.Dir(i.Target)); err != nil {
		return fmt.Errorf("put the new version in place: %w", err)
	}
	_, err = i.Dir.update(ctx, func(s *State) error { s.Phase = Watched; return nil })
	return err
}

// arm makes the service call the guard before each start. The guard is the old
// executable: nothing of the new one is needed to get rid of it.
func (d Dir) arm() error {
	script := fmt.Sprintf("#!/bin/sh\n# Made by skiff upgrade: counts the starts of the new version. It goes when all is well.\nexec '%s' upgrade guard\n", d.Previous())
	return atomicfile.Write(d.Guard(), []byte(script), 0o700)
}

// disarm ends that. The journal has the end of the upgrade by then.
func (d Dir) disarm() error {
	for _, name := range []string{d.Guard(), d.configFile()} {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("end the watch of the new version: %w", err)
		}
	}
	return atomicfile.SyncDir(string(d))
}

func (i *Installer) restart(ctx context.Context) error {
	i.Say("The new version is in place; starting it. Pods go on.")
	if err := i.Service.Stop(ctx); err != nil {
		return fmt.Errorf("the new version is in place and waits for the next start: %w", err)
	}
	if err := i.Service.Start(ctx); err != nil {
		return fmt.Errorf("the new version is in place and waits for the next start: %w", err)
	}
	return nil
}
