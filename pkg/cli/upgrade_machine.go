package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"skiff/pkg/config"
	"skiff/pkg/datastore/schema"
	"skiff/pkg/paths"
	"skiff/pkg/process"
	"skiff/pkg/release"
	"skiff/pkg/server"
	"skiff/pkg/snapshot"
	"skiff/pkg/status"
	"skiff/pkg/upgrade"
)

const datastoreSchema = schema.Version

// incumbent is the skiff that is installed on this machine, as its service runs
// it.
type incumbent struct {
	pid     int // 0: it does not run
	argv    []string
	environ []string
	target  string
	role    config.Role
	cfg     config.Completed
	present upgrade.Release
	service upgrade.Service
}

// findInstalled asks the skiff that runs. Of one that does not run it knows no
// more than what lies on the disk.
func findInstalled(ctx context.Context) (*incumbent, error) {
	i := &incumbent{environ: os.Environ()}
	socket := installedLayout().StatusSocket()
	r, err := (&status.Client{Socket: socket}).Get(ctx)
	switch {
	case errors.Is(err, status.ErrNotRunning):
		err = i.stopped()
	case err == nil:
		i.pid = r.PID
		err = i.running()
	}
	if err != nil {
		return nil, err
	}
	if i.role, i.cfg, err = configOf(ctx, i.argv, i.environ); err != nil {
		return nil, fmt.Errorf("read the configuration of the service: %w", err)
	}
	if i.present, err = i.release(ctx); err != nil {
		return nil, err
	}
	role := "server"
	if i.role == config.RoleAgent {
		role = "agent"
	}
	i.service = upgrade.FindService(i.pid, role, socket, i.cfg.Paths.LockFile())
	return i, nil
}

// running reads from the kernel what the service was started with.
func (i *incumbent) running() error {
	proc := filepath.Join("/proc", strconv.Itoa(i.pid))
	for file, to := range map[string]*[]string{"cmdline": &i.argv, "environ": &i.environ} {
		text, err := os.ReadFile(filepath.Join(proc, file))
		if err != nil {
			return fmt.Errorf("look how skiff was started: %w", err)
		}
		*to = strings.Split(strings.TrimRight(string(text), "\x00"), "\x00")
	}
	target, err := os.Readlink(filepath.Join(proc, "exe"))
	if err != nil {
		return fmt.Errorf("look which executable skiff runs: %w", err)
	}
	// The kernel says so of a file that has been replaced since.
	i.target = strings.TrimSuffix(target, " (deleted)")
	return nil
}

func (i *incumbent) stopped() error {
	target, err := os.Executable()
	if err == nil {
		target, err = filepath.EvalSymlinks(target)
	}
	if err != nil {
		return fmt.Errorf("find the executable of skiff: %w", err)
	}
	i.target = target
	layout := installedLayout()
	for role, dir := range map[string]string{"server": layout.ServerDB(), "agent": layout.AgentCred()} {
		if _, err := os.Stat(dir); err == nil && (role == "server" || i.argv == nil) {
			i.argv = []string{"skiff", role}
		}
	}
	if i.argv == nil {
		return errors.New("skiff neither runs on this machine nor has it any data; start it first, or just put the new version in place")
	}
	return nil
}

