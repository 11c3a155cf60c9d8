package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"skiff/pkg/agent/images"
	"skiff/pkg/agent/runtime"
	"skiff/pkg/config"
)

// stdStream is the name of a file that is standard input or output.
const stdStream = "-"

func imageCommand() *cli.Command {
	format := &cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "table", Usage: "table or json"}
	pin := &cli.BoolFlag{Name: "pin", Value: true, Usage: "keep the images when the disk is full and unused images are removed"}
	where := someOptionFlags("data-dir")
	return &cli.Command{
		Name:    "image",
		Aliases: []string{"images"},
		Usage:   "bring images to this node without a registry, and take them away",
		Description: "An archive is what docker save or skiff image export makes: a tar file, as it is or\n" +
			"compressed by gzip, bzip2 or zstd. Archives in agent/images below the data directory\n" +
			"are imported by themselves. skiff ctr can do more: skiff ctr -n k8s.io images --help",
		Action: subcommandHelp,
		Subcommands: []*cli.Command{
			{Name: "import", Usage: "import archives; - is standard input", ArgsUsage: "FILE…", Flags: append([]cli.Flag{pin}, where...), Action: importImages},
			{Name: "export", Usage: "write images to one archive, compressed if FILE ends in .gz or .zst; - is standard output", ArgsUsage: "NAME… FILE", Flags: where, Action: exportImages},
			{Name: "ls", Aliases: []string{"list"}, Usage: "list the images of this node", Flags: append([]cli.Flag{format}, where...), Action: listImages},
		},
	}
}

// imageStore opens the store of this node and returns the arguments, of which
// there must be at least so many.
func imageStore(c *cli.Context, least int) (*images.Store, []string, error) {
	if os.Geteuid() != 0 {
		return nil, nil, fmt.Errorf("%s must run as root: images belong to the whole machine; use sudo", c.Command.HelpName)
	}
	args := c.Args().Slice()
	if len(args) < least || least == 0 && len(args) > 0 {
		want := "no argument"
		if least > 0 {
			want = c.Command.ArgsUsage + "; flags come before it"
		}
		return nil, nil, usage(fmt.Errorf("%s wants %s", c.Command.HelpName, want))
	}
	cfg, _, err := loadOptions(c, config.RoleServer)
	if err != nil {
		return nil, nil, err
	}
	snapshotter, err := runtime.ConfiguredSnapshotter(cfg.Paths)
	if err != nil {
		return nil, nil, err
	}
	s, err := images.Open(c.Context, cfg.Paths, snapshotter)
	return s, args, err
}

func importImages(c *cli.Context) (err error) {
	s, files, err := imageStore(c, 1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	var errs []error
	for _, file := range files {
		names, err := importFile(c, s, file)
		if err != nil {
			errs = append(errs, fmt.Errorf("import %s: %w", file, err))
			continue
		}
		errs = append(errs, printLines(c.App.Writer, names...))
	}
	return errors.Join(errs...)
}

func importFile(c *cli.Context, s *images.Store, file string) (names []string, err error) {
	in := os.Stdin
	if file != stdStream {
		if in, err = os.Open(file); err != nil {
			return nil, err
		}
		defer in.Close()
	}
	return s.Import(c.Context, in, c.Bool("pin"))
}

func exportImages(c *cli.Context) (err error) {
	s, args, err := imageStore(c, 2)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	names, file := args[:len(args)-1], args[len(args)-1]
	if file == stdStream {
		return s.Export(c.Context, c.App.Writer, names)
	}
	// The file is either as it was or whole.
	temp, err := os.CreateTemp(filepath.Dir(file), ".skiff-export-*")
	if err != nil {
		return fmt.Errorf("export to %s: %w", file, err)
	}
	if err := exportTo(c, s, temp, names, file); err != nil {
		return errors.Join(err, os.Remove(temp.Name()))
	}
	info, err := os.Stat(file)
	if err != nil {
		return fmt.Errorf("export to %s: %w", file, err)
	}
	return printLines(c.App.Writer, fmt.Sprintf("%s (%s)", file, megabytes(info.Size())))
}

func exportTo(c *cli.Context, s *images.Store, temp *os.File, names []string, file string) error {
	err := func() error {
		w, err := images.Compress(temp, file)
		if err != nil {
			return err
		}
		return errors.Join(s.Export(c.Context, w, names), w.Close())
	}()
	if err := errors.Join(err, temp.Close()); err != nil {
		return err
	}
	if err := os.Chmod(temp.Name(), 0o644); err != nil { //nolint:gosec // Images are no secrets to those who may run them.
		return fmt.Errorf("export to %s: %w", file, err)
	}
	if err := os.Rename(temp.Name(), file); err != nil {
		return fmt.Errorf("export to %s: %w", file, err)
	}
	return nil
}

func listImages(c *cli.Context) (err error) {
	format := c.String("output")
	if format != "table" && format != "json" {
		return usage(fmt.Errorf("invalid --output %q: want table or json", format))
	}
	s, _, err := imageStore(c, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	list, err := s.List(c.Context)
	if err != nil {
		return err
	}
	if format == "json" {
		return writeJSON(c.App.Writer, list)
	}
	return imageTable(c.App.Writer, list)
}

func imageTable(w io.Writer, list []images.Info) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tDIGEST\tSIZE\tPINNED")
	for _, i := range list {
		_, digest, _ := strings.Cut(i.Digest, ":")
		size, pinned := megabytes(i.Size), "no"
		if i.Pinned {
			pinned = "yes"
		}
		if i.Problem != "" {
			size = "incomplete"
		}
		fmt.Fprintf(t, "%s\t%.12s\t%s\t%s\n", i.Name, digest, size, pinned)
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("write list: %w", err)
	}
	return nil
}
