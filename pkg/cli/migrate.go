package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"

	"skiff/pkg/k3s"
	"skiff/pkg/paths"
)

func migrateCommand() *cli.Command {
	return &cli.Command{
		Name:  "migrate-k3s",
		Usage: "take over a K3s of this machine: configuration, authorities, token, objects",
		Description: "K3s and its pods must have been stopped, by k3s-killall.sh. Its files are only read. What is\n" +
			"taken over and what is not is printed; --dry-run prints it and changes nothing. Objects come\n" +
			"from a SQLite datastore, K3s' default for one server.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "from", Value: paths.K3sData, Usage: "K3s' data directory"},
			&cli.StringFlag{Name: "config", Value: filepath.Join(paths.K3sEtc, "config.yaml"), Usage: "K3s' configuration file; its drop-ins and registries.yaml lie beside it"},
			&cli.BoolFlag{Name: "dry-run", Usage: "only say what would be done", DisableDefaultText: true},
			&cli.BoolFlag{Name: "force", Usage: "take the place of what is there of skiff's, which is kept under another name", DisableDefaultText: true},
			&cli.StringFlag{Name: "data-dir", Aliases: []string{"d"}, Value: paths.DefaultData, Usage: "skiff's data directory"},
		},
		Action: migrateK3s,
	}
}

func migrateK3s(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("%s must run as root: K3s' files are readable by root only; use sudo", c.Command.HelpName)
	}
	etc := filepath.Dir(c.String("config"))
	o := k3s.Options{
		From: k3s.Source{
			Data: c.String("from"), Config: c.String("config"), Registries: filepath.Join(etc, "registries.yaml"),
			Password: paths.K3sNodePassword, Run: paths.K3sRun, Proc: "/proc",
			Units: []string{
				filepath.Join(paths.SystemdUnits, "k3s.service"), filepath.Join(paths.SystemdUnits, "k3s.service.env"),
				filepath.Join(paths.SystemdUnits, "k3s-agent.service"), filepath.Join(paths.SystemdUnits, "k3s-agent.service.env"),
				filepath.Join(paths.OpenRCUnits, "k3s"), filepath.Join(etc, "k3s.env"),
			},
		},
		To: paths.New(c.String("data-dir")), Force: c.Bool("force"), Dry: c.Bool("dry-run"),
	}
	r, err := k3s.Migrate(c.Context, o, time.Now())
	if err != nil {
		return err
	}
	return printLines(c.App.Writer, r.Text(o)...)
}
