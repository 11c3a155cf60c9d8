// Package recorder runs a program and writes down everything it does to one
// directory, in the order in which it happens: SQLite's calls through libc and
// Go's own, since it is the kernel that reports them (seccomp's user
// notification). Syncs are not done but only noted, and take as long as the
// recorder likes, so that an answer that did not wait for one is caught. Call
// Init first thing in TestMain, then start reading at Start; the package disk
// keeps the history.
package recorder

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"skiff/test/datastore/crash/disk"
)

// stageVar marks the program's first life, in which it installs the filter.
const stageVar = "SKIFF_CRASH_RECORD"

// handoverFD is where the first life sends the filter's listener to.
const handoverFD = 3

// Init must be the first thing that TestMain does. In the first life of a
// recorded program it does not return.
func Init() {
	if os.Getenv(stageVar) == "" {
		return
	}
	err := enter()
	fmt.Fprintln(os.Stderr, "record:", err)
	os.Exit(1)
}

// enter puts the filter over this thread and executes the program again: from
// then on all its threads are under it.
func enter() error {
	runtime.LockOSThread()
	listener, err := install()
	if err != nil {
		return err
	}
	if err := unix.Sendmsg(handoverFD, []byte{0}, unix.UnixRights(listener), nil, 0); err != nil {
		return fmt.Errorf("hand over the listener: %w", err)
	}
	unix.CloseOnExec(handoverFD)
	env := make([]string, 0, len(os.Environ()))
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, stageVar+"=") {
			env = append(env, v)
		}
	}
	// A signal would interrupt a call that waits for us, and it would be
	// reported twice.
	env = append(env, "GODEBUG=asyncpreemptoff=1")
	return unix.Exec("/proc/self/exe", os.Args, env)
}

// Options say what is recorded.
type Options struct {
	Dir   string        // whose changes go into Log
	Log   *disk.Log     // may be nil
	Slow  time.Duration // the longest time that a sync takes
	Clock *Clock        // the program's clock, nil for the true one
	// Broken says whether the disk fails the next sync; nil never does.
	Broken func() bool
}

// Recorder is one recorded run of a program.
type Recorder struct {
	Options

	listener int
	wg       sync.WaitGroup
	untold   map[string]string // descriptors that have to hear that a file's sync has failed; serve's

	mu  sync.Mutex
	err error // guarded by mu: the first thing that could not be recorded
}

// Start starts cmd, which must be this executable, and records what it does.
// The program is under the recorder until it ends; call Wait then.
func Start(cmd *exec.Cmd, o Options) (*Recorder, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make a socket for the listener: %w", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "handover")
	defer unix.Close(pair[0])
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Env = append(cmd.Environ(), stageVar+"=1")
	err = cmd.Start()
	_ = theirs.Close()
	if err != nil {
		return nil, fmt.Errorf("start the program to record: %w", err)
	}
	listener, err := receive(pair[0])
	if err != nil {
		_ = cmd.Process.Kill()
		return nil, fmt.Errorf("record %s: %w", cmd.Path, errors.Join(err, cmd.Wait()))
	}
	r := &Recorder{Options: o, listener: listener, untold: map[string]string{}}
	r.wg.Go(r.serve)
	return r, nil
}

func receive(socket int) (int, error) {
	buf, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(socket, buf, oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("it did not hand over its listener: %w", errors.Join(err, errors.New("see its output")))
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil {
		return 0, err
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil {
		return 0, err
	}
	return fds[0], nil
}

// Wait returns when the program has ended and all it did is in the log. It
// fails if something could not be recorded.
func (r *Recorder) Wait() error {
	r.wg.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

func (r *Recorder) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.err = err
	}
}

// serve takes one call after the other, which is what makes their order exact.
func (r *Recorder) serve() {
	defer unix.Close(r.listener)
	var syncs sync.WaitGroup
	defer syncs.Wait()
	for {
		// Only a poll tells that nobody is left who could call.
		fds := []unix.PollFd{{Fd: int32(r.listener), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); errors.Is(err, unix.EINTR) {
			continue
		} else if err != nil {
			r.fail(fmt.Errorf("wait for a call: %w", err))
			return
		}
		if fds[0].Revents&unix.POLLIN == 0 {
			return
		}
		var n notification
		if err := n.receive(r.listener); errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINTR) {
			continue // the caller has died
		} else if err != nil {
			r.fail(fmt.Errorf("receive a call: %w", err))
			return
		}
		v := r.record(&n)
		if v.sync < 0 {
			r.answer(n.id, v)
			continue
		}
		syncs.Go(func() {
			time.Sleep(time.Duration(rand.Int64N(int64(r.Slow) + 1)))
			r.Log.EndSync(v.sync)
			r.answer(n.id, v)
		})
	}
}

// verdict is what happens to a call: it goes on, or has the result errno.
type verdict struct {
	proceed bool
	errno   syscall.Errno
	sync    int // where in the log the sync has started, or -1
}

var goOn = verdict{proceed: true, sync: -1}

func (r *Recorder) answer(id uint64, v verdict) {
	err := reply(r.listener, id, v)
	if err != nil && !errors.Is(err, unix.ENOENT) { // which says that the caller has died
		r.fail(fmt.Errorf("answer a call: %w", err))
	}
}
