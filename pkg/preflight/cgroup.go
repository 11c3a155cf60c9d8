package preflight

import (
	"path/filepath"
	"slices"
	"strings"
)

// checkCgroups looks for the controllers without which the kubelet or runc
// cannot limit a pod, mounted as version 1 or offered by version 2.
func (h *host) checkCgroups() {
	missing, mounted := h.machine().MissingControllers()
	if !mounted {
		h.fail("no cgroup file system is mounted; mount cgroup2 on /sys/fs/cgroup")
		return
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

// Controllers lists what the mounted cgroup hierarchies offer. In the hybrid
// layout both versions are mounted, and version 2 has what is left.
func (m Machine) Controllers() (controllers []string, mounted bool) {
	for _, mount := range m.Mounts() {
		if mount.Type != "cgroup" && mount.Type != "cgroup2" || !m.inSight(mount) {
			continue
		}
		switch mount.Type {
		case "cgroup":
			mounted = true
			controllers = append(controllers, mount.SuperOptions...)
		case "cgroup2":
			mounted = true
			controllers = append(controllers, strings.Fields(m.Read(filepath.Join(mount.Point, "cgroup.controllers")))...)
		}
	}
	return controllers, mounted
}

// MissingControllers lists the cgroup controllers without which the kubelet or
// runc cannot limit a pod, and that are not there.
func (m Machine) MissingControllers() (missing []string, mounted bool) {
	have, mounted := m.Controllers()
	for _, c := range []string{"cpu", "memory", "pids"} {
		if !slices.Contains(have, c) {
			missing = append(missing, c)
		}
	}
	return missing, mounted
}
