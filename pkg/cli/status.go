package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"skiff/pkg/paths"
	"skiff/pkg/status"
)

func statusCommand() *cli.Command {
	return &cli.Command{
		Name:  "status",
		Usage: "show how the skiff on this machine is",
		Description: "The exit code is 0 if everything is ready, 3 if skiff is not running and\n" +
			"4 if it is running but not ready.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "watch", Aliases: []string{"w"}, Usage: "show it live, until Ctrl-C; with --wait until everything is ready", DisableDefaultText: true},
			&cli.DurationFlag{Name: "wait", Usage: "wait up to this long (90s, 5m) until everything is ready", DefaultText: "do not wait"},
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "table", Usage: "table or json"},
		},
		Action: func(c *cli.Context) error {
			if err := noArguments(c); err != nil {
				return err
			}
			format, wait := c.String("output"), c.Duration("wait")
			if format != "table" && format != "json" {
				return usage(fmt.Errorf("invalid --output %q: want table or json", format))
			}
			if wait < 0 {
				return usage(fmt.Errorf("invalid --wait %q: want a time like 90s", wait))
			}
			watch := c.Bool("watch")
			if watch && format != "table" {
				return usage(errors.New("--watch draws a table: leave out --output"))
			}
			client := &status.Client{Socket: paths.New(paths.DefaultData).StatusSocket()}
			if watch {
				return watchStatus(c, client, wait)
			}
			report, err := askStatus(c.Context, client, wait)
			if report != nil {
				if err := printStatus(c, report, format); err != nil {
					return err
				}
			}
			return statusExit(report, err)
		},
	}
}

// statusExit is the exit code that goes with a report, or with none.
func statusExit(report *status.Report, err error) error {
	switch {
	case errors.Is(err, status.ErrNotRunning):
		return &exitError{code: exitNotRunning, err: fmt.Errorf("%w\n%s", err, howToStart())}
	case errors.Is(err, status.ErrNotReady), err == nil && !report.Ready:
		return &exitError{code: exitNotReady}
	default:
		return err
	}
}

// howToStart is what to do when skiff does not run, by how it was installed.
func howToStart() string {
	for _, way := range []struct{ file, text string }{
		{filepath.Join(paths.SystemdUnits, "skiff.service"), "start it: systemctl start skiff; why it ended: journalctl -u skiff -n 50"},
		{filepath.Join(paths.SystemdUnits, "skiff-agent.service"), "start it: systemctl start skiff-agent; why it ended: journalctl -u skiff-agent -n 50"},
		{filepath.Join(paths.OpenRCUnits, "skiff"), "start it: rc-service skiff start"},
		{filepath.Join(paths.OpenRCUnits, "skiff-agent"), "start it: rc-service skiff-agent start"},
	} {
		if _, err := os.Stat(way.file); err == nil {
			return way.text
		}
	}
	return "start it: skiff server, or skiff agent"
}

// watchStatus shows the status live. With a time to wait it ends when all is
// ready or the time is over, with the exit code of --wait.
func watchStatus(c *cli.Context, client *status.Client, wait time.Duration) error {
	ctx, stop := signal.NotifyContext(c.Context, os.Interrupt, syscall.SIGTERM)
	defer stop()
	live := &status.Live{Out: c.App.Writer}
	live.Size, live.Paint = terminal(c)
	if wait == 0 {
		_, err := live.Watch(ctx, client)
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	live.Until = func(r *status.Report) bool { return r.Ready }
	report, err := live.Watch(ctx, client)
	if err == nil && report == nil {
		err = fmt.Errorf("%w (asked at %s)", status.ErrNotRunning, client.Socket)
	}
	return statusExit(report, err)
}

// terminal is what the output is shown on: nil and no colours if it is none.
func terminal(c *cli.Context) (size func() (columns, rows int), paint status.Paint) {
	f, ok := c.App.Writer.(*os.File)
	if !ok {
		return nil, false
	}
	if size, ok = status.Terminal(f); !ok {
		return nil, false
	}
	return size, status.Colours(os.Getenv)
}

func askStatus(ctx context.Context, client *status.Client, wait time.Duration) (*status.Report, error) {
	if wait == 0 {
		return client.Get(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	return client.Wait(ctx)
}

func printStatus(c *cli.Context, r *status.Report, format string) error {
	if format == "json" {
		return status.WriteJSON(c.App.Writer, r)
	}
	_, paint := terminal(c)
	return status.WriteText(c.App.Writer, r, time.Now(), paint)
}
