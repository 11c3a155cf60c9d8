package cli

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/urfave/cli/v2"

	"skiff/internal/atomicfile"
	"skiff/pkg/config"
	"skiff/pkg/doctor"
	"skiff/pkg/paths"
	"skiff/pkg/status"
	"skiff/pkg/support"
	"skiff/pkg/version"
)

func bundleCommand() *cli.Command {
	return &cli.Command{
		Name:  "bundle",
		Usage: "pack what somebody needs who helps you: logs, configuration, states, rules",
		Description: "The archive is a .tar.gz; index.txt in it says what there is. Passwords, tokens, keys and the\n" +
			"values of Secrets and environment variables are left out. It has names of your pods and\n" +
			"addresses of your machines: look into it before you give it away.",
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "write to this file, or into this directory, or - for standard output (default: skiff-bundle-HOST-TIME.tar.gz here)"},
			&cli.IntFlag{Name: "limit", Value: support.DefaultLimit >> 20, Usage: "MiB of content at most"},
			&cli.BoolFlag{Name: "pod-logs", Usage: "take the last lines of your pods' logs along, not only of those in kube-system", DisableDefaultText: true},
		}, someOptionFlags("data-dir", "private-registry", "log")...),
		Action: makeBundle,
	}
}

func makeBundle(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("%s must run as root: most of what it collects is readable by root only; use sudo", c.Command.HelpName)
	}
	limit := c.Int("limit")
	if limit < 1 || limit > 1024 {
		return usage(fmt.Errorf("invalid --limit %d: want 1 to 1024 MiB", limit))
	}
	o := bundleOptions(c)
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	name := fmt.Sprintf("skiff-bundle-%s-%s", host, time.Now().UTC().Format("20060102T150405Z"))
	var archive bytes.Buffer
	results, err := support.Bundle(c.Context, &archive, name, bundleHead(host), int64(limit)<<20, o)
	if err != nil {
		return err
	}
	file := c.String("output")
	if file == "-" {
		_, err := c.App.Writer.Write(archive.Bytes())
		return err
	}
	if info, err := os.Stat(file); file == "" || err == nil && info.IsDir() {
		file = filepath.Join(file, name+".tar.gz")
	}
	if err := atomicfile.Write(file, archive.Bytes(), 0o600); err != nil {
		return fmt.Errorf("write bundle: %w", err)
	}
	return printLines(c.App.Writer, bundleText(file, archive.Len(), results)...)
}

// bundleOptions finds out where things are, from the skiff that runs here or
// else from how it would be started. A configuration that cannot be read is part
// of what the bundle is for.
func bundleOptions(c *cli.Context) support.Options {
	m, findings := readMachine(c)
	cfg := m.cfg
	o := support.Options{
		Paths: cfg.Paths, Registries: cfg.Node.PrivateRegistry, LogFile: cfg.Log.File, API: cfg.LocalURL(),
		HostChanges: filepath.Join(cfg.Paths.Etc, "host-changes"), PID: m.pid, Environ: os.Environ(), PodLogs: c.Bool("pod-logs"),
		Units: []string{
			filepath.Join(paths.SystemdUnits, "skiff*.service*"), filepath.Join(paths.SystemdUnits, "skiff*.d", "*"),
			filepath.Join(paths.OpenRCUnits, "skiff*"), filepath.Join(paths.OpenRCConf, "skiff*"),
		},
	}
	if cfg.Role == config.RoleAgent {
		o.API = cfg.APIURL()
	}
	o.ConfigFile = cmp.Or(c.String(config.ConfigFlag), cfg.File, cfg.Paths.ConfigFile())
	examined := sync.OnceValue(func() *doctor.Report {
		r := doctor.New(m.options()).Examine(c.Context, doctor.Everything)
		r.Findings = append(slices.Clone(findings), r.Findings...)
		return r
	})
	o.More = []support.Part{
		{Name: "skiff/doctor.txt", Time: doctorTime, Write: func(_ context.Context, w io.Writer) error { return doctor.WriteText(w, examined()) }},
		{Name: "skiff/doctor.json", Time: doctorTime, Write: func(_ context.Context, w io.Writer) error { return writeJSON(w, examined()) }},
		{Name: "skiff/version.txt", Write: func(_ context.Context, w io.Writer) error { return printVersion(w, "text", true) }},
		{Name: "config/effective.txt", Write: func(_ context.Context, w io.Writer) error {
			cfg, origins, err := loadOptions(c, cfg.Role)
			if err != nil {
				return err
			}
			for _, s := range config.Effective(cfg, origins) {
				fmt.Fprintf(w, "%s: %s  (%s)\n", s.Name, strings.Join(s.Values, ", "), s.Origin)
			}
			return nil
		}},
	}
	return o
}

// doctorTime is for the doctor, who writes to slow disks among other things.
const doctorTime = 30 * time.Second

// bundleHead is the beginning of the index.
func bundleHead(host string) string {
	return fmt.Sprintf("skiff bundle of %s, made %s by skiff %s on %s/%s.\n"+
		"Secrets are replaced by [redacted]. Files that are cut or incomplete say so here.\n"+
		"Begin with skiff/status.txt, then logs/, then cluster/events.txt and cluster/tables.txt.\n",
		host, time.Now().UTC().Format(time.RFC3339), version.Version, runtime.GOOS, runtime.GOARCH)
}

// bundleText says what was packed, and what could not be.
func bundleText(file string, size int, results []support.Result) []string {
	lines := []string{fmt.Sprintf("%s (%s, %d files)", file, megabytes(int64(size)), len(results)+1)}
	why := make(map[string]bool)
	for _, r := range results {
		switch err := r.Error; {
		case err == nil || errors.Is(err, os.ErrNotExist) && !errors.Is(err, status.ErrNotRunning):
		case errors.Is(err, status.ErrNotRunning):
			why["skiff does not run here: what it says about itself is missing"] = true
		case strings.HasPrefix(r.Name, "cluster/") || strings.HasPrefix(r.Name, "logs/pods"):
			why["objects of the cluster are missing or incomplete; index.txt says why"] = true
		}
	}
	for line := range why {
		lines = append(lines, line)
	}
	return append(lines, "Secrets are left out. Names of pods and addresses are in it: look into it before you give it away.")
}
