package cli

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"skiff/internal/lockfile"
	"skiff/pkg/config"
	"skiff/pkg/hostchange"
	"skiff/pkg/preflight"
	"skiff/pkg/version"
)

// kubeletPort is where the kubelet serves logs and exec to the API server.
const kubeletPort = 10250

// prepare checks the machine and takes the data directory. The only thing it
// makes is that directory with its lock, and, when nothing stands in the way, the
// journal of what will be changed from here on. The lock comes before the ports,
// because a second skiff is the likely reason for both.
func prepare(cfg config.Completed) (lock *lockfile.Lock, changes *hostchange.Recorder, warnings []string, err error) {
	warnings, err = preflight.Host(hostOptions(cfg))
	if err != nil {
		return nil, nil, nil, sayDoctor(err)
	}
	changes, planned, err := planChanges(cfg, runsPods(cfg))
	if err != nil {
		return nil, nil, nil, err
	}
	if err := os.MkdirAll(cfg.DataDir, 0o755); err != nil {
		return nil, nil, nil, fmt.Errorf("make --data-dir: %w", err)
	}
	lock, err = lockfile.Acquire(cfg.Paths.LockFile())
	if held, ok := errors.AsType[*lockfile.HeldError](err); ok {
		return nil, nil, nil, fmt.Errorf("another skiff (process %d) uses --data-dir %s; stop it first, or choose another directory", held.PID, cfg.DataDir)
	}
	if err != nil {
		return nil, nil, nil, fmt.Errorf("take --data-dir: %w", err)
	}
	if err := preflight.Ports(ports(cfg, runsPods(cfg))); err != nil {
		return nil, nil, nil, errors.Join(sayDoctor(err), lock.Release())
	}
	if err := changes.Record(planned...); err != nil {
		return nil, nil, nil, errors.Join(err, lock.Release())
	}
	return lock, changes, warnings, nil
}

// sayDoctor ends an error about the machine with who knows more about it.
func sayDoctor(err error) error { return fmt.Errorf("%w (skiff doctor says more)", err) }

// runsPods reports whether there is a node in this process.
func runsPods(cfg config.Completed) bool {
	return cfg.Role == config.RoleAgent || !cfg.Server.DisableAgent
}

// hostOptions is what the machine has to be fit for.
func hostOptions(cfg config.Completed) preflight.Options {
	built, err := time.Parse(time.RFC3339, version.BuildDate)
	if err != nil {
		built = time.Time{} // not stamped
	}
	return preflight.Options{
		DataDir: cfg.DataDir, RunDir: cfg.Paths.Run, Node: runsPods(cfg), Overlayfs: cfg.Node.Snapshotter == "overlayfs", BuildTime: built,
	}
}

// ports lists what must be free. A kubelet port that the user chose is left to
// the kubelet.
func ports(cfg config.Completed, node bool) []preflight.Port {
	var out []preflight.Port
	if cfg.Role == config.RoleServer {
		out = append(out, preflight.Port{
			Address: netip.AddrPortFrom(cfg.Server.BindAddress, uint16(cfg.Server.Port)),
			For:     "the API, see --https-listen-port",
		})
	}
	if cfg.Role == config.RoleAgent && !cfg.Agent.DisableLB {
		out = append(out, preflight.Port{
			Address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(cfg.Agent.LBPort)),
			For:     "this node's way to the servers, see --lb-server-port",
		})
	}
	chosen := slices.ContainsFunc(cfg.Extra.Kubelet, func(a string) bool { return strings.HasPrefix(a, "port=") })
	if node && !chosen {
		out = append(out, preflight.Port{
			Address: netip.AddrPortFrom(netip.IPv4Unspecified(), kubeletPort),
			For:     "the kubelet, see --kubelet-arg port=",
		})
	}
	return out
}
