package upgrade

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"skiff/internal/lockfile"
	"skiff/internal/pause"
	"skiff/pkg/paths"
	"skiff/pkg/process"
)

// Manager is who starts skiff when it has ended.
type Manager string

// The managers there are.
const (
	Systemd Manager = "systemd"
	OpenRC  Manager = "openrc"
	// Other is anybody who starts skiff again when it has ended: another
	// supervisor, or a person.
	Other Manager = "other"
)

// The commands of the managers, which are in PATH.
const (
	systemctl  = "systemctl"
	systemdRun = "systemd-run"
	rcService  = "rc-service"
)

// stopLimit is how long skiff has to end.
const stopLimit = 40 * time.Second

// Service is the skiff that runs on this machine, as the one who starts it knows
// it.
type Service struct {
	Manager Manager `json:"manager"`
	Name    string  `json:"name,omitempty"`
	Socket  string  `json:"socket"` // where it answers questions of its state
	Lock    string  `json:"lock"`   // what it holds as long as it lives
}

// FindService says who has started the process. With PID 0 none runs, and the
// name is the usual one of the role.
func FindService(pid int, role, socket, lock string) Service {
	s := Service{Manager: Other, Socket: socket, Lock: lock}
	usual := "skiff"
	if role == "agent" {
		usual = "skiff-agent"
	}
	if _, err := os.Stat(paths.SystemdRuns); err == nil {
		if s.Name = unitOf(pid); s.Name != "" {
			s.Manager = Systemd
		} else if pid == 0 {
			s.Manager, s.Name = Systemd, usual+".service"
		}
		return s
	}
	if _, err := os.Stat(paths.OpenRCRuns); err == nil {
		for _, name := range []string{usual, "skiff"} {
			if _, err := os.Stat(filepath.Join(paths.InitScripts, name)); err == nil {
				s.Manager, s.Name = OpenRC, name
				return s
			}
		}
	}
	return s
}

// unitOf reads the name of the unit from a process' control group.
func unitOf(pid int) string {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cgroup"))
	if pid == 0 || err != nil {
		return ""
	}
	return unitIn(string(text))
}

func unitIn(cgroups string) string {
	for line := range strings.Lines(cgroups) {
		for part := range strings.SplitSeq(strings.TrimSpace(line), "/") {
			if strings.HasSuffix(part, ".service") && !strings.HasPrefix(part, "user@") {
				return part
			}
		}
	}
	return ""
}

// Stop ends skiff; pods go on.
func (s Service) Stop(ctx context.Context) error {
	switch s.Manager {
	case Systemd:
		return s.run(ctx, systemctl, "stop", s.Name)
	case OpenRC:
		return s.run(ctx, rcService, s.Name, "stop")
	}
	lock, err := lockfile.Acquire(s.Lock)
	if held, ok := errors.AsType[*lockfile.HeldError](err); ok && held.PID != 0 {
		return end(ctx, held.PID)
	}
	if err != nil {
		return fmt.Errorf("stop skiff: %w", err)
	}
	return lock.Release() // it does not run
}

// end ends a process.
func end(ctx context.Context, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("stop skiff (process %d): %w", pid, err)
	}
	f := os.NewFile(uintptr(fd), "process")
	defer f.Close()
	for _, signal := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		if err := unix.PidfdSendSignal(fd, signal, nil, 0); errors.Is(err, unix.ESRCH) {
			return nil
		} else if err != nil {
			return fmt.Errorf("stop skiff (process %d): %w", pid, err)
		}
		deadline, cancel := context.WithTimeout(ctx, stopLimit)
		for {
			poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			if n, err := unix.Poll(poll, 0); err == nil && n == 1 {
				cancel()
				return nil
			}
			if !pause.For(deadline, 50*time.Millisecond) {
				break
			}
		}
		cancel()
	}
	return fmt.Errorf("stop skiff: process %d does not end", pid)
}

// Start has it started again; that it runs then is for others to see. One that
// is started by somebody else is left to them.
func (s Service) Start(ctx context.Context) error {
	switch s.Manager {
	case Systemd:
		// What failed too often is counted no more; for a unit that has not failed
		// this is an error, and none of ours.
		_ = s.run(ctx, systemctl, "reset-failed", s.Name)
		return s.run(ctx, systemctl, "start", "--no-block", s.Name)
	case OpenRC:
		return s.run(ctx, rcService, s.Name, "start")
	}
	return nil
}

func (s Service) run(ctx context.Context, path string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if _, err := process.Output(ctx, process.Command{Path: path, Args: args}); err != nil {
		return fmt.Errorf("%s service %s: %w", s.Manager, s.Name, err)
	}
	return nil
}

// Detach runs a command that is not part of the service, though the service
// starts it.
func (s Service) Detach(ctx context.Context, log string, path string, args ...string) error {
	if s.Manager == Systemd {
		// Whatever a unit's command leaves running may be ended with it.
		return s.run(ctx, systemdRun, append([]string{"--quiet", "--collect", "--unit=skiff-upgrade-watch", path}, args...)...)
	}
	return process.Detach(process.Command{Path: path, Args: args}, log)
}
