package doctor

import (
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"skiff/pkg/paths"
	"skiff/pkg/preflight"
)

func kernelChecks() []check {
	all := []check{
		{
			id: "cgroup-memory", worst: Error, kernel: true, node: true, about: "the cgroups' memory controller, which a Raspberry Pi has switched off",
			why:  "without it no pod can be kept from taking all memory, and the kubelet does not start",
			fix:  "on a Raspberry Pi: the two words are added to the one line of cmdline.txt (a copy stays beside it); the board must be rebooted then",
			look: lookCgroupMemory,
		},
		{
			id: "cgroup-controllers", worst: Error, kernel: true, node: true, about: "the other cgroup controllers: cpu and pids",
			why: "the kubelet and runc cannot start a pod without them", look: lookControllers,
		},
		{
			id: "kernel-version", worst: Error, kernel: true, node: true, about: "the kernel's release",
			why: "Services need what nftables can do as of Linux 5.13", look: lookKernelVersion,
		},
		{
			id: "kernel-nftables", worst: Error, kernel: true, node: true, about: "nf_tables, by asking the kernel",
			why: "Services, network policies and pods' way out are nftables rules", look: lookNFTables,
		},
		{
			id: "kernel-overlay", worst: Error, kernel: true, node: true, about: "the overlay file system",
			why: "without it each container has a whole copy of its image", look: lookOverlay,
		},
	}
	for _, f := range features() {
		all = append(all, check{
			id: "kernel-" + f.id, worst: f.severity, kernel: true, node: true, why: f.why,
			about: fmt.Sprintf("%s (%s)", f.what, strings.Join(f.options, ", ")),
			look:  func(_ context.Context, x *exam) error { return x.lookFeature(f) },
		})
	}
	return all
}

// feature is something a kernel may have been built without.
type feature struct {
	id, what string
	options  []string // of the kernel's configuration, all of them
	modules  []string // the same as modules, in the same order
	link     string   // kind of interface to try, if nothing else is known
	sign     string   // file that shows it at work
	severity Severity
	why      string
	backend  string // needed with this --flannel-backend only
}

func features() []feature {
	return []feature{
		{
			id: "veth", what: "pairs of virtual interfaces", options: []string{"CONFIG_VETH"}, modules: []string{"veth"}, link: "veth",
			severity: Error, why: "every pod has one for its network",
		},
		{
			id: "bridge", what: "bridges", options: []string{"CONFIG_BRIDGE"}, modules: []string{"bridge"}, link: "bridge",
			severity: Error, why: "the pods of a node are connected by one",
		},
		{
			id: "vxlan", what: "VXLAN tunnels", options: []string{"CONFIG_VXLAN"}, modules: []string{"vxlan"}, link: "vxlan",
			severity: Error, why: "packets between pods of different nodes go through one; --flannel-backend=host-gw needs none", backend: "vxlan",
		},
		{
			id: "wireguard", what: "WireGuard tunnels", options: []string{"CONFIG_WIREGUARD"}, modules: []string{"wireguard"}, link: "wireguard",
			severity: Error, why: "packets between pods of different nodes go through one; other values of --flannel-backend need none", backend: "wireguard-native",
		},
		{
			id: "conntrack", what: "connection tracking", options: []string{"CONFIG_NF_CONNTRACK"}, modules: []string{"nf_conntrack"},
			sign: "/proc/sys/net/netfilter/nf_conntrack_max", severity: Error, why: "replies of Services find their way back by it",
		},
		{
			id: "br-netfilter", what: "filters for bridged packets", options: []string{"CONFIG_BRIDGE_NETFILTER"}, modules: []string{"br_netfilter"},
			sign: "/proc/sys/net/bridge/bridge-nf-call-iptables", severity: Warning,
			why: "without it Services and network policies have no effect between two pods of the same node",
		},
		{
			id: "nft-rules", what: "the kinds of nftables rules that Services are made of",
			options:  []string{"CONFIG_NFT_CT", "CONFIG_NFT_NAT", "CONFIG_NFT_MASQ", "CONFIG_NFT_NUMGEN", "CONFIG_NFT_REJECT", "CONFIG_NFT_FIB_INET"},
			modules:  []string{"nft_ct", "nft_nat", "nft_masq", "nft_numgen", "nft_reject", "nft_fib_inet"},
			severity: Error, why: "the rules of Services cannot be written, and no Service answers",
		},
		{
			id: "seccomp", what: "filters for system calls", options: []string{"CONFIG_SECCOMP_FILTER"},
			sign: "/proc/sys/kernel/seccomp/actions_avail", severity: Error, why: "pods with a seccomp profile, which add-ons often ask for, do not start",
		},
		{
			id: "mqueue", what: "POSIX message queues", options: []string{"CONFIG_POSIX_MQUEUE"},
			sign: "/proc/sys/fs/mqueue", severity: Error, why: "runc mounts their file system in every container",
		},
	}
}

