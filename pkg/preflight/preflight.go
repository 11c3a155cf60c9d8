// Package preflight finds out before anything is written or started whether
// this machine can run skiff, and if not says so in words that name the flag,
// the file or the kernel feature, and the way out. It knows neither
// configuration nor Kubernetes: the caller says what will be used. Start
// reading at Root and Host.
package preflight

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"skiff/pkg/paths"
)

// Options says what skiff is about to use.
type Options struct {
	DataDir string
	RunDir  string
	// Node is true if pods will run here, which needs more of the kernel.
	Node bool
	// Overlayfs is true if nothing else will do for image layers.
	Overlayfs bool
	// BuildTime is when this skiff was built; zero if unknown.
	BuildTime time.Time
	// Root is put before /proc, /sys and /lib; for tests. Empty means the host.
	Root string
}

// minKernel is what kube-proxy's nftables mode needs (KEP-3866).
const (
	minKernelMajor = 5
	minKernelMinor = 13
)

// Root checks that this is root. It comes before everything else, even before
// the configuration is read: whatever fails for lack of rights would only say
// the same in other words.
func Root() error {
	if unix.Geteuid() != 0 {
		return errors.New("skiff must run as root: it mounts file systems, makes network interfaces and starts containers; use sudo")
	}
	return nil
}

// Host checks the machine. It returns what a person should know but need not
// act on, and an error that joins everything that stands in the way. It
// changes nothing; opening a netfilter socket may make the kernel load a module.
func Host(o Options) (warnings []string, err error) {
	h := &host{Options: o}
	if !o.BuildTime.IsZero() && time.Now().Before(o.BuildTime) {
		h.warn("the clock says %s, which is before this skiff was built (%s); certificates made now may be refused later",
			time.Now().UTC().Format(time.DateOnly), o.BuildTime.UTC().Format(time.DateOnly))
	}
	h.checkDir("--data-dir", o.DataDir, minDataFree)
	h.checkDir("the directory for sockets", o.RunDir, minRunFree)
	if o.Node {
		h.checkExec("--data-dir", o.DataDir)
		h.checkKernel()
		h.checkOverlay()
		h.checkCgroups()
		if err := probeNFTables(); err != nil {
			h.fail("the kernel has no nf_tables (%w); load the module nf_tables, or use a kernel with CONFIG_NF_TABLES", err)
		}
	}
	return h.warnings, errors.Join(h.errs...)
}

type host struct {
	Options
	warnings []string
	errs     []error
}

func (h *host) warn(format string, args ...any) {
	h.warnings = append(h.warnings, fmt.Sprintf(format, args...))
}

func (h *host) fail(format string, args ...any) {
	h.errs = append(h.errs, fmt.Errorf(format, args...))
}

func (h *host) read(path string) string {
	data, err := os.ReadFile(filepath.Join("/", h.Root, path))
	if err != nil {
		return "" // a file that is not there offers no feature
	}
	return string(data)
}

func (h *host) checkKernel() {
	release := strings.TrimSpace(h.read("/proc/sys/kernel/osrelease"))
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		h.warn("the kernel's release %q cannot be understood; at least %d.%d is needed", release, minKernelMajor, minKernelMinor)
		return
	}
	if major < minKernelMajor || major == minKernelMajor && minor < minKernelMinor {
		h.fail("the kernel is %s, and services need nftables as of %d.%d; update the kernel", release, minKernelMajor, minKernelMinor)
	}
}

func (h *host) checkOverlay() {
	if hasWord(h.read("/proc/filesystems"), "overlay") {
		return
	}
	release := strings.TrimSpace(h.read("/proc/sys/kernel/osrelease"))
	if strings.Contains(h.read(filepath.Join(paths.Modules, release, "modules.dep")), "/overlay.ko") {
		return // the kernel loads it on the first mount
	}
	if h.Overlayfs {
		h.fail("--snapshotter is overlayfs, but the kernel has no overlay file system; load the module overlay, or use --snapshotter native")
		return
	}
	h.warn("the kernel has no overlay file system; image layers are copied instead, which takes more disk space")
}

func hasWord(text, word string) bool {
	return slices.Contains(strings.Fields(text), word)
}
