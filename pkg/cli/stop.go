package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"skiff/pkg/hostchange"
	"skiff/pkg/paths"
	"skiff/pkg/preflight"
	"skiff/pkg/process"
	"skiff/pkg/removal"
)

func stopCommand() *cli.Command {
	return &cli.Command{
		Name:  "stop",
		Usage: "stop the skiff on this machine; pods keep running unless told otherwise",
		Description: "Works whatever state skiff is in. The data stays in any case: the next start\n" +
			"goes on where this one ended, and starts the pods that do not run.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "drain", Usage: "let all pods of this machine end as well, each within its time", DisableDefaultText: true},
			&cli.DurationFlag{Name: "grace-period", Value: 2 * time.Minute, Usage: "with --drain: how long a pod may take at most"},
			&cli.BoolFlag{Name: "kill", Usage: "kill all containers at once, and undo what a reboot would undo: mounts, networks, packet filters, kernel settings", DisableDefaultText: true},
		},
		Action: stop,
	}
}

// impatience is how long skiff may take to stop where its pods get no time at all.
const impatience = 5 * time.Second

func stop(c *cli.Context) (err error) {
	if err := noArguments(c); err != nil {
		return err
	}
	if c.Duration("grace-period") < 0 {
		return usage(fmt.Errorf("invalid --grace-period %q: want a time like 30s", c.Duration("grace-period")))
	}
	if c.IsSet("grace-period") && !c.Bool("drain") {
		return usage(errors.New("--grace-period says something about --drain only"))
	}
	if err := preflight.Root(); err != nil {
		return err
	}
	r := newRemoval(c)
	if c.Bool("kill") {
		r.Patience = impatience
	}
	rec, err := r.Load()
	if errors.Is(err, removal.ErrNothing) {
		return printLines(c.App.Writer, "skiff has never run on this machine.")
	}
	if err != nil {
		return err
	}
	for _, dir := range removal.DataDirs(rec.Lasting()) {
		lock, err := r.Stop(c.Context, rec, dir)
		if err != nil {
			return err
		}
		if lock != nil {
			// So that nobody starts skiff meanwhile.
			defer func() { err = errors.Join(err, lock.Release()) }()
		}
		if c.Bool("drain") {
			if err := r.Halt(rec, dir).Drain(c.Context, c.Duration("grace-period"), slog.New(slog.NewTextHandler(io.Discard, nil))); err != nil {
				return err
			}
		}
	}
	if c.Bool("kill") {
		// What was written down while it stopped counts, too.
		if rec, err = hostchange.Open(r.Layout); err != nil {
			return err
		}
		if err := r.KillAll(c.Context, rec); err != nil {
			return err
		}
		return printLines(c.App.Writer, "skiff and all its pods have been ended. The data is untouched.")
	}
	if c.Bool("drain") {
		return printLines(c.App.Writer, "skiff and all its pods have ended. The data is untouched.")
	}
	return printLines(c.App.Writer, "skiff does not run. Its pods do; `skiff stop --drain` or `--kill` ends them.")
}

func runProgram(ctx context.Context, name string, args ...string) (string, error) {
	out, err := process.Output(ctx, process.Command{Path: name, Args: args})
	return string(out), err
}

// newRemoval is what takes skiff off this machine, as seen from a command.
func newRemoval(c *cli.Context) *removal.Removal {
	self, err := os.Executable()
	if err != nil {
		self = "" // It is only not removed by itself.
	}
	return &removal.Removal{
		Layout: paths.New(paths.DefaultData), Self: self, Run: runProgram,
		Say: func(format string, args ...any) { _, _ = fmt.Fprintf(c.App.Writer, format+"\n", args...) },
	}
}
