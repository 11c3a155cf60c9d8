// Package halt ends a skiff that runs on this machine, and what it runs, from
// outside of it: it asks, it waits, and then it does not ask any more. So it
// works whatever state that skiff is in, and without an API server. It must not
// know what skiff has changed on the machine; that is pkg/hostchange. Start
// reading at Halt.Stop.
package halt

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"skiff/internal/backoff"
	"skiff/internal/lockfile"
	"skiff/pkg/hostchange"
	"skiff/pkg/paths"
)

// Halt ends the skiff of one data directory.
type Halt struct {
	Layout paths.Layout
	// Units are the files of the services that run it.
	Units []string
	// Patience is how long skiff may take that was asked to stop; 0 is as long as
	// it takes to give up by itself.
	Patience time.Duration
	// Run executes a program to its end.
	Run hostchange.Run
	// Say is told what is being done.
	Say func(format string, args ...any)
}

const (
	// stopLimit is how long a skiff may take that was asked to stop. It gives up
	// by itself after ten seconds.
	stopLimit = 15 * time.Second
	// killLimit is how long the kernel may take.
	killLimit = 5 * time.Second
)

// Stop ends the process, and sees to it that nobody starts it again: the lock
// on the data directory is the caller's then, nil if there is no such directory.
// Pods go on.
func (h *Halt) Stop(ctx context.Context) (*lockfile.Lock, error) {
	if err := h.stopUnits(ctx); err != nil {
		return nil, err
	}
	deadline, cancel := context.WithTimeout(ctx, stopLimit+2*killLimit)
	defer cancel()
	again := backoff.Sequence{Min: 10 * time.Millisecond, Max: 200 * time.Millisecond}
	for {
		lock, err := lockfile.Acquire(h.Layout.LockFile())
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil // Its directory is gone, or never was.
		}
		held, ok := errors.AsType[*lockfile.HeldError](err)
		if !ok {
			return lock, err
		}
		if !holds(held.PID, h.Layout.LockFile()) {
			return nil, fmt.Errorf("the data directory %s is in use by a skiff that is not one of this machine's processes (in a container, perhaps); stop it where it runs", h.Layout.Data)
		}
		if err := h.stopProcess(deadline, held.PID); err != nil {
			return nil, err
		}
		if again.Wait(deadline) != nil {
			return nil, fmt.Errorf("skiff (process %d) starts again each time it is stopped; stop what starts it first", held.PID)
		}
	}
}

// stopUnits has the service manager stop the services it knows, which also
// keeps it from starting them again.
func (h *Halt) stopUnits(ctx context.Context) error {
	for _, path := range h.Units {
		if _, err := os.Stat(path); err != nil {
			continue // It was removed by an earlier try.
		}
		name := filepath.Base(path)
		if partOf(name) {
			continue // It is being stopped, and waits for this process.
		}
		var err error
		switch hostchange.Manager() {
		case "systemd":
			h.Say("stopping service %s", name)
			_, err = h.Run(ctx, "systemctl", "stop", name)
		case "openrc":
			h.Say("stopping service %s", name)
			_, err = h.Run(ctx, "rc-service", "--ifstarted", name, "stop")
		}
		if err != nil {
			return fmt.Errorf("stop service %s: %w", name, err)
		}
	}
	return nil
}

// partOf reports whether this process has been started by a service itself, as a
// part of its stop perhaps.
func partOf(name string) bool {
	if os.Getenv("RC_SVCNAME") == name {
		return true
	}
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return false
	}
	return inGroup(string(data), name)
}

// inGroup looks for a service in the text of a /proc/PID/cgroup. What systemd runs
// besides the main process may be in a group below the service's.
func inGroup(cgroups, name string) bool {
	for line := range strings.Lines(cgroups) {
		if slices.Contains(strings.Split(strings.TrimSpace(line), "/"), name) {
			return true
		}
	}
	return false
}

// stopProcess ends one process, by its service if it has one.
func (h *Halt) stopProcess(ctx context.Context, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("stop skiff (process %d): %w", pid, err)
	}
	defer unix.Close(fd)
	// Now that it cannot be another any more.
	if !holds(pid, h.Layout.LockFile()) {
		return nil
	}
	if unit := h.unitOf(ctx, pid); unit != "" {
		h.Say("stopping service %s", unit)
		if _, err := h.Run(ctx, "systemctl", "stop", unit); err != nil {
			return fmt.Errorf("stop service %s: %w", unit, err)
		}
		return nil
	}
	h.Say("stopping skiff (process %d)", pid)
	if err := unix.PidfdSendSignal(fd, unix.SIGTERM, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("stop skiff (process %d): %w", pid, err)
	}
	_ = unix.PidfdSendSignal(fd, unix.SIGCONT, nil, 0) // Somebody may have pressed Ctrl-Z.
	patience := cmp.Or(h.Patience, stopLimit)
	if gone(ctx, fd, patience) {
		return nil
	}
	h.Say("it has not stopped within %s: killing it", patience)
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill skiff (process %d): %w", pid, err)
	}
	if !gone(ctx, fd, killLimit) {
		return fmt.Errorf("skiff (process %d) cannot be killed: the kernel waits for something on its behalf, a disk perhaps; see dmesg", pid)
	}
	return nil
}

// gone waits for the end of a process.
func gone(ctx context.Context, pidfd int, limit time.Duration) bool {
	deadline := time.Now().Add(limit)
	for ctx.Err() == nil {
		left := time.Until(deadline)
		if left <= 0 {
			return false
		}
		set := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}} //nolint:gosec // A file descriptor.
		n, err := unix.Poll(set, int(min(left, 200*time.Millisecond).Milliseconds())+1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return false
		}
		if n > 0 {
			return true
		}
	}
	return false
}

// holds reports whether a process of this machine has a file open.
func holds(pid int, file string) bool {
	want, err := os.Stat(file)
	if err != nil || pid <= 0 {
		return false
	}
	fds, err := filepath.Glob(filepath.Join("/proc", strconv.Itoa(pid), "fd", "*"))
	if err != nil {
		return false
	}
	for _, fd := range fds {
		if have, err := os.Stat(fd); err == nil && os.SameFile(have, want) {
			return true
		}
	}
	return false
}

// unitOf is the service of systemd whose main process this is, "" if it was
// started otherwise: a shell may be in the group of a service, too.
func (h *Halt) unitOf(ctx context.Context, pid int) string {
	if hostchange.Manager() != "systemd" {
		return ""
	}
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cgroup"))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(data)) {
		_, path, _ := strings.Cut(strings.TrimSpace(line), "::")
		if _, named, ok := strings.Cut(line, ":name=systemd:"); ok {
			path = strings.TrimSpace(named)
		}
		unit := filepath.Base(path)
		if !strings.HasSuffix(unit, ".service") {
			continue
		}
		if main, err := h.Run(ctx, "systemctl", "show", "--property", "MainPID", "--value", unit); err == nil && strings.TrimSpace(main) == strconv.Itoa(pid) {
			return unit
		}
	}
	return ""
}
