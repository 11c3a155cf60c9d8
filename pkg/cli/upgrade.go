package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"skiff/pkg/paths"
	"skiff/pkg/preflight"
	"skiff/pkg/release"
	"skiff/pkg/upgrade"
)

func upgradeCommand() *cli.Command {
	return &cli.Command{
		Name:      "upgrade",
		Usage:     "put another version of skiff in place, and the old one back if the new one is not well",
		ArgsUsage: "FILE|VERSION|URL",
		Description: "FILE is an upgrade file (skiff-VERSION-linux-ARCH.skiff), URL where one is, and VERSION one at\n" +
			"the place this skiff was installed from. Pods go on. The signature, the versions and the space\n" +
			"are checked, a snapshot is made, and the new version tries a copy of the data before anything\n" +
			"changes. It stays if all is ready in time, else the old one comes back by itself, also after a\n" +
			"power cut.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "key", Usage: "file with the public key that must have signed it", DefaultText: installedLayout().ReleaseKey()},
			&cli.BoolFlag{Name: "dry-run", Usage: "check everything, try the new version, and change nothing", DisableDefaultText: true},
			&cli.BoolFlag{Name: "yes", Aliases: []string{"y"}, Usage: "do not ask", DisableDefaultText: true},
			&cli.BoolFlag{Name: "allow-downgrade", Usage: "take an older version, too, if it has the same minor version of Kubernetes", DisableDefaultText: true},
			&cli.BoolFlag{Name: "force", Usage: "upgrade a skiff that is not ready now; it is then enough that the new version runs", DisableDefaultText: true},
			&cli.DurationFlag{Name: "limit", Value: upgrade.DefaultLimit, Usage: "how long the new version has until all is ready"},
			&cli.DurationFlag{Name: "settle", Value: upgrade.DefaultSettle, Usage: "how long it has to stay ready then"},
		},
		Action: runUpgrade,
		Subcommands: []*cli.Command{
			{
				Name: "status", Usage: "say how the last upgrade went, or how far it is",
				Flags:  []cli.Flag{&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "text", Usage: "text or json"}},
				Action: upgradeStatus,
			},
			{
				Name: "rollback", Usage: "take the last upgrade back",
				Flags: []cli.Flag{
					&cli.BoolFlag{Name: "restore-data", Usage: "also put the snapshot from before the upgrade in the place of the data: what was changed since is lost", DisableDefaultText: true},
					&cli.BoolFlag{Name: "yes", Aliases: []string{"y"}, Usage: "do not ask", DisableDefaultText: true},
				},
				Action: upgradeRollback,
			},
			{Name: "guard", Usage: "decide which version the service starts; for the service itself", Hidden: true, Action: upgradeGuard},
			{Name: "watch", Usage: "decide whether a new version stays; for the guard", Hidden: true, Action: upgradeWatch},
			{Name: "try", Usage: "look whether this version can use what is on standard input; for the version before", Hidden: true, Action: upgradeTry},
			{Name: "about", Usage: "say what this version is; for the version before", Hidden: true, Action: func(c *cli.Context) error { return writeJSON(c.App.Writer, thisRelease()) }},
		},
	}
}

// installedLayout has the paths that are the same for every skiff of a machine.
func installedLayout() paths.Layout { return paths.New(paths.DefaultData) }

func upgradeDir() upgrade.Dir { return upgrade.Dir(installedLayout().Upgrade()) }

func runUpgrade(c *cli.Context) (err error) {
	if c.NArg() != 1 {
		return usage(errors.New("skiff upgrade wants one FILE, VERSION or URL; flags come before it"))
	}
	if limit, settle := c.Duration("limit"), c.Duration("settle"); limit <= 0 || settle < 0 {
		return usage(fmt.Errorf("invalid --limit %s or --settle %s: want times like 5m", limit, settle))
	}
	if err := preflight.Root(); err != nil {
		return err
	}
	key, err := releaseKey(c.String("key"))
	if err != nil {
		return err
	}
	ctx, restore := signal.NotifyContext(c.Context, os.Interrupt, syscall.SIGTERM)
	defer restore()
	here, err := findInstalled(ctx)
	if err != nil {
		return err
	}
	file, err := openUpgrade(ctx, c.Args().First())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	r, err := release.Open(file, key)
	if err != nil {
		return fmt.Errorf("%s: %w", c.Args().First(), err)
	}
	say := sayTo(c.App.Writer)
	installer := here.installer(c, say)
	if err := installer.Install(ctx, r); err != nil {
		if errors.Is(err, upgrade.ErrSame) {
			say("skiff %s is installed already: nothing to do.", r.Manifest.Version)
			return nil
		}
		return err
	}
	if installer.DryRun {
		return nil
	}
	// The terminal may go away now: the upgrade goes on.
	signal.Ignore(syscall.SIGHUP)
	s, err := upgrade.Follow(ctx, watcher(c.App.ErrWriter), say)
	if ctx.Err() != nil && upgradeDir().Watching() {
		say("The upgrade goes on by itself; see skiff upgrade status.")
		return nil
	}
	if err != nil {
		return err
	}
	if s.Phase != upgrade.Done {
		return errors.New(s.Text())
	}
	say("skiff %s is in place and all is ready. The version before is kept: skiff upgrade rollback.", s.To.Version)
	return nil
}

