package flannel

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"skiff/pkg/paths"
)

// sysctls sets what the pod network needs of the kernel. Each setting that is
// changed is logged once.
func (f *Flannel) sysctls() error {
	if _, err := os.Stat(filepath.Join(paths.Sysctl, "net/bridge")); errors.Is(err, fs.ErrNotExist) {
		if err := loadModule("br_netfilter"); err != nil {
			f.Logger.Warn("kernel module br_netfilter is not there: Services do not work between pods of the same node; try: modprobe br_netfilter", "error", err)
		}
	}
	want := []string{"net/ipv4/ip_forward"}
	if slices.ContainsFunc(f.PodCIDR, func(p netip.Prefix) bool { return p.Addr().Is6() }) {
		if err := f.keepRouters(); err != nil {
			return err
		}
		want = append(want, "net/ipv6/conf/all/forwarding")
	}
	// Replies between two pods on the bridge must pass by connection tracking
	// to have a Service's address put back.
	for _, name := range []string{"net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"} {
		if _, err := os.Stat(filepath.Join(paths.Sysctl, name)); err == nil {
			want = append(want, name)
		}
	}
	for _, name := range want {
		file := filepath.Join(paths.Sysctl, name)
		have, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("read sysctl: %w", err)
		}
		if strings.TrimSpace(string(have)) == "1" {
			continue
		}
		if err := os.WriteFile(file, []byte("1"), 0); err != nil {
			return fmt.Errorf("set sysctl %s = 1, which pods need: %w", strings.ReplaceAll(name, "/", "."), err)
		}
		f.Logger.Info("sysctl set", "name", strings.ReplaceAll(name, "/", "."), "value", 1)
	}
	return nil
}

// keepRouters lets the host go on listening to the routers that have told it its
// IPv6 address and default route. A host that forwards packets counts as a
// router itself: the kernel forgets both, unless it is told that it may not.
func (f *Flannel) keepRouters() error {
	files, err := filepath.Glob(filepath.Join(paths.Sysctl, "net/ipv6/conf/*/accept_ra"))
	if err != nil {
		return fmt.Errorf("find sysctls: %w", err)
	}
	for _, file := range files {
		name := filepath.Base(filepath.Dir(file))
		have, err := os.ReadFile(file)
		if err != nil || ours(name) || strings.TrimSpace(string(have)) != "1" {
			continue // Interfaces come and go.
		}
		if err := os.WriteFile(file, []byte("2"), 0); err != nil {
			return fmt.Errorf("set sysctl net.ipv6.conf.%s.accept_ra = 2, which keeps the default route: %w", name, err)
		}
		f.Logger.Info("sysctl set", "name", "net.ipv6.conf."+name+".accept_ra", "value", 2)
	}
	return nil
}

// loadModule loads a kernel module, and first what it needs. The kernel does the
// decompression, if it was built to.
func loadModule(name string) error {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return fmt.Errorf("load module %s: %w", name, err)
	}
	dir := filepath.Join(paths.Modules, unix.ByteSliceToString(u.Release[:]))
	list, err := os.ReadFile(filepath.Join(dir, "modules.dep"))
	if err != nil {
		return fmt.Errorf("load module %s: %w", name, err)
	}
	files := moduleFiles(string(list), name)
	if len(files) == 0 {
		return fmt.Errorf("load module %s: the kernel has none of that name", name)
	}
	for _, file := range files {
		if err := insertModule(filepath.Join(dir, file)); err != nil {
			return fmt.Errorf("load module %s: %w", name, err)
		}
	}
	return nil
}

// moduleFiles lists the files of a module and all it needs, in the order in
// which they have to be loaded, from the content of modules.dep(5): each line
// names a module and its dependencies, the innermost last.
func moduleFiles(list, name string) []string {
	for line := range strings.Lines(list) {
		file, needs, _ := strings.Cut(line, ":")
		base, _, _ := strings.Cut(filepath.Base(file), ".")
		if base != name {
			continue
		}
		files := append([]string{file}, strings.Fields(needs)...)
		slices.Reverse(files)
		return files
	}
	return nil
}

// insertModule gives one file to the kernel; a module that is there already is
// no error.
func insertModule(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	flags := 0
	if filepath.Ext(file) != ".ko" {
		flags = unix.MODULE_INIT_COMPRESSED_FILE
	}
	if err := unix.FinitModule(int(f.Fd()), "", flags); err != nil && !errors.Is(err, unix.EEXIST) {
		return &fs.PathError{Op: "init_module", Path: file, Err: err}
	}
	return nil
}
