package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"skiff/pkg/hostchange"
	"skiff/pkg/paths"
	"skiff/pkg/pki"
	"skiff/pkg/preflight"
	"skiff/pkg/removal"
)

func uninstallCommand() *cli.Command {
	return &cli.Command{
		Name:  "uninstall",
		Usage: "take skiff off this machine, with its pods and its data",
		Description: "Undoes what skiff has changed, by the journal that it keeps of that, and nothing else.\n" +
			"If it is interrupted, run it again.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "keep-data", Usage: "keep the cluster's data, volumes and the configuration, for a later installation", DisableDefaultText: true},
			&cli.BoolFlag{Name: "yes", Aliases: []string{"y"}, Usage: "do not ask", DisableDefaultText: true},
		},
		Action: uninstall,
	}
}

func uninstall(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	if err := preflight.Root(); err != nil {
		return err
	}
	r := newRemoval(c)
	r.KeepData, r.Patience = c.Bool("keep-data"), impatience
	rec, err := r.Load()
	if errors.Is(err, removal.ErrNothing) {
		return nothingToRemove(c, r.Layout, r.Self)
	}
	if err != nil {
		return err
	}
	if err := confirm(c, removalQuestion(rec.Lasting(), r.KeepData)); err != nil {
		return err
	}
	node := agentNode(rec.Lasting())
	if err := r.Remove(c.Context, rec); err != nil {
		return fmt.Errorf("%w\nskiff is not quite removed; when that is mended, run this again", err)
	}
	lines := []string{"skiff has been removed."}
	if r.KeepData {
		lines = []string{"skiff has been removed, all but its data and configuration."}
	}
	if node != "" {
		lines = append(lines, fmt.Sprintf("The cluster still has the node %[1]s: on a server, `skiff kubectl delete node %[1]s` removes it.", node))
	}
	return printLines(c.App.Writer, lines...)
}

// nothingToRemove is for a machine where all is gone but the executable.
func nothingToRemove(c *cli.Context, layout paths.Layout, self string) error {
	finished, err := hostchange.Finish(layout, self)
	if err != nil {
		return err
	}
	if finished {
		return printLines(c.App.Writer, "removing "+self, "skiff has been removed.")
	}
	return printLines(c.App.Writer, "skiff is not installed on this machine: it has no data, and no journal of changes ("+layout.HostChanges()+").")
}

// removalQuestion says what is lost.
func removalQuestion(changes []hostchange.Change, keep bool) string {
	if keep {
		return "All pods end, and skiff is removed; data and configuration stay."
	}
	return "All pods end, and skiff is removed with the cluster and the data of all volumes in " + strings.Join(removal.DataDirs(changes), ", ") + ". This cannot be undone."
}

// agentNode is the name of this machine's Node if the cluster's server is
// another machine, else "".
func agentNode(changes []hostchange.Change) string {
	for _, dir := range removal.DataDirs(changes) {
		layout := paths.New(dir)
		if _, err := os.Stat(layout.Server()); err == nil {
			continue
		}
		if name := nodeNameOf(filepath.Join(layout.AgentTLS(), "client-kubelet.crt")); name != "" {
			return name
		}
	}
	return ""
}

// nodeNameOf reads a node's name in its certificate, "" if there is none.
func nodeNameOf(file string) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	certs, err := pki.ParseCerts(data)
	if err != nil || len(certs) == 0 {
		return ""
	}
	return strings.TrimPrefix(certs[0].Subject.CommonName, "system:node:")
}
