package cli

import (
	"context"
	"errors"
	"fmt"
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
			client := &status.Client{Socket: paths.New(paths.DefaultData).StatusSocket()}
			report, err := askStatus(c.Context, client, wait)
			if report != nil {
				if err := printStatus(c, report, format); err != nil {
					return err
				}
			}
			switch {
			case errors.Is(err, status.ErrNotRunning):
				return &exitError{code: exitNotRunning, err: err}
			case errors.Is(err, status.ErrNotReady), err == nil && !report.Ready:
				return &exitError{code: exitNotReady}
			default:
				return err
			}
		},
	}
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
	return status.WriteText(c.App.Writer, r, time.Now())
}
