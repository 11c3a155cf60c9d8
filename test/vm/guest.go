package vm

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

const (
	// portName names the serial port between the machine and its guest.
	portName = "skiff.guest"
	// agentName is the name by which a test binary knows that it is to be the
	// agent inside.
	agentName = "vm-agent"
)

// Over the port go lines of JSON: requests in, replies out. Replies of several
// scripts mix; the last of a script has Exit.
type request struct {
	ID     int
	Script string
}

type reply struct {
	ID     int // 0 is the greeting
	Stdout string
	Stderr string
	Exit   *int
}

// Init makes a test binary that was started inside a machine its agent, and
// never returns there. Call it first in TestMain.
func Init() {
	if filepath.Base(os.Args[0]) != agentName {
		return
	}
	port, err := os.OpenFile("/dev/virtio-ports/"+portName, os.O_RDWR, 0)
	if err == nil {
		err = (&agent{port: port}).serve()
	}
	fmt.Fprintln(os.Stderr, "vm agent:", err)
	os.Exit(1) // The process is no test here.
}

// agent runs scripts inside the machine.
type agent struct {
	port io.ReadWriter
	mu   sync.Mutex // guards writing to port
}

func (a *agent) serve() error {
	a.send(reply{})
	decoder := json.NewDecoder(a.port)
	for {
		var r request
		if err := decoder.Decode(&r); err != nil {
			return fmt.Errorf("read request: %w", err)
		}
		go a.run(r)
	}
}

func (a *agent) run(r request) {
	cmd := exec.Command("/bin/bash", "-c", r.Script)
	cmd.Env = append(os.Environ(), "HOME=/root", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin")
	cmd.Stdout = sender(func(text string) { a.send(reply{ID: r.ID, Stdout: text}) })
	cmd.Stderr = sender(func(text string) { a.send(reply{ID: r.ID, Stderr: text}) })
	code := 0
	if err := cmd.Run(); err != nil {
		code = -1
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			code = exit.ExitCode()
		} else {
			a.send(reply{ID: r.ID, Stderr: err.Error()})
		}
	}
	a.send(reply{ID: r.ID, Exit: &code})
}

func (a *agent) send(r reply) {
	data, err := json.Marshal(r)
	if err != nil {
		return // cannot be: strings and numbers only
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	_, _ = a.port.Write(append(data, '\n')) // nobody is left to be told
}

type sender func(string)

func (s sender) Write(b []byte) (int, error) {
	s(string(b))
	return len(b), nil
}

// guest is our end of the port.
type guest struct {
	conn net.Conn

	mu       sync.Mutex
	commands map[int]*Command // that run; guarded by mu
	last     int              // guarded by mu
}

// dialGuest connects to a machine that is starting and waits for the greeting
// of its agent.
func dialGuest(socket string, exited <-chan struct{}, limit time.Duration) (*guest, error) {
	var conn net.Conn
	deadline := time.After(limit)
	for {
		var err error
		if conn, err = net.Dial("unix", socket); err == nil {
			break
		}
		select {
		case <-exited:
			return nil, errors.New("qemu has ended")
		case <-deadline:
			return nil, fmt.Errorf("qemu does not take connections: %w", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
	g := &guest{conn: conn, commands: map[int]*Command{}}
	greeted := make(chan struct{})
	go g.read(greeted)
	select {
	case <-greeted:
		return g, nil
	case <-exited:
		return nil, errors.New("the machine has ended while it was starting")
	case <-deadline:
		return nil, fmt.Errorf("the machine takes no commands after %s", limit)
	}
}

func (g *guest) read(greeted chan<- struct{}) {
	lines := bufio.NewReader(g.conn)
	for {
		line, err := lines.ReadBytes('\n')
		var r reply
		if err == nil {
			err = json.Unmarshal(line, &r)
		}
		switch {
		case err != nil:
			g.end(err)
			return
		case r.ID == 0 && greeted != nil:
			close(greeted)
			greeted = nil
		default:
			g.deliver(r)
		}
	}
}

func (g *guest) deliver(r reply) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c, ok := g.commands[r.ID]; ok && c.take(r) {
		delete(g.commands, r.ID)
	}
}

// end says to all that run that the machine has gone.
func (g *guest) end(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	gone := -1
	for id, c := range g.commands {
		c.take(reply{ID: id, Stderr: fmt.Sprintf("\nthe machine has gone: %v", err), Exit: &gone})
	}
	clear(g.commands)
}

func (g *guest) close() { g.conn.Close() }

func (g *guest) start(script string, line func(string)) *Command {
	c := &Command{Done: make(chan struct{}), line: line}
	g.mu.Lock()
	g.last++
	id := g.last
	g.commands[id] = c
	g.mu.Unlock()
	data, err := json.Marshal(request{ID: id, Script: script})
	if err == nil {
		_, err = g.conn.Write(append(data, '\n'))
	}
	if err != nil {
		code := -1
		g.deliver(reply{ID: id, Stderr: err.Error(), Exit: &code})
	}
	return c
}

// Result is how a script has ended.
type Result struct {
	Code           int // -1: it has not ended by itself
	Stdout, Stderr string
}

// String is for failure messages.
func (r Result) String() string {
	return strings.TrimSpace(fmt.Sprintf("exit code %d\n%s%s", r.Code, r.Stdout, r.Stderr))
}

// Command is a script that runs on a machine.
type Command struct {
	Done chan struct{} // closed when it has ended or the machine has

	line   func(string)
	mu     sync.Mutex
	code   int          // guarded by mu
	stdout bytes.Buffer // guarded by mu
	stderr bytes.Buffer // guarded by mu
}

// take adds a reply and reports whether it is the last.
func (c *Command) take(r reply) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stdout.WriteString(r.Stdout)
	c.stderr.WriteString(r.Stderr)
	for c.line != nil {
		before, after, ok := bytes.Cut(c.stdout.Bytes(), []byte("\n"))
		if !ok {
			break
		}
		c.line(string(before))
		c.stdout.Next(c.stdout.Len() - len(after))
	}
	if r.Exit == nil {
		return false
	}
	c.code = *r.Exit
	close(c.Done)
	return true
}

func (c *Command) result() Result {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Result{Code: c.code, Stdout: c.stdout.String(), Stderr: c.stderr.String()}
}
