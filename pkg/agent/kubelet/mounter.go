package kubelet

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	"k8s.io/kubernetes/pkg/kubelet"
	"k8s.io/kubernetes/pkg/volume/util/subpath"
	"k8s.io/mount-utils"
)

// mountDirectly lets the kubelet mount by system calls where PATH has no mount
// and umount: in a container whose image is nothing but skiff. Elsewhere
// upstream's way stays, since only the programs know of /sbin/mount.nfs and its
// like.
func mountDirectly(deps *kubelet.Dependencies, logger *slog.Logger) {
	path := os.Getenv("PATH")
	if inPath(path, "mount") && inPath(path, "umount") {
		return
	}
	logger.Info("no mount and umount in PATH: volumes are mounted by system calls", "path", path)
	m := &mounter{Interface: deps.Mounter}
	deps.Mounter = m
	deps.Subpather = subpath.New(m)
}

func inPath(path, name string) bool {
	for _, dir := range filepath.SplitList(path) {
		if info, err := os.Stat(filepath.Join(dir, name)); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return true
		}
	}
	return false
}

// mounter is upstream's mounter with the parts that start a program replaced.
type mounter struct{ mount.Interface }

var _ mount.Interface = (*mounter)(nil)

// Mount implements mount.Interface.
func (m *mounter) Mount(source, target, fstype string, options []string) error {
	return mountBySyscall(source, target, fstype, options)
}

// MountSensitive implements mount.Interface. Errors never show options.
func (m *mounter) MountSensitive(source, target, fstype string, options, sensitive []string) error {
	return mountBySyscall(source, target, fstype, append(append([]string{}, options...), sensitive...))
}

// MountSensitiveWithoutSystemd implements mount.Interface.
func (m *mounter) MountSensitiveWithoutSystemd(source, target, fstype string, options, sensitive []string) error {
	return m.MountSensitive(source, target, fstype, options, sensitive)
}

// MountSensitiveWithoutSystemdWithMountFlags implements mount.Interface. The
// only flag that the kubelet gives is --no-canonicalize, which is how system
// calls work anyway.
func (m *mounter) MountSensitiveWithoutSystemdWithMountFlags(source, target, fstype string, options, sensitive, _ []string) error {
	return m.MountSensitive(source, target, fstype, options, sensitive)
}

// CanSafelySkipMountPointCheck implements mount.Interface: see Unmount.
func (m *mounter) CanSafelySkipMountPointCheck() bool { return true }

// Unmount implements mount.Interface. What is not mounted is no error.
func (m *mounter) Unmount(target string) error {
	err := unix.Unmount(target, 0)
	// EINVAL also stands for what nobody may unmount, which the kubelet never tries.
	if err == nil || errors.Is(err, unix.EINVAL) {
		return nil
	}
	return fmt.Errorf("unmount %s: %w", target, err)
}

// flags are the options that mount(2) has bits for. What clears a bit is here
// as well, with clear.
var flags = map[string]struct {
	bits  uintptr
	clear bool
}{
	"defaults": {}, "_netdev": {}, "nofail": {},
	"ro": {bits: unix.MS_RDONLY}, "rw": {unix.MS_RDONLY, true},
	"nosuid": {bits: unix.MS_NOSUID}, "suid": {unix.MS_NOSUID, true},
	"nodev": {bits: unix.MS_NODEV}, "dev": {unix.MS_NODEV, true},
	"noexec": {bits: unix.MS_NOEXEC}, "exec": {unix.MS_NOEXEC, true},
	"sync": {bits: unix.MS_SYNCHRONOUS}, "async": {unix.MS_SYNCHRONOUS, true},
	"dirsync": {bits: unix.MS_DIRSYNC}, "silent": {bits: unix.MS_SILENT},
	"noatime": {bits: unix.MS_NOATIME}, "atime": {unix.MS_NOATIME, true},
	"nodiratime": {bits: unix.MS_NODIRATIME}, "diratime": {unix.MS_NODIRATIME, true},
	"relatime": {bits: unix.MS_RELATIME}, "norelatime": {unix.MS_RELATIME, true},
	"strictatime": {bits: unix.MS_STRICTATIME}, "lazytime": {bits: unix.MS_LAZYTIME},
	"remount": {bits: unix.MS_REMOUNT}, "bind": {bits: unix.MS_BIND}, "rbind": {bits: unix.MS_BIND | unix.MS_REC},
}

// parseOptions splits options into the bits of mount(2) and what is the file
// system's own to read.
func parseOptions(options []string) (bits uintptr, data string) {
	var own []string
	for _, o := range options {
		f, ok := flags[o]
		switch {
		case !ok:
			own = append(own, o)
		case f.clear:
			bits &^= f.bits
		default:
			bits |= f.bits
		}
	}
	return bits, strings.Join(own, ",")
}

// mountBySyscall does what mount(8) would. A bind mount takes its other flags
// only by a second call.
func mountBySyscall(source, target, fstype string, options []string) error {
	bits, data := parseOptions(options)
	const binding = unix.MS_BIND | unix.MS_REC
	if bits&unix.MS_BIND == 0 || bits&unix.MS_REMOUNT != 0 {
		if err := unix.Mount(source, target, fstype, bits, data); err != nil {
			return fmt.Errorf("mount %s on %s as %q: %w", source, target, fstype, err)
		}
		return nil
	}
	if err := unix.Mount(source, target, "", bits&binding, ""); err != nil {
		return fmt.Errorf("bind %s on %s: %w", source, target, err)
	}
	if rest := bits &^ binding; rest != 0 {
		if err := unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|rest, ""); err != nil {
			return errors.Join(fmt.Errorf("set the flags of the bind mount %s: %w", target, err), unix.Unmount(target, 0))
		}
	}
	return nil
}
