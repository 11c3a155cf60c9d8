package hosts

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// ProcessInfo is one process of a host as the machine sees it.
type ProcessInfo struct {
	PID    int // on the machine, not inside the host
	Args   []string
	Cgroup string // content of /proc/PID/cgroup
}

// Processes lists all processes of the host but its init, pods included.
func (h *Host) Processes() []ProcessInfo {
	h.t.Helper()
	m := h.on()
	own, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(m.pid), "ns/pid"))
	if err != nil {
		h.t.Fatalf("list processes of %s: %v", h.name, err)
	}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		h.t.Fatalf("list processes of %s: %v", h.name, err)
	}
	var found []ProcessInfo
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || pid == m.pid {
			continue
		}
		// Pods have PID namespaces below the host's: the cgroup tells them, the
		// namespace tells the platform.
		ns, err := os.Readlink(filepath.Join(dir, "ns/pid"))
		cgroup, _ := os.ReadFile(filepath.Join(dir, "cgroup"))
		if err != nil || ns != own && !strings.Contains(string(cgroup), mark+"-"+h.id) {
			continue
		}
		cmdline, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		args := strings.Split(strings.TrimRight(string(cmdline), "\x00"), "\x00")
		found = append(found, ProcessInfo{PID: pid, Args: args, Cgroup: string(cgroup)})
	}
	return found
}
