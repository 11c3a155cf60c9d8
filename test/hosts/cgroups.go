package hosts

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// hierarchy is one mounted cgroup hierarchy of the machine, as this process
// sees it: one for all controllers on cgroup v2, one per controller on v1.
type hierarchy struct {
	Type    string // "cgroup" or "cgroup2"
	Options string // what to mount it with: "cpu,cpuacct", "none,name=systemd"
	Mount   string // where the machine has it, and where the host gets it
	Own     string // directory of this process's own cgroup
}

// hierarchies lists the cgroup hierarchies this process is in.
func hierarchies() ([]hierarchy, error) {
	own, err := ownCgroups()
	if err != nil {
		return nil, err
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var out []hierarchy
	for line := range strings.SplitSeq(strings.TrimSpace(string(mounts)), "\n") {
		before, after, found := strings.Cut(line, " - ")
		if !found {
			continue
		}
		fields, kind := strings.Fields(before), strings.Fields(after)
		if kind[0] != "cgroup" && kind[0] != "cgroup2" {
			continue
		}
		h := hierarchy{Type: kind[0], Mount: fields[4]}
		key := ""
		if h.Type == "cgroup" {
			key, h.Options = v1Options(kind[len(kind)-1], own)
		}
		path, ok := own[key]
		if !ok || slices.ContainsFunc(out, func(o hierarchy) bool { return o.Type == h.Type && o.Options == h.Options }) {
			continue
		}
		below, err := filepath.Rel(fields[3], path)
		if err != nil || strings.HasPrefix(below, "..") {
			below = "."
		}
		h.Own = filepath.Join(h.Mount, below)
		out = append(out, h)
	}
	return out, nil
}

// v1Options picks the controllers (or the name) out of a v1 mount's options
// and returns them as the key in /proc/self/cgroup and as mount options.
func v1Options(super string, own map[string]string) (key, options string) {
	words := strings.Split(super, ",")
	for key := range own {
		if key == "" {
			continue
		}
		all := true
		for c := range strings.SplitSeq(key, ",") {
			all = all && slices.Contains(words, c)
		}
		if all && strings.HasPrefix(key, "name=") {
			return key, "none," + key
		}
		if all {
			return key, key
		}
	}
	return "-", ""
}

// ownCgroups maps the controllers of each hierarchy ("" for v2) to this
// process's path in it.
func ownCgroups() (map[string]string, error) {
	f, err := os.Open("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	own := map[string]string{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if parts := strings.SplitN(lines.Text(), ":", 3); len(parts) == 3 {
			own[parts[1]] = parts[2]
		}
	}
	return own, lines.Err()
}

// makeCgroups makes one cgroup per hierarchy for the host and moves pid there.
func makeCgroups(id string, pid int) ([]hierarchy, error) {
	all, err := hierarchies()
	if err != nil {
		return nil, err
	}
	for _, h := range all {
		dir := filepath.Join(h.Own, mark+"-"+id)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		// A v1 cpuset takes no process before it is told which CPUs and memory it has.
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			if h.Type != "cgroup" {
				break
			}
			if value, err := os.ReadFile(filepath.Join(h.Own, file)); err == nil {
				if err := os.WriteFile(filepath.Join(dir, file), value, 0o644); err != nil {
					return nil, err
				}
			}
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o644); err != nil {
			return nil, fmt.Errorf("enter cgroup %s: %w", dir, err)
		}
	}
	return all, nil
}

// removeCgroups kills whatever is still in the host's cgroups and removes them.
func removeCgroups(id string) error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	var errs []error
	for _, h := range all {
		// A test started from another cgroup (another shell) may have left it
		// elsewhere in the hierarchy, so look from the top.
		found, _ := filepath.Glob(filepath.Join(h.Mount, mark+"-"+id))
		nested, _ := filepath.Glob(filepath.Join(h.Mount, "*", "*", mark+"-"+id))
		found = append(append(found, nested...), filepath.Join(h.Own, mark+"-"+id))
		for _, dir := range found {
			errs = append(errs, removeCgroup(dir))
		}
	}
	return errors.Join(errs...)
}

// removeCgroup removes one cgroup with all below it.
func removeCgroup(top string) error {
	var last error
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		var dirs []string
		_ = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		if len(dirs) == 0 {
			return nil
		}
		for _, dir := range slices.Backward(dirs) {
			killCgroup(dir)
			last = os.Remove(dir)
		}
	}
	return last
}

// killCgroup ends the processes of one cgroup.
func killCgroup(dir string) {
	procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return
	}
	for word := range strings.FieldsSeq(string(procs)) {
		if pid, err := strconv.Atoi(word); err == nil && pid > 1 {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}
