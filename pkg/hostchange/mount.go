package hostchange

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"skiff/pkg/paths"
)

// mounts are those that this process sees, in the order of the kernel's list.
func mounts() ([]*mountinfo.Info, error) {
	f, err := os.Open(paths.MountInfo)
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	defer f.Close()
	list, err := mountinfo.GetMountsFromReader(f, nil)
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	return list, nil
}

// propagates reports whether a mount is shared, or only follows another.
func propagates(m *mountinfo.Info) (shared, slave bool) {
	for option := range strings.FieldsSeq(m.Optional) {
		shared = shared || strings.HasPrefix(option, "shared:")
		slave = slave || strings.HasPrefix(option, "master:")
	}
	return shared, slave
}

// below reports whether a path is strictly below a directory.
func below(path, dir string) bool { return strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/") }

// Foreign lists what is mounted in the trees among the changes and is not
// skiff's: data of somebody, on another disk perhaps.
func Foreign(changes, fleeting []Change) ([]string, error) {
	list, err := mounts()
	if err != nil {
		return nil, err
	}
	var out []string
	for _, m := range list {
		in := func(kinds ...Kind) func(Change) bool {
			return func(c Change) bool { return slices.Contains(kinds, c.Kind) && below(m.Mountpoint, c.Value) }
		}
		if slices.ContainsFunc(changes, in(Tree, Data)) && !slices.ContainsFunc(fleeting, in(Mounts)) {
			out = append(out, fmt.Sprintf("%s (%s of %s)", m.Mountpoint, m.FSType, m.Source))
		}
	}
	return out, nil
}

// unmountBelow takes away what is mounted below a directory, what came last
// first. A file system that hangs is taken out of sight.
func unmountBelow(dir string) error {
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	list, err := mounts()
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range slices.Backward(list) {
		if !below(m.Mountpoint, dir) {
			continue
		}
		err := unix.Unmount(m.Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		// EINVAL: it went with another.
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", m.Mountpoint, err))
		}
	}
	return errors.Join(append(errs, detachLoops(dir))...)
}

// detachLoops gives back the loop devices that the kubelet has made for block
// volumes.
func detachLoops(dir string) error {
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return fmt.Errorf("find loop devices: %w", err)
	}
	var errs []error
	for _, file := range files {
		backing, err := os.ReadFile(file)
		if err != nil || !below(strings.TrimSuffix(strings.TrimSpace(string(backing)), " (deleted)"), dir) {
			continue
		}
		device := filepath.Join("/dev", filepath.Base(filepath.Dir(filepath.Dir(file))))
		f, err := os.Open(device)
		if err == nil {
			err = unix.IoctlSetInt(int(f.Fd()), unix.LOOP_CLR_FD, 0)
			_ = f.Close()
		}
		if err != nil && !errors.Is(err, unix.ENXIO) {
			errs = append(errs, fmt.Errorf("detach %s: %w", device, err))
		}
	}
	return errors.Join(errs...)
}

// NewPropagation is the change that all mounts will be shared. Each that is not
// is remembered: "p" for private, "s" for one that only follows another.
func NewPropagation() (Change, error) {
	list, err := mounts()
	if err != nil {
		return Change{}, err
	}
	var before []string
	for _, m := range list {
		switch shared, slave := propagates(m); {
		case shared:
		case slave:
			before = append(before, "s"+m.Mountpoint)
		default:
			before = append(before, "p"+m.Mountpoint)
		}
	}
	return Change{Propagation, "/", strings.Join(before, "\n")}, nil
}

func restorePropagation(before string) error {
	var errs []error
	for line := range strings.SplitSeq(before, "\n") {
		if line == "" {
			continue
		}
		kind := uintptr(unix.MS_PRIVATE)
		if line[0] == 's' {
			kind = unix.MS_SLAVE
		}
		err := unix.Mount("", line[1:], "", kind, "")
		// What is not mounted any more has none.
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("make mount %s private again: %w", line[1:], err))
		}
	}
	return errors.Join(errs...)
}
