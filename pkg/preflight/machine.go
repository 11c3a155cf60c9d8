package preflight

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"skiff/pkg/paths"
)

// Machine is what a machine's files tell about it. Root is put before every
// path; empty means the machine itself.
type Machine struct{ Root string }

// Read returns the content of a file. One that is not there offers no feature:
// it is an empty one.
func (m Machine) Read(path string) string {
	data, err := os.ReadFile(m.Path(path))
	if err != nil {
		return ""
	}
	return string(data)
}

// Path is where a path of the machine is found.
func (m Machine) Path(path string) string { return filepath.Join("/", m.Root, path) }

// Mounts lists the mounts, each before those that hide it.
func (m Machine) Mounts() []Mount { return parseMounts(m.Read(paths.MountInfo)) }

// MountOf is the mount that holds an absolute path without symbolic links.
func (m Machine) MountOf(path string) Mount { return mountOf(m.Mounts(), path) }

// KernelRelease is what `uname -r` prints.
func (m Machine) KernelRelease() string {
	return strings.TrimSpace(m.Read("/proc/sys/kernel/osrelease"))
}

// What kube-proxy's nftables mode needs (KEP-3866).
const (
	minKernelMajor = 5
	minKernelMinor = 13
)

// KernelTooOld reports whether a kernel lacks what services need.
func KernelTooOld(release string) (bool, error) {
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		return false, fmt.Errorf("the kernel's release %q cannot be understood; at least %d.%d is needed", release, minKernelMajor, minKernelMinor)
	}
	return major < minKernelMajor || major == minKernelMajor && minor < minKernelMinor, nil
}

// HasOverlay reports whether the kernel has the overlay file system, or a
// module that it loads on the first mount.
func (m Machine) HasOverlay() bool {
	return slices.Contains(strings.Fields(m.Read("/proc/filesystems")), "overlay") || m.HasModule("overlay")
}

// HasModule reports whether the kernel has a module of that name, loaded or
// not, or built in.
func (m Machine) HasModule(name string) bool {
	if _, err := os.Stat(m.Path(filepath.Join("/sys/module", name))); err == nil {
		return true
	}
	dir := filepath.Join(paths.Modules, m.KernelRelease())
	for _, file := range []string{"modules.dep", "modules.builtin"} {
		for line := range strings.Lines(m.Read(filepath.Join(dir, file))) {
			path, _, _ := strings.Cut(strings.TrimSpace(line), ":")
			base, _, found := strings.Cut(filepath.Base(path), ".ko")
			if found && strings.ReplaceAll(base, "-", "_") == strings.ReplaceAll(name, "-", "_") {
				return true
			}
		}
	}
	return false
}
