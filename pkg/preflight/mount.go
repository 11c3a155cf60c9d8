package preflight

import (
	"errors"
	"strconv"
	"strings"

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

func parseMounts(text string) []Mount {
	var out []Mount
	for line := range strings.Lines(text) {
		before, after, ok := strings.Cut(strings.TrimSpace(line), " - ")
		head, tail := strings.Fields(before), strings.Fields(after)
		if !ok || len(head) < 6 || len(tail) < 3 {
			continue
		}
		id, _ := strconv.ParseUint(head[0], 10, 64) // It is a number.
		out = append(out, Mount{
			ID:           id,
			Point:        unescape(head[4]),
			Type:         tail[0],
			Source:       unescape(tail[1]),
			Options:      strings.Split(head[5], ","),
			SuperOptions: strings.Split(tail[2], ","),
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

// unescape undoes the kernel's \040 for blanks and the like.
func unescape(s string) string {
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
