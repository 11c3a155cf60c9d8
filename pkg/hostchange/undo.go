package hostchange

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"skiff/pkg/paths"
)

// Undo takes changes back.
type Undo struct {
	Recorder *Recorder
	Run      Run
	// Step is told of each change before it is undone; an error ends it all.
	Step func(Change) error
	// Left is told of what stays, and why.
	Left func(what string)
	// Self is the executable of this process, which goes last.
	Self string
}

// Boot undoes what a reboot would, the newest first, and removes what is in the
// directory run: the sockets and the journal of it. What goes wrong does not
// keep the rest from being done, but the journal stays then.
func (u *Undo) Boot(ctx context.Context, run string) error {
	if err := u.all(ctx, u.Recorder.Fleeting()); err != nil {
		return err
	}
	journal := filepath.Base(u.Recorder.fleeting.path)
	if err := removeTree(run, "/"+journal, ""); err != nil {
		return err
	}
	return u.Recorder.ForgetBoot()
}

// Lasting undoes what lasts: all, or all but what keep says. What a loss of power
// or a kill leaves undone, the next call does. The order at the end: all else,
// the mark on the executable that says so, the journal, the executable. So there
// is always either a journal or a mark by which a next call knows what to do,
// and always an executable to call.
func (u *Undo) Lasting(ctx context.Context, keep func(Change) bool) error {
	changes := unitsLast(u.Recorder.Lasting())
	now, last, journal := u.order(changes, keep)
	if err := u.all(ctx, now); err != nil {
		return err
	}
	kept := func() []Change {
		return slices.DeleteFunc(slices.Clone(changes), func(c Change) bool {
			_, err := os.Lstat(c.Value)
			return !keep(c) && (c.Kind != Dir || c.Before != "" || err != nil) // what is kept is in some directory
		})
	}
	if slices.ContainsFunc(changes, keep) {
		// The executable is still written down, in case of a kill before it goes.
		if err := u.Recorder.Keep(append(kept(), last...)); err != nil {
			return err
		}
		if err := u.all(ctx, last); err != nil {
			return err
		}
		return u.Recorder.Keep(kept())
	}
	if len(last) > 0 {
		if err := mark(u.Self); err != nil {
			return err
		}
	}
	if err := u.Recorder.Forget(); err != nil {
		return err
	}
	return u.all(ctx, append(last, journal...))
}

// order says what is undone at once, what of the executable comes last, and what
// of the journal before that.
func (u *Undo) order(changes []Change, keep func(Change) bool) (now, last, journal []Change) {
	etc := filepath.Dir(u.Recorder.lasting.path)
	installed := slices.Contains(changes, Change{Kind: File, Value: u.Self})
	for _, c := range changes {
		switch {
		case keep(c):
		case installed && (c == Change{Kind: File, Value: u.Self} || c.Kind == Dir && below(u.Self, c.Value)):
			last = append(last, c)
		case c.Kind == Dir && c.Value == etc:
			journal = append(journal, c)
		default:
			now = append(now, c)
		}
	}
	return now, last, journal
}

// unitsLast puts services behind the rest, so that they go first: nobody shall
// start what is half removed after a loss of power.
func unitsLast(changes []Change) []Change {
	return slices.SortedStableFunc(slices.Values(changes), func(a, b Change) int {
		rank := func(c Change) int {
			if c.Kind == Unit {
				return 1
			}
			return 0
		}
		return rank(a) - rank(b)
	})
}

// marked is a bit of the mode that means nothing on a file (it once kept
// programs in memory): an executable with it is all that is left of skiff.
const marked = fs.ModeSticky

func mark(executable string) error {
	info, err := os.Stat(executable)
	if err == nil {
		err = os.Chmod(executable, info.Mode().Perm()|marked)
	}
	if err != nil {
		return fmt.Errorf("mark the executable as the last thing to remove: %w", err)
	}
	return nil
}

// Finish removes an executable that Lasting has marked before it was ended, and
// the directory in which the journal was if nothing else is there. It reports
// whether there was something to finish.
func Finish(layout paths.Layout, executable string) (bool, error) {
	info, err := os.Stat(executable)
	if err != nil || info.Mode()&marked == 0 {
		return false, nil //nolint:nilerr // There is nothing to finish.
	}
	if _, err := removeDir(Change{Kind: Dir, Value: layout.Etc}); err != nil {
		return false, err
	}
	if err := os.Remove(executable); err != nil {
		return false, fmt.Errorf("remove the executable: %w", err)
	}
	return true, nil
}

// all undoes changes, the newest first.
func (u *Undo) all(ctx context.Context, changes []Change) error {
	var errs []error
	for _, c := range slices.Backward(changes) {
		if ctx.Err() != nil {
			return errors.Join(append(errs, context.Cause(ctx))...)
		}
		if err := u.step(ctx, c); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (u *Undo) step(ctx context.Context, c Change) error {
	if u.Step != nil {
		if err := u.Step(c); err != nil {
			return err
		}
	}
	return u.one(ctx, c)
}

// one undoes a change. It is done also if it has been done before.
func (u *Undo) one(ctx context.Context, c Change) error {
	switch c.Kind {
	case File, Link:
		return removeFile(c, u.files())
	case Dir:
		left, err := removeDir(c)
		if left != "" && u.Left != nil {
			u.Left(left)
		}
		return err
	case Tree, Data:
		return removeTree(c.Value, c.Before, "")
	case Files:
		return removeMatching(c.Value, false)
	case Volumes:
		return removeMatching(c.Value, true)
	case Unit:
		return removeUnit(ctx, c, u.Run)
	case Replaced, UFW, Firewalld, TimeSync:
		return u.setting(ctx, c)
	case Sysctl:
		return restoreSysctl(c)
	case Interface:
		return removeInterface(c.Value)
	case Address:
		return removeAddress(c.Value)
	case Table:
		return removeTable(c.Value)
	case Routes:
		return removeRoutes(c.Value)
	case Cgroup:
		return u.removeCgroup(ctx, c.Value)
	case Mounts:
		return unmountBelow(c.Value)
	case Propagation:
		return restorePropagation(c.Before)
	}
	return c.unknown()
}

// files are those skiff has put somewhere: a link to one is skiff's.
func (u *Undo) files() []string {
	var out []string
	for _, c := range u.Recorder.Lasting() {
		if c.Kind == File {
			out = append(out, c.Value)
		}
	}
	return out
}

// removeCgroup ends a group, and with it the slice that systemd knows it as.
func (u *Undo) removeCgroup(ctx context.Context, path string) error {
	if name := filepath.Base(path); strings.HasSuffix(name, ".slice") && Manager() == "systemd" {
		if _, err := u.Run(ctx, "systemctl", "stop", name); err != nil {
			return fmt.Errorf("stop %s: %w", name, err)
		}
	}
	return EndCgroup(ctx, path)
}

// restoreSysctl gives a setting the value it had, unless somebody has changed
// it after skiff had.
func restoreSysctl(c Change) error {
	name, value, ok := strings.Cut(c.Value, "=")
	if !ok {
		return fmt.Errorf("restore sysctl %q: it has no value", c.Value)
	}
	file := sysctlFile(name)
	have, err := readSysctl(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("restore sysctl %s: %w", name, err)
	}
	if have == c.Before || value != "*" && have != value {
		return nil
	}
	if err := os.WriteFile(file, []byte(c.Before), 0); err != nil {
		return fmt.Errorf("restore sysctl %s = %s: %w", name, c.Before, err)
	}
	return nil
}