// releaseKey reads the key that is trusted.
func releaseKey(file string) (release.Key, error) {
	if file != "" {
		return release.ReadKey(file)
	}
	installed := installedLayout().ReleaseKey()
	key, err := release.ReadKey(installed)
	if errors.Is(err, os.ErrNotExist) {
		return key, fmt.Errorf("there is no key to verify the upgrade with: %s is missing, which install.sh writes; name the public key of the releases with --key", installed)
	}
	return key, err
}

func sayTo(w io.Writer) func(string, ...any) {
	return func(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }
}

// confirm asks the person at the terminal.
func confirm(c *cli.Context, question string) error {
	if c.Bool("yes") {
		return nil
	}
	in := os.Stdin
	if _, err := unix.IoctlGetTermios(int(in.Fd()), unix.TCGETS); err != nil {
		return usage(errors.New("there is no terminal to ask at; use --yes"))
	}
	fmt.Fprint(c.App.Writer, question+" Go on? [y/N] ")
	answer, err := bufio.NewReader(io.LimitReader(in, 1000)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read the answer: %w", err)
	}
	if a := strings.ToLower(strings.TrimSpace(answer)); a != "y" && a != "yes" {
		return errors.New("not confirmed; nothing has been changed")
	}
	return nil
}

func upgradeStatus(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	if err := preflight.Root(); err != nil {
		return err
	}
	s, err := upgradeDir().Read()
	if err != nil {
		return err
	}
	switch format := c.String("output"); format {
	case "json":
		return writeJSON(c.App.Writer, s)
	case "text":
	default:
		return usage(fmt.Errorf("invalid --output %q: want text or json", format))
	}
	lines := []string{s.Text()}
	if s.Phase == upgrade.Prepared && !upgradeDir().Installing() {
		lines = append(lines, "It was interrupted, and nothing has been changed.")
	}
	if s.Phase == upgrade.Watched && !upgradeDir().Watching() {
		lines = append(lines, "Nobody watches it just now: the next start of the service sees to that.")
	}
	if s.Snapshot != "" {
		lines = append(lines, "Snapshot from before it: "+s.Snapshot)
	}
	return printLines(c.App.Writer, lines...)
}

func upgradeRollback(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	if err := preflight.Root(); err != nil {
		return err
	}
	s, err := upgradeDir().Read()
	if err != nil {
		return err
	}
	if s.Phase == upgrade.Done || s.Phase == upgrade.Watched {
		question := fmt.Sprintf("skiff %s makes way for %s again.", s.To.Version, s.From.Version)
		if c.Bool("restore-data") {
			question += fmt.Sprintf(" The data of the server becomes what it was %s: what was changed since is lost.", s.Begun.Format("2006-01-02 15:04 MST"))
		}
		if err := confirm(c, question); err != nil {
			return err
		}
	}
	signal.Ignore(syscall.SIGHUP)
	if err := watcher(c.App.ErrWriter).Rollback(c.Context, "asked for by skiff upgrade rollback", c.Bool("restore-data")); err != nil {
		return err
	}
	if s, err = upgradeDir().Read(); err != nil {
		return err
	}
	return printLines(c.App.Writer, s.Text())
}

// thisRelease is what this executable is.
func thisRelease() upgrade.Release {
	v := readVersions()
	return upgrade.Release{Version: v.Version, Kubernetes: v.Components["kubernetes"], Schema: datastoreSchema}
}

// upgradeName is the file of a version for this machine.
func upgradeName(version string) string { return release.FileName(version, runtime.GOARCH) }

// upgradeGuard never keeps the service from starting: what is wrong is only said.
func upgradeGuard(c *cli.Context) error {
	g := &upgrade.Guard{
		Dir: upgradeDir(), Restore: restoreState, Logger: plainLogger(c.App.ErrWriter),
		Watch: func(ctx context.Context, s upgrade.State) error {
			return s.Service.Detach(ctx, upgradeDir().Log(), upgradeDir().Previous(), "upgrade", "watch")
		},
	}
	return g.Run(c.Context)
}

func upgradeWatch(c *cli.Context) error {
	signal.Ignore(syscall.SIGHUP)
	return watcher(c.App.ErrWriter).Run(c.Context)
}

func watcher(w io.Writer) *upgrade.Watcher {
	return &upgrade.Watcher{Dir: upgradeDir(), Restore: restoreState, Logger: plainLogger(w)}
}
