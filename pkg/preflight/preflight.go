// Package preflight finds out before anything is written or started whether
// this machine can run skiff, and if not says so in words that name the flag,
// the file or the kernel feature, and the way out. It knows neither
// configuration nor Kubernetes: the caller says what will be used. Start
// reading at Root and Host; what they look at is Machine's, which package doctor
// asks, too.
package preflight

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
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
	h.checkDir("--data-dir", o.DataDir, MinDataFree)
	h.checkDir("the directory for sockets", o.RunDir, minRunFree)
	if o.Node {
		h.checkExec("--data-dir", o.DataDir)
		h.checkKernel()
		h.checkOverlay()
		h.checkCgroups()
		if err := ProbeNFTables(); err != nil {
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

func (h *host) machine() Machine { return Machine{Root: h.Root} }

func (h *host) checkKernel() {
	release := h.machine().KernelRelease()
	old, err := KernelTooOld(release)
	switch {
	case err != nil:
		h.warn("%v", err)
	case old:
		h.fail("the kernel is %s, and services need nftables as of %d.%d; update the kernel", release, minKernelMajor, minKernelMinor)
	}
}

func (h *host) checkOverlay() {
	if h.machine().HasOverlay() {
		return
	}
	if h.Overlayfs {
		h.fail("--snapshotter is overlayfs, but the kernel has no overlay file system; load the module overlay, or use --snapshotter native")
		return
	}
	h.warn("the kernel has no overlay file system; image layers are copied instead, which takes more disk space")
}
