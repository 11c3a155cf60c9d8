package cli

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"skiff/pkg/config"
	"skiff/pkg/server"
	"skiff/pkg/snapshot"
	"skiff/pkg/version"
)

func snapshotCommand() *cli.Command {
	format := &cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "table", Usage: "table or json"}
	name := &cli.StringFlag{Name: "name", Value: snapshot.OnDemand, Usage: "first part of the snapshot's name; node and time follow"}
	return &cli.Command{
		Name:  "snapshot",
		Usage: "save and restore the server: its SQLite datastore, certificates, token and configuration",
		Description: "A snapshot is one file from which the same cluster can be started on this or another\n" +
			"machine. It holds the cluster's keys: keep it as safe as the server. A running server makes\n" +
			"snapshots by itself, see --snapshot-interval of skiff server.",
		Action: subcommandHelp,
		Subcommands: []*cli.Command{
			{
				Name: "save", Usage: "make a snapshot; the server may be running",
				Flags: append([]cli.Flag{name}, someOptionFlags("snapshot-dir", "data-dir", "node-name", "datastore-endpoint", "private-registry")...), Action: saveSnapshot,
			},
			{Name: "ls", Usage: "list the snapshots", Flags: append([]cli.Flag{format}, someOptionFlags("snapshot-dir", "data-dir")...), Action: listSnapshots},
			{Name: "verify", Usage: "read snapshots and compare all content with its checksums", ArgsUsage: "NAME|FILE…", Flags: someOptionFlags("snapshot-dir", "data-dir"), Action: verifySnapshots},
			{Name: "delete", Usage: "delete snapshots", ArgsUsage: "NAME…", Flags: someOptionFlags("snapshot-dir", "data-dir"), Action: deleteSnapshots},
			{
				Name: "restore", Usage: "put a snapshot in the place of the server's state; skiff must not be running", ArgsUsage: "NAME|FILE",
				Flags: someOptionFlags("snapshot-dir", "data-dir", "datastore-endpoint", "private-registry"), Action: restoreSnapshot,
			},
		},
	}
}

// someOptionFlags are the flags of a few of the server's options, and the one
// that says where the configuration file is.
func someOptionFlags(names ...string) []cli.Flag {
	return slices.DeleteFunc(optionFlags(config.RoleServer), func(f cli.Flag) bool {
		return !slices.Contains(append(names, config.ConfigFlag), f.Names()[0])
	})
}

// subcommandHelp runs when no subcommand was recognised.
func subcommandHelp(c *cli.Context) error {
	if !c.Args().Present() {
		return cli.ShowSubcommandHelp(c)
	}
	var names []string
	for _, s := range c.Command.Subcommands {
		names = append(names, s.Name)
	}
	name := c.Args().First()
	hint := "; want one of " + strings.Join(names, ", ")
	if s := config.Suggest(name, names); s != "" {
		hint = "; did you mean " + s + "?"
	}
	return usage(fmt.Errorf("unknown command %q of %s%s", name, c.Command.HelpName, hint))
}

// snapshotConfig reads the configuration that the server here has. Names are
// the arguments, of which there must be between least and most.
func snapshotConfig(c *cli.Context, least, most int) (config.Completed, []string, error) {
	if os.Geteuid() != 0 {
		return config.Completed{}, nil, fmt.Errorf("%s must run as root: the server's state is readable by root only; use sudo", c.Command.HelpName)
	}
	names := c.Args().Slice()
	if len(names) < least || len(names) > most {
		want := "no argument"
		if least > 0 {
			want = c.Command.ArgsUsage + "; flags come before it"
		}
		return config.Completed{}, nil, usage(fmt.Errorf("%s wants %s", c.Command.HelpName, want))
	}
	completed, _, err := loadOptions(c, config.RoleServer)
	return completed, names, err
}

// sqliteOnly refuses what has tools of its own.
func sqliteOnly(cfg config.Completed) (snapshot.Source, error) {
	src, ok := server.SnapshotSource(cfg)
	if ok {
		return src, nil
	}
	scheme, _, _ := strings.Cut(cfg.Server.DatastoreEndpoint, "://")
	tools := map[string]string{
		"postgres": "pg_dump and pg_restore", "postgresql": "pg_dump and pg_restore", "mysql": "mysqldump and mysql",
		"http": "etcdctl snapshot save and etcdutl snapshot restore", "https": "etcdctl snapshot save and etcdutl snapshot restore",
	}
	return src, fmt.Errorf("snapshots are for the SQLite datastore, and --datastore-endpoint names a %s server: use %s for its data, and keep a copy of %s and %s",
		scheme, tools[scheme], cfg.Paths.ServerTLS(), cfg.Paths.Token())
}

