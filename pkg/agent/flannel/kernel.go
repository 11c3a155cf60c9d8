package flannel

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"skiff/pkg/hostchange"
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
	families := []string{"ipv4"}
	if slices.ContainsFunc(f.PodCIDR, func(p netip.Prefix) bool { return p.Addr().Is6() }) {
		if err := f.keepRouters(); err != nil {
			return err
		}
		families = append(families, "ipv6")
	}
	for _, family := range families {
		changed, err := f.Changes.Forward(family)
		if err != nil {
			return fmt.Errorf("forward packets of pods: %w", err)
		}
		if changed {
			f.Logger.Info("sysctl set: packets are forwarded", "family", family)
		}
	}
	// Replies between two pods on the bridge must pass by connection tracking
	// to have a Service's address put back.
	for _, name := range []string{"net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables"} {
		changed, err := f.Changes.SetSysctl(name, "1")
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("%w; pods need it", err)
		}
		if changed {
			f.Logger.Info("sysctl set", "name", name, "value", 1)
		}
	}
	return nil
}

// recordChanges writes down what will be made for the pod network, here and by
// the CNI plug-ins. A table that is there already is another portmap's, too.
func (f *Flannel) recordChanges() error {
	changes := []hostchange.Change{{Kind: hostchange.Interface, Value: Bridge}, {Kind: hostchange.Table, Value: "inet " + tableName}}
	for _, table := range []string{"ip cni_hostport", "ip6 cni_hostport"} {
		there, err := hostchange.HasTable(table)
		if err != nil {
			return err
		}
		if !there {
			changes = append(changes, hostchange.Change{Kind: hostchange.Table, Value: table})
		}
	}
	switch f.Backend {
	case BackendVXLAN:
		changes = append(changes, hostchange.Change{Kind: hostchange.Interface, Value: tunnelV4}, hostchange.Change{Kind: hostchange.Interface, Value: tunnelV6})
	case BackendWireGuard:
		changes = append(changes, hostchange.Change{Kind: hostchange.Interface, Value: wireguard})
	case BackendHostGW:
		changes = append(changes, hostchange.Change{Kind: hostchange.Routes, Value: strconv.Itoa(int(protocol))})
	}
	return f.Changes.Record(changes...)
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
		if err := f.Changes.Record(hostchange.SysctlChange(file, "2", "1")); err != nil {
			return err
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
