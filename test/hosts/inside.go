package hosts

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// A host's init is this executable again, under a name of its own. Stage one
// enters the cgroup namespace, which holds for one thread only, and therefore
// executes itself once more as stage two.
const (
	initName    = mark + "-init"
	stageOne    = "enter"
	stageTwo    = "run"
	specVarName = "SKIFF_TEST_SPEC"
)

// Init must be the first thing main or TestMain of every program does that
// makes hosts: in the executable's second life as a host's init it does not
// return.
func Init() {
	if os.Args[0] != initName {
		return
	}
	err := runStage(os.Args[1])
	_ = send(controlFD, event{Err: err.Error()})
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func runStage(stage string) error {
	if stage == stageTwo {
		return runInit()
	}
	runtime.LockOSThread()
	var s json.RawMessage
	if _, ok, err := receive(controlFD, &s); err != nil || !ok {
		return fmt.Errorf("receive the host's description: %w", err)
	}
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("unshare cgroup namespace: %w", err)
	}
	err := unix.Exec("/proc/self/exe", []string{initName, stageTwo}, []string{specVarName + "=" + string(s), "PATH=" + hostPath})
	return fmt.Errorf("execute init: %w", err)
}

// hostPath is the PATH inside a host; /usr/local/bin holds skiff.
const hostPath = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"

// runInit sets the host up and serves requests until the test process is gone.
func runInit() error {
	var s spec
	if err := json.Unmarshal([]byte(os.Getenv(specVarName)), &s); err != nil {
		return err
	}
	unix.CloseOnExec(controlFD)
	if err := unix.Sethostname([]byte(s.Hostname)); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	if err := mountAll(s); err != nil {
		return err
	}
	in := &initProcess{ids: map[int]int{}, pids: map[int]int{}}
	if err := send(controlFD, event{PID: 1}); err != nil {
		return err
	}
	go in.reap()
	for {
		var r request
		fds, ok, err := receive(controlFD, &r)
		if err != nil {
			return err
		}
		if !ok {
			os.Exit(0) // the test process has closed its end: power off
		}
		in.serve(r, fds)
	}
}

// initProcess is the state of a host's PID 1.
type initProcess struct {
	mu   sync.Mutex
	ids  map[int]int // PID → request
	pids map[int]int // request → PID
	// Both are guarded by mu, which is also held from fork to registration.
}

func (in *initProcess) serve(r request, fds []int) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if r.Signal != 0 {
		if pid, ok := in.pids[r.ID]; ok {
			_ = syscall.Kill(pid, syscall.Signal(r.Signal))
		}
		return
	}
	files := make([]uintptr, len(fds))
	for i, fd := range fds {
		files[i] = uintptr(fd)
	}
	pid, err := start(r, files)
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
	if err != nil {
		_ = send(controlFD, event{ID: r.ID, Exited: true, Code: 127, Err: err.Error()})
		return
	}
	in.ids[pid], in.pids[r.ID] = r.ID, pid
	_ = send(controlFD, event{ID: r.ID, PID: pid})
}

// start forks the process of a request, in a session of its own.
func start(r request, files []uintptr) (int, error) {
	path, err := lookPath(r.Args[0])
	if err != nil {
		return 0, err
	}
	pid, err := syscall.ForkExec(path, r.Args, &syscall.ProcAttr{
		Dir: r.Dir, Env: r.Env, Files: files, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return 0, fmt.Errorf("start %s: %w", path, err)
	}
	return pid, nil
}

// reap collects every child and orphan of the host and reports the ones that
// were asked for.
func (in *initProcess) reap() {
	for {
		// Wait without collecting, so that no PID is free before it is known.
		var info unix.Siginfo
		err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOWAIT, nil)
		if err == unix.ECHILD {
			// No child yet: the next start is a matter of time, not of urgency.
			_ = unix.Nanosleep(&unix.Timespec{Nsec: 10e6}, nil)
			continue
		}
		in.mu.Lock()
		for {
			var status syscall.WaitStatus
			pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
			if err != nil || pid <= 0 {
				break
			}
			id, ok := in.ids[pid]
			if !ok {
				continue
			}
			delete(in.ids, pid)
			delete(in.pids, id)
			code := status.ExitStatus()
			if status.Signaled() {
				code = 128 + int(status.Signal())
			}
			_ = send(controlFD, event{ID: id, Exited: true, Code: code})
		}
		in.mu.Unlock()
	}
}
