package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"skiff/pkg/hostchange"
	"skiff/pkg/paths"
)

// executables are the names in the payload that a node runs.
func executables() []string {
	return []string{
		"runc", "containerd-shim-runc-v2", "pause", "nft",
		"bridge", "host-local", "loopback", "portmap", "bandwidth", "announce",
	}
}

// prepareHost does what must be done before anything of the node starts: the
// helper executables are staged, a host without an address gets one, and mounts
// made by pods can be seen where they have to be.
func (a *Agent) prepareHost(context.Context) error {
	if err := a.recordMounts(); err != nil {
		return err
	}
	raiseLimits(paths.Sysctl, a.o.Changes, a.o.Logger)
	// An image that is nothing but skiff has none, and libraries take it for granted.
	if err := os.MkdirAll(os.TempDir(), 0o777|os.ModeSticky); err != nil {
		return fmt.Errorf("make the directory for temporary files: %w", err)
	}
	if err := makeUsers(paths.Users, a.o.Changes); err != nil {
		return err
	}
	if err := leaveCgroupRoot(paths.CgroupRoot, a.o.Logger); err != nil {
		return err
	}
	if err := a.o.Payload.Stage(a.cfg.Paths.Bin(), executables()...); err != nil {
		return err
	}
	removed, err := a.o.Payload.Prune(a.cfg.Paths.Bin())
	if err != nil {
		a.o.Logger.Warn("executables of another version stay", "error", err)
	}
	if len(removed) > 0 {
		a.o.Logger.Info("executables of another version removed, which nothing runs any more", "files", removed)
	}
	if ip := a.cfg.InternalAddress; ip.IsValid() {
		if err := a.o.Changes.AddLoopbackAddress(ip); err != nil {
			return fmt.Errorf("give the host an internal address: %w", err)
		}
		a.o.Logger.Info("this host has no address of its own; using an internal one on the loopback interface", "address", ip)
	}
	return a.shareMounts()
}

// makeUsers writes a file of user accounts where there is none, which is in an
// image that is nothing but skiff: the kubelet asks whether there is a user
// called kubelet, and takes a missing file for a broken one.
func makeUsers(file string, changes *hostchange.Recorder) error {
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := changes.Record(hostchange.NewFile(file)); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("make a file of users: %w", err)
	}
	if err := os.WriteFile(file, []byte("root:x:0:0:root:/:/sbin/nologin\n"), 0o644); err != nil {
		return fmt.Errorf("make a file of users: %w", err)
	}
	return nil
}

// recordMounts writes down below which directories there will be mounts that are
// ours, whoever makes them: containerd, runc, the kubelet, storage drivers.
func (a *Agent) recordMounts() error {
	var changes []hostchange.Change
	for _, dir := range []string{
		a.cfg.Paths.Run, filepath.Join(a.cfg.Paths.Kubelet(), "pods"), filepath.Join(a.cfg.Paths.Kubelet(), "plugins"),
		filepath.Join(a.cfg.Paths.Containerd(), "tmpmounts"),
	} {
		changes = append(changes, hostchange.Change{Kind: hostchange.Mounts, Value: dir})
	}
	return a.o.Changes.Record(changes...)
}

// shareMounts makes the root mount shared, if it is not: volumes with mount
// propagation, and CSI drivers in pods, depend on it. Systemd does so at boot,
// other inits and containers do not.
func (a *Agent) shareMounts() error {
	data, err := os.ReadFile(paths.MountInfo)
	if err != nil {
		return fmt.Errorf("read mounts: %w", err)
	}
	if rootShared(string(data)) {
		return nil
	}
	change, err := hostchange.NewPropagation()
	if err == nil {
		err = a.o.Changes.Record(change)
	}
	if err != nil {
		return fmt.Errorf("make the root mount shared: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_SHARED|unix.MS_REC, ""); err != nil {
		a.o.Logger.Warn("the root mount is not shared, and cannot be: volumes with mount propagation will fail", "error", err)
		return nil
	}
	a.o.Logger.Info("root mount made shared, for volumes with mount propagation")
	return nil
}

// rootShared looks up the propagation of / in /proc/PID/mountinfo (proc(5)).
// Of several mounts on / the last is the one in sight.
func rootShared(text string) bool {
	list, err := mountinfo.GetMountsFromReader(strings.NewReader(text), func(m *mountinfo.Info) (skip, stop bool) { return m.Mountpoint != "/", false })
	return err == nil && len(list) > 0 && strings.HasPrefix(list[len(list)-1].Optional, "shared:")
}

// systemdCgroups reports whether containers' cgroups should be made by systemd:
// where it is the first process and owns the one hierarchy. On version 1
// cgroupfs works everywhere.
func systemdCgroups() bool {
	if _, err := os.Stat(paths.CgroupControllers); errors.Is(err, fs.ErrNotExist) {
		return false
	}
	name, err := os.ReadFile(paths.InitName)
	return err == nil && strings.TrimSpace(string(name)) == "systemd"
}

// hasSysResource reports whether this process may lower its oom_score_adj.
// statusFile is /proc/self/status; if it cannot be read the answer is no,
// which is always safe.
func hasSysResource(statusFile string) bool {
	data, err := os.ReadFile(statusFile)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(data)) {
		value, ok := strings.CutPrefix(line, "CapEff:")
		if !ok {
			continue
		}
		mask, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
		return err == nil && mask&(1<<unix.CAP_SYS_RESOURCE) != 0
	}
	return false
}

// oomScore is this process' oom_score_adj, which without CAP_SYS_RESOURCE is
// the only value that its parts can be given.
func oomScore(file string) int {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return 0
	}
	return n
}
