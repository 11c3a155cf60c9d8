package hostchange

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"skiff/pkg/paths"
)

// Run executes a program to its end, and returns what it prints. It is how the
// service manager is told things.
type Run func(ctx context.Context, name string, args ...string) (string, error)

// Manager is the service manager of this machine: "systemd", "openrc", or "".
func Manager() string {
	if _, err := os.Stat(paths.SystemdRuns); err == nil {
		return "systemd"
	}
	if _, err := os.Stat(paths.OpenRCRuns); err == nil {
		return "openrc"
	}
	return ""
}

// removeUnit makes a service one that the machine does not know. It has been
// stopped.
func removeUnit(ctx context.Context, c Change, run Run) error {
	name, manager := filepath.Base(c.Value), Manager()
	var errs []error
	if _, err := os.Lstat(c.Value); err == nil && manager == "systemd" {
		_, err = run(ctx, "systemctl", "disable", name)
		errs = append(errs, err)
	}
	// What enabling has made is removed also where systemd does not run, or has
	// lost the file. For OpenRC that is all there is: rc-update calls it an error
	// that a service is not in each of the runlevels.
	for _, pattern := range []string{filepath.Join(paths.SystemdUnits, "*.wants", name), filepath.Join(paths.OpenRCLevels, "*", name)} {
		links, err := filepath.Glob(pattern)
		if err != nil {
			return fmt.Errorf("find links to %s: %w", name, err)
		}
		for _, l := range links {
			errs = append(errs, os.Remove(l))
		}
	}
	if err := os.Remove(c.Value); err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	if manager == "openrc" {
		for _, dir := range paths.OpenRCCgroups() {
			_ = os.Remove(filepath.Join(dir, name)) // There is one, or none, and it goes only when empty.
		}
	}
	if manager == "systemd" {
		_, err := run(ctx, "systemctl", "daemon-reload")
		errs = append(errs, err)
		// Its last exit is remembered for as long as it is counted as failed.
		_, _ = run(ctx, "systemctl", "reset-failed", name)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove service %s: %w", name, err)
	}
	return nil
}
