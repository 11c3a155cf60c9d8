// Package cli is skiff's command line: it turns arguments into calls of other
// packages and their results into text and exit codes. It is a leaf that
// nobody imports but main, and holds no logic of its own. Start reading at
// Run; every command has a file.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"skiff/pkg/applet"
	"skiff/pkg/config"
)

// Exit codes other than 0 and 1.
const (
	exitUsage      = 2 // the command line or the configuration is wrong
	exitNotRunning = 3 // skiff status: no server answers; as for init scripts (LSB)
	exitNotReady   = 4 // skiff status: it runs, and not everything is ready
)

// exitError carries an exit code. With a nil err nothing is printed.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// usage marks an error as one of the person at the keyboard.
func usage(err error) error { return &exitError{code: exitUsage, err: err} }

// Run runs the command that args (os.Args) asks for, and returns the exit code.
func Run(ctx context.Context, args []string) int {
	err := newApp(os.Stdout, os.Stderr).RunContext(ctx, args)
	if err == nil {
		return 0
	}
	code := 1
	if exit, ok := errors.AsType[*exitError](err); ok {
		code = exit.code
		err = exit.err
	}
	if err != nil {
		for line := range strings.Lines(err.Error()) {
			fmt.Fprintln(os.Stderr, "skiff: "+strings.TrimRight(line, "\n"))
		}
	}
	return code
}

func newApp(stdout, stderr io.Writer) *cli.App {
	app := &cli.App{
		Name:                      "skiff",
		Usage:                     "Kubernetes in one executable",
		Writer:                    stdout,
		ErrWriter:                 stderr,
		HideVersion:               true,
		HideHelpCommand:           true,
		DisableSliceFlagSeparator: true,
		Flags:                     []cli.Flag{&cli.BoolFlag{Name: "version", Usage: "print the version", DisableDefaultText: true}},
		OnUsageError:              usageError,
		ExitErrHandler:            func(*cli.Context, error) {}, // Run reports errors
		Action:                    rootAction,
	}
	app.Commands = []*cli.Command{
		serverCommand(), agentCommand(), statusCommand(), bundleCommand(), tokenCommand(), nodeCommand(), snapshotCommand(), upgradeCommand(), imageCommand(), configCommand(), stopCommand(), uninstallCommand(), doctorCommand(), checkConfigCommand(), migrateCommand(), versionCommand(), completionCommand(), docsCommand(),
	}
	for _, a := range applet.Table() {
		// Applets never get here, since main dispatches them; this is for help.
		app.Commands = append(app.Commands, &cli.Command{Name: a.Name, Usage: a.Usage, Hidden: a.Hidden, Category: "Bundled tools", SkipFlagParsing: true})
	}
	uniform(app.Commands)
	return app
}

// uniform makes commands and what is below them behave alike.
func uniform(commands []*cli.Command) {
	for _, c := range commands {
		c.OnUsageError = usageError
		c.HideHelpCommand = true
		uniform(c.Subcommands)
	}
}

// rootAction runs when no command was recognised.
func rootAction(c *cli.Context) error {
	if c.Bool("version") {
		return printVersion(c.App.Writer, "text", false)
	}
	if !c.Args().Present() {
		return cli.ShowAppHelp(c)
	}
	var names []string
	for _, cmd := range c.App.Commands {
		if !cmd.Hidden {
			names = append(names, cmd.Name)
		}
	}
	name := c.Args().First()
	hint := "; run skiff --help for a list"
	if s := config.Suggest(name, names); s != "" {
		hint = "; did you mean " + s + "?"
	}
	return usage(fmt.Errorf("unknown command %q%s", name, hint))
}

// usageError puts a wrong flag in our words. The flag package has no types for
// its errors, so the flag's name is taken from its one fixed message.
func usageError(c *cli.Context, err error, _ bool) error {
	name, unknown := strings.CutPrefix(err.Error(), "flag provided but not defined: -")
	if !unknown {
		return usage(fmt.Errorf("read the flags of %s: %w", c.Command.HelpName, err))
	}
	dashes := "--"
	if len(name) == 1 {
		dashes = "-"
	}
	hint := "; run " + c.Command.HelpName + " --help for a list"
	if s := config.Suggest(strings.TrimLeft(name, "-"), flagNames(c)); s != "" {
		hint = "; did you mean --" + s + "?"
	}
	return usage(fmt.Errorf("unknown flag %s%s%s", dashes, name, hint))
}

func flagNames(c *cli.Context) []string {
	var names []string
	for _, f := range c.Command.Flags {
		for _, n := range f.Names() {
			if len(n) > 1 {
				names = append(names, n)
			}
		}
	}
	return names
}

// noArguments rejects what is left over behind the flags.
func noArguments(c *cli.Context) error {
	if c.Args().Present() {
		return usage(fmt.Errorf("unexpected argument %q of %s", c.Args().First(), c.Command.HelpName))
	}
	return nil
}
