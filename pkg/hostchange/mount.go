package hostchange

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"skiff/pkg/paths"
)

// mountPoint is one line of /proc/self/mountinfo; proc_pid_mountinfo(5).
type mountPoint struct {
	path, fsType, source, root string
	shared                     bool
	slave                      bool
}

func mountPoints() ([]mountPoint, error) {
	data, err := os.ReadFile(paths.MountInfo)
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	return parseMounts(string(data)), nil
}

func parseMounts(text string) []mountPoint {
	var out []mountPoint
	for line := range strings.Lines(text) {
		head, tail, ok := strings.Cut(strings.TrimSpace(line), " - ")
		before, after := strings.Fields(head), strings.Fields(tail)
		if !ok || len(before) < 6 || len(after) < 2 {
			continue
		}
		m := mountPoint{path: octal(before[4]), root: octal(before[3]), fsType: after[0], source: octal(after[1])}
		for _, option := range before[6:] {
			m.shared = m.shared || strings.HasPrefix(option, "shared:")
			m.slave = m.slave || strings.HasPrefix(option, "master:")
		}
		out = append(out, m)
	}
	return out
}

// octal undoes the kernel's \040 for blanks and the like.
func octal(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// below reports whether a path is strictly below a directory.
func below(path, dir string) bool { return strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/") }

// Foreign lists what is mounted in the trees among the changes and is not
// skiff's: data of somebody, on another disk perhaps.
func Foreign(changes, fleeting []Change) ([]string, error) {
	mounts, err := mountPoints()
	if err != nil {
		return nil, err
	}
	var out []string
	for _, m := range mounts {
		in := func(kinds ...Kind) func(Change) bool {
			return func(c Change) bool { return slices.Contains(kinds, c.Kind) && below(m.path, c.Value) }
		}
		if slices.ContainsFunc(changes, in(Tree, Data)) && !slices.ContainsFunc(fleeting, in(Mounts)) {
			out = append(out, fmt.Sprintf("%s (%s of %s)", m.path, m.fsType, m.source))
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
	mounts, err := mountPoints()
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range slices.Backward(mounts) {
		if !below(m.path, dir) {
			continue
		}
		err := unix.Unmount(m.path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		// EINVAL: it went with another.
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", m.path, err))
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
	mounts, err := mountPoints()
	if err != nil {
		return Change{}, err
	}
	var before []string
	for _, m := range mounts {
		switch {
		case m.shared:
		case m.slave:
			before = append(before, "s"+m.path)
		default:
			before = append(before, "p"+m.path)
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
