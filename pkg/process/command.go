package process

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// maxOutput bounds what is kept of a command's output.
const maxOutput = 64 << 10

// Command is a program that does one thing and ends.
type Command struct {
	Path  string // looked up in PATH if it has no slash
	Args  []string
	Env   []string // nil: skiff's own environment
	Stdin io.Reader
	// MaxOutput is how much of its output is kept, from the end; default 64 KiB.
	MaxOutput int
}

// ErrNotFound says that there is no such program on this machine.
var ErrNotFound = exec.ErrNotFound

// Output runs a command to its end and returns what it has written to its
// standard output. It is killed when ctx ends. The error of one that fails has
// the last lines it has written to its standard error.
func Output(ctx context.Context, c Command) ([]byte, error) {
	stdout, stderr := tail{limit: c.MaxOutput}, tail{}
	cmd := exec.CommandContext(ctx, c.Path, c.Args...)
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = c.Env, c.Stdin, &stdout, &stderr
	cmd.WaitDelay = drainTimeout
	err := cmd.Run()
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		return stdout.b.Bytes(), nil
	}
	if lines := stderr.lines(); lines != "" {
		return nil, fmt.Errorf("run %s: %w: %s", c.Path, err, lines)
	}
	return nil, fmt.Errorf("run %s: %w", c.Path, err)
}

// Detach starts a command that lives on when this process ends, in a session of
// its own. Its output goes to the end of a file, which is made with mode 0600.
func Detach(c Command, output string) (err error) {
	out, err := os.OpenFile(output, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("start %s: %w", c.Path, err)
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	cmd := exec.Command(c.Path, c.Args...) //nolint:noctx // it is to outlive every context
	cmd.Env, cmd.Stdout, cmd.Stderr = c.Env, out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", c.Path, err)
	}
	return cmd.Process.Release()
}

// tail keeps the end of what is written to it.
type tail struct {
	b     bytes.Buffer
	limit int // 0 is maxOutput
}

// Write never fails.
func (t *tail) Write(p []byte) (int, error) {
	t.b.Write(p)
	if over := t.b.Len() - cmp.Or(t.limit, maxOutput); over > 0 {
		t.b.Next(over)
	}
	return len(p), nil
}

// lines are the last few, as one.
func (t *tail) lines() string {
	all := strings.Split(strings.TrimSpace(t.b.String()), "\n")
	if len(all) > keepLines {
		all = all[len(all)-keepLines:]
	}
	return strings.Join(all, "; ")
}
