package preflight

import (
	"strconv"
	"strings"
)

// mount is one line of /proc/self/mountinfo; proc_pid_mountinfo(5).
type mount struct {
	point        string
	fsType       string
	source       string
	superOptions []string
}

func parseMounts(text string) []mount {
	var out []mount
	for line := range strings.Lines(text) {
		before, after, ok := strings.Cut(strings.TrimSpace(line), " - ")
		head, tail := strings.Fields(before), strings.Fields(after)
		if !ok || len(head) < 6 || len(tail) < 3 {
			continue
		}
		out = append(out, mount{
			point:        unescape(head[4]),
			fsType:       tail[0],
			source:       unescape(tail[1]),
			superOptions: strings.Split(tail[2], ","),
		})
	}
	return out
}

// mountOf is the mount that holds an absolute path: the one with the longest
// mount point, and the last of these, which hides the others.
func mountOf(mounts []mount, path string) mount {
	var best mount
	for _, m := range mounts {
		within := path == m.point || strings.HasPrefix(path, strings.TrimSuffix(m.point, "/")+"/")
		if within && len(m.point) >= len(best.point) {
			best = m
		}
	}
	return best
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
