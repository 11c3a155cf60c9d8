package preflight

import (
	"errors"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Mount is one line of /proc/self/mountinfo; proc_pid_mountinfo(5).
type Mount struct {
	ID           uint64
	Point        string
	Type         string // of the file system
	Source       string
	Options      []string // of this mount
	SuperOptions []string // of the file system
}

// parseMounts reads the list of the kernel, which is well-formed; of one that is
// not nothing is known.
func parseMounts(text string) []Mount {
	list, _ := mountinfo.GetMountsFromReader(strings.NewReader(text), nil)
	out := make([]Mount, 0, len(list))
	for _, m := range list {
		out = append(out, Mount{
			ID: uint64(m.ID), Point: m.Mountpoint, Type: m.FSType, Source: m.Source, //nolint:gosec // The kernel's ids are positive.
			Options: strings.Split(m.Options, ","), SuperOptions: strings.Split(m.VFSOptions, ","),
		})
	}
	return out
}

// mountOf is the mount that holds an absolute path: the one with the longest
// mount point, and the last of these, which hides the others.
func mountOf(mounts []Mount, path string) Mount {
	var best Mount
	for _, m := range mounts {
		within := path == m.Point || strings.HasPrefix(path, strings.TrimSuffix(m.Point, "/")+"/")
		if within && len(m.Point) >= len(best.Point) {
			best = m
		}
	}
	return best
}

// inSight reports whether a mount is what is found at its place: others may
// have been mounted over it. Where the kernel does not tell, it is.
func (m Machine) inSight(mount Mount) bool {
	if m.Root != "" {
		return true
	}
	var st unix.Statx_t
	switch err := unix.Statx(unix.AT_FDCWD, mount.Point, 0, unix.STATX_MNT_ID, &st); {
	case errors.Is(err, unix.ENOENT):
		return false
	case err != nil || st.Mask&unix.STATX_MNT_ID == 0:
		return true
	}
	return st.Mnt_id == mount.ID
}
