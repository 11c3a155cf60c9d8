package hosts

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Command is a process to run on a host.
type Command struct {
	Args           []string
	Env            []string // added to PATH and HOME
	Stdin          io.Reader
	Stdout, Stderr io.Writer // nil: discarded
}

// Process is a process that was started on a host.
type Process struct {
	m       *machine
	id      int
	pid     int // inside the host
	started chan struct{}
	exited  chan struct{}
	copies  sync.WaitGroup
	last    event
}

// Result is how a command ended and what it printed.
type Result struct {
	Code           int
	Stdout, Stderr string
	Err            string // set when it could not be started, or lost its host
}

// String shows the whole result, for messages.
func (r Result) String() string {
	return strings.TrimSpace(fmt.Sprintf("exit code %d %s\n%s%s", r.Code, r.Err, r.Stdout, r.Stderr))
}

// Spawn starts a process and returns when it runs.
func (h *Host) Spawn(c Command) *Process {
	h.t.Helper()
	p, err := h.on().spawn(c)
	if err != nil {
		h.t.Fatalf("start %q on %s: %v", c.Args, h.name, err)
	}
	return p
}

func (m *machine) spawn(c Command) (*Process, error) {
	p := &Process{m: m, started: make(chan struct{}), exited: make(chan struct{})}
	var files []*os.File
	defer func() {
		for _, f := range files {
			_ = f.Close()
		}
	}()
	stdin, err := p.input(c.Stdin)
	if err != nil {
		return nil, err
	}
	files = append(files, stdin)
	for _, w := range []io.Writer{c.Stdout, c.Stderr} {
		f, err := p.output(w)
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	m.mu.Lock()
	m.nextID++
	p.id = m.nextID
	m.procs[p.id] = p
	m.mu.Unlock()
	env := append([]string{"PATH=" + hostPath, "HOME=/tmp", "LANG=C.UTF-8"}, c.Env...)
	if err := send(m.control, request{ID: p.id, Args: c.Args, Env: env, Dir: "/"}, files...); err != nil {
		return nil, err
	}
	select {
	case <-p.started:
	case <-p.exited:
	case <-m.gone:
	}
	return p, nil
}

// input returns what to hand the process as standard input.
func (p *Process) input(from io.Reader) (*os.File, error) {
	if from == nil {
		return os.Open(os.DevNull)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	go func() {
		_, _ = io.Copy(w, from) // ends when the process closes its end
		_ = w.Close()
	}()
	return r, nil
}

// output returns a file that ends up in w. A file is handed over as it is, so
// that what the process writes survives this program.
func (p *Process) output(w io.Writer) (*os.File, error) {
	if w == nil {
		return os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	}
	if f, ok := w.(*os.File); ok {
		fd, err := syscall.Dup(int(f.Fd()))
		return os.NewFile(uintptr(fd), f.Name()), err
	}
	r, pw, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p.copies.Go(func() {
		_, _ = io.Copy(w, r)
		_ = r.Close()
	})
	return pw, nil
}

func (p *Process) report(e event) {
	if !e.Exited {
		p.pid = e.PID
		close(p.started)
		return
	}
	p.last = e
	close(p.exited)
}

// PID is the process's id inside the host.
func (p *Process) PID() int { return p.pid }

// Signal sends a signal; a process that is gone is not an error.
func (p *Process) Signal(s syscall.Signal) {
	_ = send(p.m.control, request{ID: p.id, Signal: int(s)})
}

// Exited is closed when the process has ended.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Wait waits for the end of the process and returns its exit code, 128+signal
// if it was killed. Children that hold on to its output are waited for only
// briefly.
func (p *Process) Wait() int {
	<-p.exited
	copied := make(chan struct{})
	go func() { p.copies.Wait(); close(copied) }()
	select {
	case <-copied:
	case <-time.After(2 * time.Second):
	}
	return p.last.Code
}

// Exec runs a command on the host to its end. Any exit code is returned.
func (h *Host) Exec(args ...string) Result {
	h.t.Helper()
	return h.ExecWith(Command{Args: args})
}

// ExecWith is Exec for a command with input or environment; its Stdout and
// Stderr are collected.
func (h *Host) ExecWith(c Command) Result {
	h.t.Helper()
	var stdout, stderr safeBuffer
	c.Stdout, c.Stderr = &stdout, &stderr
	p := h.Spawn(c)
	r := Result{Code: p.Wait()}
	r.Err, r.Stdout, r.Stderr = p.last.Err, stdout.String(), stderr.String()
	return r
}

// Run is Exec for a command that must succeed; it returns its standard output.
func (h *Host) Run(args ...string) string {
	h.t.Helper()
	r := h.Exec(args...)
	if r.Code != 0 {
		h.t.Fatalf("%s on %s: %s", strings.Join(args, " "), h.name, r)
	}
	return r.Stdout
}

// safeBuffer is a buffer that may be read while a process still writes.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer.
func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

// String returns all that was written so far.
func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
