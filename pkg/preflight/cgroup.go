package preflight

import (
	"path/filepath"
	"slices"
	"strings"
)

// checkCgroups looks for the controllers without which the kubelet or runc
// cannot limit a pod, mounted as version 1 or offered by version 2.
func (h *host) checkCgroups() {
	controllers, mounted := h.cgroupControllers()
	if !mounted {
		h.fail("no cgroup file system is mounted; mount cgroup2 on /sys/fs/cgroup")
		return
	}
	var missing []string
	for _, c := range []string{"cpu", "memory", "pids"} {
		if !slices.Contains(controllers, c) {
			missing = append(missing, c)
		}
	}
	switch {
	case len(missing) == 0:
	case slices.Contains(missing, "memory"):
		h.fail("the cgroup controllers %s are missing; on small boards add \"cgroup_enable=memory\" to the kernel's command line and reboot, in a container give it its own cgroup namespace",
			strings.Join(missing, ", "))
	default:
		h.fail("the cgroup controllers %s are missing; use a kernel that has them, or mount them", strings.Join(missing, ", "))
	}
}

// cgroupControllers lists what the mounted cgroup hierarchies offer. In the
// hybrid layout both versions are mounted, and version 2 has what is left.
func (h *host) cgroupControllers() (controllers []string, mounted bool) {
	for _, m := range parseMounts(h.read("/proc/self/mountinfo")) {
		switch m.fsType {
		case "cgroup":
			mounted = true
			controllers = append(controllers, m.superOptions...)
		case "cgroup2":
			mounted = true
			controllers = append(controllers, strings.Fields(h.read(filepath.Join(m.point, "cgroup.controllers")))...)
		}
	}
	return controllers, mounted
}