// lookFeature believes the kernel's own word first, and tries where it has
// none: a configuration may be missing, and a module may be in a package that
// is not installed.
func (x *exam) lookFeature(f feature) error {
	if f.backend != "" && f.backend != x.Backend {
		return nil
	}
	if f.sign != "" {
		if _, err := os.Stat(x.Path(f.sign)); err == nil {
			return nil
		}
	}
	config, known := x.kernelConfig()
	var missing, absent []string // not built; built as a module that is not there
	for i, o := range f.options {
		switch module := len(f.modules) > i && x.HasModule(f.modules[i]); {
		case module || config[o] == "y":
		case config[o] == "m":
			absent = append(absent, f.modules[i])
		default:
			missing = append(missing, o)
		}
	}
	if len(missing)+len(absent) == 0 {
		return nil
	}
	if f.link != "" && x.sys.root {
		if x.sys.canMake(f.link) == nil {
			return nil
		}
		known = true
	}
	release := x.KernelRelease()
	switch {
	case len(absent) > 0:
		x.found(f.severity, fmt.Sprintf("the kernel %s has %s as a module that is not there: %s", release, f.what, strings.Join(absent, ", ")),
			fmt.Sprintf("install the package with the rest of the kernel's modules (Ubuntu on a Raspberry Pi: apt install linux-modules-extra-raspi; after an update of the kernel: reboot), then try: modprobe %s", absent[0]), nil)
	case known:
		x.found(f.severity, fmt.Sprintf("the kernel %s was built without %s: %s", release, f.what, strings.Join(missing, ", ")),
			"use the kernel of your distribution, or build one with "+strings.Join(missing, ", "), nil)
	default:
		return fmt.Errorf("nothing tells how the kernel %s was built: there is neither /proc/config.gz nor %s", release, paths.KernelConfig(release))
	}
	return nil
}

// kernelConfig reads how the kernel was built.
func (d *Doctor) kernelConfig() (options map[string]string, known bool) {
	release := d.KernelRelease()
	text := d.Read(paths.KernelConfig(release))
	if text == "" {
		text = d.Read(filepath.Join(paths.Modules, release, "config"))
	}
	if f, err := os.Open(d.Path("/proc/config.gz")); err == nil && text == "" {
		defer f.Close()
		if z, err := gzip.NewReader(f); err == nil {
			data, _ := io.ReadAll(io.LimitReader(z, 4<<20)) // What can be read of it counts.
			text = string(data)
		}
	}
	options = map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && strings.HasPrefix(name, "CONFIG_") {
			options[name] = value
		}
	}
	return options, len(options) > 0
}

func lookControllers(_ context.Context, x *exam) error {
	missing, mounted := x.MissingControllers()
	if !mounted {
		x.found(Error, "no cgroup file system is mounted", "mount -t cgroup2 none /sys/fs/cgroup, and see why the machine's init does not", nil)
		return nil
	}
	missing = slices.DeleteFunc(missing, func(c string) bool { return c == "memory" }) // has an id of its own
	if len(missing) > 0 {
		x.found(Error, fmt.Sprintf("the cgroup controllers %s are missing", strings.Join(missing, ", ")),
			"use a kernel that has them; in a container, give it a cgroup namespace of its own", nil)
	}
	return nil
}

func lookKernelVersion(_ context.Context, x *exam) error {
	release := x.KernelRelease()
	old, err := preflight.KernelTooOld(release)
	if old {
		x.found(Error, "the kernel is "+release, "update the kernel: Debian 12, Ubuntu 22.04, RHEL 9 and Raspberry Pi OS 12 have newer ones", nil)
	}
	return err
}

func lookNFTables(_ context.Context, x *exam) error {
	if !x.sys.root {
		return errNotRoot
	}
	if err := x.sys.nftables(); err != nil {
		x.found(Error, fmt.Sprintf("the kernel has no nf_tables: %v", err), "modprobe nf_tables; if there is no such module, use a kernel with CONFIG_NF_TABLES", nil)
	}
	return nil
}

func lookOverlay(_ context.Context, x *exam) error {
	if x.HasOverlay() {
		return nil
	}
	severity, mend := Warning, "modprobe overlay; if there is no such module, use a kernel with CONFIG_OVERLAY_FS"
	if x.Overlayfs {
		severity, mend = Error, mend+", or --snapshotter native"
	}
	x.found(severity, fmt.Sprintf("the kernel %s has no overlay file system", x.KernelRelease()), mend, nil)
	return nil
}