func saveSnapshot(c *cli.Context) error {
	cfg, _, err := snapshotConfig(c, 0, 0)
	if err != nil {
		return err
	}
	src, err := sqliteOnly(cfg)
	if err != nil {
		return err
	}
	label := c.String("name")
	if ok, _ := regexp.MatchString(`^[A-Za-z0-9][-A-Za-z0-9_.+]{0,99}$`, label); !ok {
		return usage(fmt.Errorf("invalid --name %q: want letters, digits, '-', '_', '+' and '.', beginning with a letter or digit", label))
	}
	if label == snapshot.Scheduled || strings.HasPrefix(label, snapshot.Scheduled+"-") || strings.HasPrefix(label, snapshot.PreUpgrade) {
		return usage(fmt.Errorf("invalid --name %q: these snapshots are made, and deleted, by the server", label))
	}
	// A running server lets nobody else read its database.
	info, err := snapshot.Ask(c.Context, cfg.Paths.StatusSocket(), cfg.Server.SnapshotDir, label)
	if dial, ok := errors.AsType[*net.OpError](err); ok && dial.Op == "dial" {
		info, err = snapshot.Save(c.Context, src, cfg.Server.SnapshotDir, label)
	}
	if err != nil {
		return err
	}
	return printLines(c.App.Writer, fmt.Sprintf("%s (%s)", info.Path, megabytes(info.Size)))
}

func listSnapshots(c *cli.Context) error {
	cfg, _, err := snapshotConfig(c, 0, 0)
	if err != nil {
		return err
	}
	list, err := snapshot.List(cfg.Server.SnapshotDir)
	if err != nil {
		return err
	}
	switch format := c.String("output"); format {
	case "json":
		return writeJSON(c.App.Writer, append([]snapshot.Info{}, list...))
	case "table":
	default:
		return usage(fmt.Errorf("invalid --output %q: want table or json", format))
	}
	t := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tKIND\tTIME\tSIZE\tNODE\tVERSION\tREVISION")
	for _, i := range list {
		if i.Problem != "" {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\tdamaged: %s\n", i.Name, i.Kind, i.Time.Format(time.RFC3339), megabytes(i.Size), i.Problem)
			continue
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%d\n", i.Name, i.Kind, i.Time.Format(time.RFC3339), megabytes(i.Size), i.Node, i.Version, i.Revision)
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("write list: %w", err)
	}
	return nil
}

func verifySnapshots(c *cli.Context) error {
	return eachSnapshot(c, func(dir, name string) (string, error) {
		path, err := snapshot.Find(dir, name)
		if err != nil {
			return "", err
		}
		info, err := snapshot.Verify(c.Context, path)
		return fmt.Sprintf("%s is sound: node %s, revision %d, %s", name, info.Node, info.Revision, info.Time.Format(time.RFC3339)), err
	})
}

func deleteSnapshots(c *cli.Context) error {
	return eachSnapshot(c, func(dir, name string) (string, error) {
		return name + " deleted", snapshot.Delete(dir, name)
	})
}

// eachSnapshot does something with each snapshot that is named, also after one
// has failed.
func eachSnapshot(c *cli.Context, do func(dir, name string) (string, error)) error {
	cfg, names, err := snapshotConfig(c, 1, 1000)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		line, err := do(cfg.Server.SnapshotDir, name)
		if err == nil {
			err = printLines(c.App.Writer, line)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func restoreSnapshot(c *cli.Context) error {
	cfg, names, err := snapshotConfig(c, 1, 1)
	if err != nil {
		return err
	}
	src, err := sqliteOnly(cfg)
	if err != nil {
		return err
	}
	path, err := snapshot.Find(cfg.Server.SnapshotDir, names[0])
	if err != nil {
		return err
	}
	r, err := snapshot.Restore(c.Context, snapshot.Target{
		Paths: cfg.Paths, Database: src.Database, ConfigFile: cfg.File, Registries: cfg.Node.PrivateRegistry, Snapshots: cfg.Server.SnapshotDir,
	}, path, time.Now())
	if err != nil {
		return err
	}
	return printLines(c.App.Writer, restoredText(r, cfg)...)
}

// restoredText says what has happened and what is left to do.
func restoredText(r snapshot.Restored, cfg config.Completed) []string {
	lines := []string{fmt.Sprintf("%s is restored to %s: node %s as of %s.", r.Name, cfg.Paths.Server(), r.Node, r.Time.Format(time.RFC3339))}
	if r.Version != version.Version {
		lines = append(lines, fmt.Sprintf("The data is of skiff %s, this is %s.", r.Version, version.Version))
	}
	if r.Aside != "" {
		lines = append(lines, "What was there before is in "+r.Aside+"; remove it when all is well.")
	}
	if len(r.Written) > 0 {
		lines = append(lines, "Configuration of the snapshot, put in place; look whether it suits this machine: "+strings.Join(r.Written, ", "))
	}
	if len(r.Kept) > 0 {
		lines = append(lines, "Configuration of this machine, left as it is; the snapshot's differs and is in "+r.EtcCopy+": "+strings.Join(r.Kept, ", "))
	}
	lines = append(lines, "Flags of the command line are not part of a snapshot. Next: start skiff server as before.")
	if r.Node != cfg.Node.Name {
		lines = append(lines, fmt.Sprintf("This machine joins as node %s. If node %s is gone for good, then run: skiff kubectl delete node %s", cfg.Node.Name, r.Node, r.Node))
	}
	return lines
}

func printLines(w io.Writer, lines ...string) error {
	for _, line := range lines {
		if _, err := fmt.Fprintln(w, line); err != nil {
			return fmt.Errorf("write output: %w", err)
		}
	}
	return nil
}

// megabytes is a size for people. What is less than a tenth is not nothing.
func megabytes(n int64) string {
	if n < 1e5 {
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	}
	return fmt.Sprintf("%.1f MB", float64(n)/1e6)
}