// release says which version the executable of the service is.
func (i *incumbent) release(ctx context.Context) (r upgrade.Release, err error) {
	own, errOwn := os.Stat("/proc/self/exe")
	its, err := os.Stat(i.target)
	if err := errors.Join(errOwn, err); err != nil {
		return r, fmt.Errorf("look at the executable of the service: %w", err)
	}
	if os.SameFile(own, its) {
		return thisRelease(), nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	out, err := process.Output(ctx, process.Command{Path: i.target, Args: []string{"upgrade", "about"}})
	if err == nil {
		err = json.Unmarshal(out, &r)
	}
	if err != nil {
		return r, fmt.Errorf("ask %s which version it is: %w", i.target, err)
	}
	return r, nil
}

// configOf reads the configuration that a command line has, as the command would.
func configOf(ctx context.Context, argv, environ []string) (role config.Role, cfg config.Completed, err error) {
	app := newApp(io.Discard, io.Discard)
	known := false
	for _, command := range app.Commands {
		its, ok := map[string]config.Role{"server": config.RoleServer, "agent": config.RoleAgent}[command.Name]
		if !ok {
			command.Action = func(c *cli.Context) error { return fmt.Errorf("%s is no service", c.Command.Name) }
			continue
		}
		command.Action = func(c *cli.Context) (err error) {
			if err := noArguments(c); err != nil {
				return err
			}
			known, role = true, its
			cfg, _, err = completeOptions(c, its, environ)
			return err
		}
	}
	if err := app.RunContext(ctx, argv); err != nil {
		return role, cfg, err
	}
	if !known {
		return role, cfg, fmt.Errorf("%q runs neither a server nor an agent", strings.Join(argv[:min(2, len(argv))], " "))
	}
	return role, cfg, nil
}

// installer is how this machine is upgraded.
func (i *incumbent) installer(c *cli.Context, say func(string, ...any)) *upgrade.Installer {
	in := &upgrade.Installer{
		Dir: upgradeDir(), Target: i.target, Present: i.present, Service: i.service,
		Config: []string{i.cfg.File, i.cfg.File + ".d", i.cfg.Node.PrivateRegistry},
		Data: upgrade.Data{
			Dir: i.cfg.DataDir, ConfigFile: i.cfg.File, Registries: i.cfg.Node.PrivateRegistry, Snapshots: i.cfg.Server.SnapshotDir,
		},
		Suits: func(to upgrade.Release) error {
			return upgrade.Suits(i.present, to, i.neighbours(c.Context, say), c.Bool("allow-downgrade"))
		},
		Try: i.try,
		Confirm: func(m release.Manifest) error {
			say("Signed by %s: skiff %s with Kubernetes %s, to take the place of %s with Kubernetes %s at %s.",
				cmp.Or(c.String("key"), installedLayout().ReleaseKey()), m.Version, m.Kubernetes, i.present.Version, i.present.Kubernetes, i.target)
			if c.Bool("dry-run") {
				return nil
			}
			return confirm(c, "Pods go on; the API is away for some seconds.")
		},
		Limit: c.Duration("limit"), Settle: c.Duration("settle"), Force: c.Bool("force"), DryRun: c.Bool("dry-run"), Say: say,
	}
	if src, ok := server.SnapshotSource(i.cfg); ok && i.role == config.RoleServer {
		in.Data.Database = src.Database
		in.Snapshot = func(ctx context.Context) (string, error) { return i.snapshot(ctx, src) }
	} else if i.role == config.RoleServer {
		say("The data is in a database of its own, of which no snapshot is made here: see to that yourself.")
	}
	return in
}

// snapshot makes one as the server itself does before an upgrade. Those that are
// too many go when the new version starts.
func (i *incumbent) snapshot(ctx context.Context, src snapshot.Source) (string, error) {
	if _, err := os.Stat(src.Database); errors.Is(err, os.ErrNotExist) {
		return "", nil // it has never run
	}
	dir, label := i.cfg.Server.SnapshotDir, snapshot.PreUpgrade+"-"+i.present.Version
	info, err := snapshot.Ask(ctx, i.cfg.Paths.StatusSocket(), dir, label)
	if dial, ok := errors.AsType[*net.OpError](err); ok && dial.Op == "dial" {
		src.Version = i.present.Version
		info, err = snapshot.Save(ctx, src, dir, label)
	}
	return info.Path, err
}

// restoreState puts the snapshot of the journal in the place of the data.
func restoreState(ctx context.Context, s upgrade.State) error {
	_, err := snapshot.Restore(ctx, snapshot.Target{
		Paths: paths.New(s.Data.Dir), Database: s.Data.Database, ConfigFile: s.Data.ConfigFile, Registries: s.Data.Registries, Snapshots: s.Data.Snapshots,
	}, s.Snapshot, time.Now())
	return err
}

// plainLogger writes what belongs into the journal of the service.
func plainLogger(w io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, nil)).With("component", "upgrade")
}
