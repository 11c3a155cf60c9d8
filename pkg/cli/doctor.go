package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"skiff/pkg/agent/runtime"
	"skiff/pkg/config"
	"skiff/pkg/doctor"
	"skiff/pkg/preflight"
)

func doctorCommand() *cli.Command {
	return &cli.Command{
		Name:  "doctor",
		Usage: "look for what keeps skiff from working on this machine, and mend it",
		Description: "Looks at the kernel, the disk, the clock, the network, the firewall and at what others have left,\n" +
			"whether skiff runs or not, and says how to mend what it finds. It looks at the settings that a\n" +
			"running skiff was started with, else at those of the configuration file.\n\n" +
			"The exit code is 0 if nothing is wrong, and 1 if somebody has to act.",
		Flags: append([]cli.Flag{
			&cli.BoolFlag{Name: "fix", Usage: "mend what is safe to mend, and say what was done", DisableDefaultText: true},
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "text", Usage: "text or json"},
		}, machineFlags()...),
		Action: func(c *cli.Context) error { return examine(c, doctor.Everything, c.Bool("fix")) },
	}
}

func checkConfigCommand() *cli.Command {
	return &cli.Command{
		Name:  "check-config",
		Usage: "check the configuration files, the kernel and its limits, without starting anything",
		Description: "Reads config.yaml with its drop-ins and registries.yaml as a start would, and looks at the kernel,\n" +
			"the cgroups and the limits; skiff doctor looks at everything.\n\n" +
			"The exit code is 0 if nothing is wrong, and 1 if somebody has to act.",
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "text", Usage: "text or json"},
		}, machineFlags()...),
		Action: func(c *cli.Context) error { return examine(c, doctor.Kernel, false) },
	}
}

// machineFlags are the settings that say where this machine's skiff is.
func machineFlags() []cli.Flag {
	names := []string{config.ConfigFlag, "data-dir", "https-listen-port", "cluster-cidr", "service-cidr", "flannel-backend", "private-registry", "resolv-conf", "snapshotter"}
	return slices.DeleteFunc(optionFlags(config.RoleServer), func(f cli.Flag) bool { return !slices.Contains(names, f.Names()[0]) })
}

func examine(c *cli.Context, scope doctor.Scope, mend bool) error {
	if err := noArguments(c); err != nil {
		return err
	}
	format := c.String("output")
	if format != "text" && format != "json" {
		return usage(fmt.Errorf("invalid --output %q: want text or json", format))
	}
	if mend {
		if err := preflight.Root(); err != nil {
			return errors.New("skiff doctor --fix must run as root: it changes the machine; use sudo")
		}
	}
	m, findings := readMachine(c)
	d := doctor.New(m.options())
	look := func() *doctor.Report {
		r := d.Examine(c.Context, scope)
		r.Findings = append(slices.Clone(findings), r.Findings...)
		return r
	}
	r := look()
	if mend {
		if repairs := d.Mend(c.Context, r); len(repairs) > 0 {
			r = look()
			r.Mended = repairs
		}
	}
	var err error
	if format == "json" {
		err = writeJSON(c.App.Writer, r)
	} else {
		err = doctor.WriteText(c.App.Writer, r)
	}
	if err != nil {
		return err
	}
	if r.Problems() {
		return &exitError{code: 1}
	}
	return nil
}

// configFindings says what is wrong with the files that a person writes, one
// finding for each line of an error.
func configFindings(err error, id, mend string) []doctor.Finding {
	var out []doctor.Finding
	if err != nil {
		for line := range strings.Lines(err.Error()) {
			out = append(out, doctor.Extra(id, strings.TrimSpace(line), mend))
		}
	}
	return out
}

func registriesFindings(cfg config.Completed) []doctor.Finding {
	file := cfg.Node.PrivateRegistry
	if f, err := os.Open(file); errors.Is(err, os.ErrPermission) {
		return nil // It holds passwords, and is root's.
	} else if err == nil {
		_ = f.Close() // It was only asked.
	}
	return configFindings(runtime.CheckRegistries(file), doctor.RegistriesFile, "mend "+file+": skiff sees it at once, without a restart")
}

// nftExecutable finds an nft to ask, or takes the one that skiff carries out for
// a moment, to where programs can be started.
func nftExecutable(cfg config.Completed) (path string, remove func() error, err error) {
	keep := func() error { return nil }
	staged := filepath.Join(cfg.Paths.Bin(), "nft")
	if _, err := os.Stat(staged); err == nil {
		return staged, keep, nil
	}
	return stageOnce(cfg, "nft")
}
