package crictl

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/kubectl/pkg/util/term"
	utilexec "k8s.io/utils/exec"
)

func (e *environment) execCommand() *cobra.Command {
	var stdin, tty, sync bool
	var timeout int64
	c := &cobra.Command{Use: "exec [flags] CONTAINER-ID COMMAND [ARG...]", Short: "Run a command in a running container", Args: cobra.MinimumNArgs(2)}
	f := c.Flags()
	f.SetInterspersed(false)
	f.BoolVarP(&stdin, "interactive", "i", false, "give the command our standard input")
	f.BoolVarP(&tty, "tty", "t", false, "give the command a terminal")
	f.BoolVarP(&sync, "sync", "s", false, "run without streaming, and print the output at the end")
	f.Int64Var(&timeout, "timeout", 0, "seconds after which the command is ended, with --sync; 0 means never")
	c.RunE = func(c *cobra.Command, args []string) error {
		s, err := e.runtimeService(c.Context())
		if err != nil {
			return err
		}
		if sync {
			return e.execSync(c.Context(), s, args, time.Duration(timeout)*time.Second)
		}
		return e.execStream(c.Context(), s, args, stdin, tty)
	}
	return c
}

func (e *environment) execSync(ctx context.Context, s internalapi.RuntimeService, args []string, timeout time.Duration) error {
	stdout, stderr, err := s.ExecSync(ctx, args[0], args[1:], timeout)
	// What the command wrote comes first, also when it failed.
	if _, werr := e.Out.Write(stdout); werr != nil {
		return werr
	}
	if _, werr := e.Err.Write(stderr); werr != nil {
		return werr
	}
	return execError(args, err)
}

// execStream runs a command through the runtime's streaming server.
func (e *environment) execStream(ctx context.Context, s internalapi.RuntimeService, args []string, stdin, tty bool) error {
	r, err := s.Exec(ctx, &runtimeapi.ExecRequest{
		ContainerId: args[0], Cmd: args[1:], Tty: tty, Stdin: stdin, Stdout: true, Stderr: !tty,
	})
	if err != nil {
		return fmt.Errorf("run %s in container %s: %w", args[1], args[0], err)
	}
	u, err := url.Parse(r.Url)
	if err != nil {
		return fmt.Errorf("parse streaming address of the runtime: %w", err)
	}
	if u.Host == "" {
		return fmt.Errorf("the runtime gave no usable streaming address: %q", r.Url)
	}
	// The address carries a one-time token and is on this machine.
	config := &rest.Config{TLSClientConfig: rest.TLSClientConfig{Insecure: true}}
	executor, err := remotecommand.NewSPDYExecutor(config, "POST", u)
	if err != nil {
		return fmt.Errorf("connect to the runtime's streaming server: %w", err)
	}
	o := remotecommand.StreamOptions{Stdout: e.Out, Stderr: e.Err, Tty: tty}
	if stdin {
		o.Stdin = e.In
	}
	if !tty {
		return execError(args, executor.StreamWithContext(ctx, o))
	}
	o.Stderr = nil
	t := term.TTY{In: o.Stdin, Out: e.Out, Raw: stdin}
	if size := t.GetSize(); size != nil {
		o.TerminalSizeQueue = sizes{t.MonitorSize(size)}
	}
	return execError(args, t.Safe(func() error { return executor.StreamWithContext(ctx, o) }))
}

// sizes passes the sizes of our terminal on.
type sizes struct{ term.TerminalSizeQueue }

// Next implements remotecommand.TerminalSizeQueue.
func (s sizes) Next() *remotecommand.TerminalSize {
	n := s.TerminalSizeQueue.Next()
	if n == nil {
		return nil
	}
	return &remotecommand.TerminalSize{Width: n.Width, Height: n.Height}
}

// execError turns the exit code of the command into ours.
func execError(args []string, err error) error {
	var exit utilexec.ExitError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &exit) && exit.Exited():
		return exitCode(exit.ExitStatus())
	}
	return fmt.Errorf("run %s in container %s: %w", args[1], args[0], err)
}
