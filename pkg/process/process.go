// Package process runs a child process as a component: it dies with skiff, is
// asked to stop before it is killed, and its output is part of skiff's log. It
// knows nothing of what the child is. Start reading at Process.
package process

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"skiff/pkg/component"
)

// Defaults of a Process.
const (
	// DefaultStopTimeout leaves the Group some of its own ten seconds.
	DefaultStopTimeout = 8 * time.Second
	// drainTimeout is for the rest of the output after the child has ended:
	// a grandchild may hold the pipe open for ever.
	drainTimeout = 500 * time.Millisecond
)

// Process is a child process. The exported fields are set before Run and not
// changed after. The child gets SIGKILL from the kernel when skiff dies. It
// has its own process group, so that a Ctrl-C at the terminal reaches only
// skiff, which then stops it in its turn; what the child starts (containerd's
// shims) lives on when the child ends, unless KillGroup is set.
type Process struct {
	ProcName string   // the component's name
	Path     string   // the executable; looked up in PATH if it has no slash
	Args     []string // arguments after argv[0], which is ProcName
	Env      []string // nil: skiff's own environment
	Dir      string   // working directory; empty: skiff's own
	Logger   *slog.Logger
	// LogParse splits a line of output into level, message and attributes. It
	// is called from one goroutine. Nil means every line is an Info.
	LogParse func(line string) (slog.Level, string, []slog.Attr)
	// StopSignal asks the child to end; default SIGTERM.
	StopSignal os.Signal
	// StopTimeout is how long it has for that before SIGKILL; default 8 s.
	StopTimeout time.Duration
	// KillGroup extends the last SIGKILL, and the clean-up after the child's
	// own end, to all of its process group.
	KillGroup bool
	// ReadyCheck, if set, is asked while the child runs.
	ReadyCheck func(context.Context) error

	pid atomic.Int64
}

var (
	_ component.Component = (*Process)(nil)
	_ component.Readier   = (*Process)(nil)
)

// Self returns a Process that runs skiff's own executable as the applet of
// that name. The executable is the running one even if the file has been
// replaced since.
func Self(name string, args ...string) *Process {
	return &Process{ProcName: name, Path: "/proc/self/exe", Args: args}
}

// Name implements component.Component.
func (p *Process) Name() string { return p.ProcName }

// PID returns the child's process id, or 0 while there is none.
func (p *Process) PID() int { return int(p.pid.Load()) }

// Ready implements component.Readier: the child runs and ReadyCheck agrees.
func (p *Process) Ready(ctx context.Context) error {
	if p.PID() == 0 {
		return errors.New("process is not running")
	}
	if p.ReadyCheck == nil {
		return nil
	}
	return p.ReadyCheck(ctx)
}

// ExitError says how a child ended that nobody had asked to.
type ExitError struct {
	Name  string
	PID   int
	State *os.ProcessState
	Lines []string // the last lines it wrote
}

// Error names the status and the last lines.
func (e *ExitError) Error() string {
	s := fmt.Sprintf("process %s (pid %d) ended: %s", e.Name, e.PID, e.State)
	if len(e.Lines) == 0 {
		return s
	}
	s += "; its last lines:"
	for _, l := range e.Lines {
		s += "\n  " + l
	}
	return s
}

// Run implements component.Component. It may be called again when it has
// returned, which is what component.Restart does.
func (p *Process) Run(ctx context.Context) error {
	pump := newPump(p.Logger, p.LogParse)
	defer pump.close()

	cmd := exec.Command(p.Path, p.Args...) //nolint:noctx // ctx asks the child to end (see end); CommandContext would kill it
	cmd.Args[0] = p.ProcName
	cmd.Env, cmd.Dir = p.Env, p.Dir
	cmd.Stdout, cmd.Stderr = pump, pump
	cmd.WaitDelay = drainTimeout
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}

	started := make(chan error, 1)
	exited := make(chan struct{})
	var waitErr error // valid when exited is closed
	// Pdeathsig fires when the thread that made the child ends, not when the
	// process does (prctl(2)). So the goroutine that starts the child keeps
	// its thread until the child is gone.
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		started <- nil
		waitErr = cmd.Wait()
		close(exited)
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start %s: %w", p.ProcName, err)
	}
	pid := cmd.Process.Pid
	p.pid.Store(int64(pid))
	defer p.pid.Store(0)
	p.Logger.Info("process started", "pid", pid, "path", p.Path)

	select {
	case <-exited:
		p.killGroup(pid)
		return p.exitError(cmd, pump, waitErr)
	case <-ctx.Done():
	}
	return p.end(cmd, exited)
}

// end asks the child to stop, and makes it.
func (p *Process) end(cmd *exec.Cmd, exited <-chan struct{}) error {
	var sig os.Signal = syscall.SIGTERM
	if p.StopSignal != nil {
		sig = p.StopSignal
	}
	limit := p.StopTimeout
	if limit <= 0 {
		limit = DefaultStopTimeout
	}
	if err := cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.Logger.Warn("process could not be signalled", "signal", sig, "err", err)
	}
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-exited:
		p.Logger.Debug("process ended", "status", cmd.ProcessState)
		p.killGroup(cmd.Process.Pid)
		return nil
	case <-t.C:
	}
	p.Logger.Warn("process did not stop in time, killing it", "pid", cmd.Process.Pid, "limit", limit)
	if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill %s: %w", p.ProcName, err)
	}
	p.killGroup(cmd.Process.Pid)
	<-exited
	return nil
}

// killGroup ends what is left of the child's process group. A group that is
// empty by now is the normal case.
func (p *Process) killGroup(pid int) {
	if !p.KillGroup {
		return
	}
	if err := syscall.Kill(-pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		p.Logger.Warn("process group could not be killed", "pgid", pid, "err", err)
	}
}

// exitError makes the error of a child that ended by itself, also with 0.
func (p *Process) exitError(cmd *exec.Cmd, pump *pump, err error) error {
	if cmd.ProcessState == nil {
		return fmt.Errorf("wait for %s: %w", p.ProcName, err)
	}
	return &ExitError{Name: p.ProcName, PID: cmd.Process.Pid, State: cmd.ProcessState, Lines: pump.lastLines()}
}
