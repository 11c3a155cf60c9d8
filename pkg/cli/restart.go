package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
)

// restartError ends a process that has to be built up anew: Kubernetes'
// components run once in a process.
type restartError struct{ reason string }

func (e *restartError) Error() string { return "start again: " + e.reason }

// restarting reports whether ctx has ended because of a restart.
func restarting(ctx context.Context) bool {
	_, ok := errors.AsType[*restartError](context.Cause(ctx))
	return ok
}

// restart executes this program again in the same process, once everything has
// stopped. Pods go on, and for the service manager nothing has happened.
func restart(environ []string) error {
	err := syscall.Exec("/proc/self/exe", os.Args, environ)
	return fmt.Errorf("start again: %w", err)
}
