package doctor

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"skiff/pkg/paths"
)

const cgroupsWithoutMemory = "cpuset cpu io pids\n"

func kernelFaults() []fault {
	pi := func(file, text string) func(*patient) {
		return func(p *patient) {
			p.write("/sys/fs/cgroup/cgroup.controllers", cgroupsWithoutMemory)
			p.write(file, text)
		}
	}
	// What the firmware would hand to the kernel: the first line.
	boot := func(file string) func(*patient) {
		return func(p *patient) {
			text := p.Read(file)
			if strings.Count(text, "\n") != 1 || !strings.HasSuffix(text, " cgroup_memory=1 cgroup_enable=memory\n") || !strings.HasPrefix(text, "console=tty1 root=/dev/mmcblk0p2 ") {
				p.t.Errorf("%s is %q", file, text)
			}
			if backup := p.Read(file + ".before-skiff"); !strings.HasPrefix(backup, "console=tty1") {
				p.t.Errorf("the copy of %s is %q", file, backup)
			}
			if after := found(p.Examine(p.t.Context(), Kernel)); len(after) != 1 {
				p.t.Errorf("before the reboot: %q", after)
			}
			p.write("/sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids\n")
		}
	}
	const line = "console=tty1 root=/dev/mmcblk0p2 rootwait"
	built := func(f func(string) string) func(*patient) {
		return func(p *patient) { p.write(paths.KernelConfig(release), f(p.Read(paths.KernelConfig(release)))) }
	}
	newer, older := paths.PiCmdline()[0], paths.PiCmdline()[1]
	return []fault{
		{name: "pi", want: "error cgroup-memory", says: "memory controller", inject: pi(newer, line+"\n"), fixable: true, reboot: boot(newer)},
		{name: "older pi, without a line's end", want: "error cgroup-memory", inject: pi(older, line), fixable: true, reboot: boot(older)},
		{name: "pi, on a second line", want: "error cgroup-memory", inject: pi(newer, line+"\ncgroup_memory=1 cgroup_enable=memory\n"), fixable: true, reboot: boot(newer)},
		{name: "pi, switched off by hand", want: "error cgroup-memory", inject: pi(newer, line+" cgroup_disable=memory\n"), fixable: true, reboot: boot(newer)},
		{name: "pi, not rebooted", want: "error cgroup-memory", says: "though /boot/cmdline.txt asks for it", inject: pi(older, line+" cgroup_memory=1 cgroup_enable=memory\n")},
		{name: "no pi", want: "error cgroup-memory", inject: func(p *patient) { p.write("/sys/fs/cgroup/cgroup.controllers", cgroupsWithoutMemory) }},
		{name: "no cgroups", want: "error cgroup-controllers", says: "no cgroup file system", inject: func(p *patient) { p.write("/proc/self/mountinfo", "21 1 8:1 / / rw - ext4 /dev/sda1 rw\n") }},
		{name: "no pids", want: "error cgroup-controllers", says: "pids", inject: func(p *patient) { p.write("/sys/fs/cgroup/cgroup.controllers", "cpu memory\n") }},
		{name: "old kernel", want: "error kernel-version", says: "5.10.0", inject: func(p *patient) {
			config := p.Read(paths.KernelConfig(release))
			p.write("/proc/sys/kernel/osrelease", "5.10.0\n")
			p.write(paths.KernelConfig("5.10.0"), config)
		}},
		{name: "no nftables", want: "error kernel-nftables", inject: func(p *patient) { p.sys.nftables = func() error { return errors.New("not supported") } }},
		{name: "no overlay", want: "warning kernel-overlay", inject: func(p *patient) { p.write("/proc/filesystems", "ext4\n") }},
		{name: "no overlay, asked for", want: "error kernel-overlay", inject: func(p *patient) { p.write("/proc/filesystems", "ext4\n"); p.Overlayfs = true }},
		{name: "module not installed", want: "error kernel-vxlan", says: "module that is not there: vxlan", inject: built(func(s string) string {
			return strings.Replace(s, "CONFIG_VXLAN=y", "CONFIG_VXLAN=m", 1)
		})},
		{name: "not built", want: "error kernel-veth", says: "without pairs of virtual interfaces: CONFIG_VETH", inject: built(func(s string) string {
			return strings.Replace(s, "CONFIG_VETH=y\n", "# CONFIG_VETH is not set\n", 1)
		})},
		{name: "half of nftables", want: "error kernel-nft-rules", says: "CONFIG_NFT_FIB_INET", inject: built(func(s string) string {
			return strings.Replace(s, "CONFIG_NFT_FIB_INET=y\n", "", 1)
		})},
		{name: "no br_netfilter", want: "warning kernel-br-netfilter", inject: built(func(s string) string {
			return strings.Replace(s, "CONFIG_BRIDGE_NETFILTER=y\n", "", 1)
		})},
		{name: "inotify, by a file", want: "warning inotify-limits", says: "/etc/sysctl.d/50-low.conf sets fs.inotify.max_user_instances to 128", fixable: true, inject: func(p *patient) {
			p.write("/etc/sysctl.d/50-low.conf", "# low\nfs.inotify.max_user_instances = 128\n")
		}},
		{name: "inotify, while skiff runs", want: "warning inotify-limits", says: "is 100, less than 524288", fixable: true, inject: func(p *patient) {
			p.running()
			p.write("/proc/sys/fs/inotify/max_user_watches", "100\n")
		}},
		{name: "file-max", want: "warning file-limits", says: "8000 files", fixable: true, inject: func(p *patient) { p.write("/proc/sys/fs/file-max", "8000\n") }},
		{name: "ulimit", want: "warning file-limits", says: "256 files", inject: func(p *patient) { p.sys.openFiles = func() (uint64, error) { return 256, nil } }},
		{name: "skiff's limit", want: "warning file-limits", says: "skiff (process 99) may have 1024", inject: func(p *patient) {
			p.running()
			p.write("/proc/99/limits", "Limit    Soft Limit  Hard Limit  Units\nMax open files            1024                 1024                 files     \n")
		}},
		{name: "forwarding switched off", want: "error sysctl-changed", says: "net.ipv4.ip_forward is 0", fixable: true, inject: func(p *patient) {
			p.running()
			p.write("/proc/sys/net/ipv4/ip_forward", "0\n")
		}},
		{name: "swap", want: "info swap", says: "99 MiB of swap on /var/swap", inject: func(p *patient) {
			p.write("/proc/swaps", "Filename Type Size Used Priority\n/var/swap file 102396 0 -2\n")
		}},
	}
}

// running makes skiff run as process 99.
func (p *patient) running() {
	p.PID = 99
	p.write("/proc/99/limits", "Max open files            524288               524288               files     \n")
}

func machineFaults() []fault {
	mounted := func(line string) func(*patient) {
		return func(p *patient) { p.write("/proc/self/mountinfo", p.Read("/proc/self/mountinfo")+line+"\n") }
	}
	certificate := func(name string, ca bool, end time.Duration, running bool) func(*patient) {
		return func(p *patient) {
			if running {
				p.running()
			}
			p.write(p.Paths.ServerTLS()+"/"+name+".crt", string(certificatePEM(p.t, name, ca, p.now().Add(end))))
		}
	}
	return []fault{
		{name: "data directory in the way", want: "error data-dir", says: "not a directory", inject: func(p *patient) {
			p.Paths = paths.New("/var/lib/file")
			p.write("/var/lib/file", "")
		}},
		{name: "read-only", want: "error data-dir", says: "read-only", inject: mounted("30 21 8:2 / /var/lib ro - ext4 /dev/sdb ro")},
		{name: "noexec", want: "error data-dir", says: "noexec", inject: mounted("30 21 8:2 / /var/lib/skiff rw,noexec - ext4 /dev/sdb rw")},
		{name: "nfs", want: "error data-dir-file-system", says: "a network file system", inject: mounted("30 21 0:44 / /var/lib rw - nfs4 nas:/x rw")},
		{name: "tmpfs", want: "warning data-dir-file-system", says: "in memory", inject: mounted("30 21 0:44 / /var/lib rw - tmpfs tmpfs rw")},
		{name: "overlay", want: "warning data-dir-file-system", says: "copied whole", inject: mounted("30 21 0:44 / /var/lib rw - overlay overlay rw")},
		{name: "nosuid", want: "info data-dir-file-system", says: "nosuid", inject: mounted("30 21 8:2 / /var/lib rw,nosuid - ext4 /dev/sdb rw")},
		{name: "clock before the build", want: "error clock-wrong", says: "2020-01-01", inject: func(p *patient) { p.clock.now = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC) }},
		{name: "clock set back", want: "error clock-wrong", says: "it was 2027-01-01 00:00 UTC already", inject: func(p *patient) { p.write(p.Paths.ClockFile(), "2027-01-01T00:00:00Z\n") }},
		{name: "no time server, no battery", want: "warning clock-unsynchronised", says: "no battery", inject: func(p *patient) { p.clock.synchronized = false }},
		{name: "no time server", want: "info clock-unsynchronised", inject: func(p *patient) {
			p.clock.synchronized = false
			p.write("/sys/class/rtc/rtc0/name", "rtc\n")
		}},
		{name: "time service off", want: "warning clock-unsynchronised", fixable: true, inject: func(p *patient) {
			p.clock.synchronized = false
			p.write(paths.TimesyncUnits()[0], "")
			p.write(paths.SystemdRun+"/x", "")
			p.answer("timedatectl", func(args string) (string, error) {
				p.clock.synchronized = args == "set-ntp true"
				return "no\n", nil
			})
		}},
		{name: "certificate expired", want: "error certificates", says: "serving.crt has expired 2026-11-20", inject: certificate("serving", false, -day, true)},
		{name: "certificate not renewed", want: "warning certificates", says: "should have renewed", inject: certificate("serving", false, 30*day, true)},
		{name: "certificate expired, stopped", want: "info certificates", inject: certificate("serving", false, -day, false)},
		{name: "authority expired, no key", want: "error certificates", says: "its key is not here", inject: certificate("server-ca", true, -day, false)},
		{name: "k3s runs", want: "error other-distribution", says: "K3s runs: k3s-server (process 321)", inject: func(p *patient) { p.write("/proc/321/comm", "k3s-server\n") }},
		{name: "kubeadm at boot", want: "warning other-distribution", says: "kubelet.service", inject: func(p *patient) {
			p.write("/etc/systemd/system/multi-user.target.wants/kubelet.service", "")
		}},
		{name: "k0s was here", want: "info other-distribution", says: "/var/lib/k0s", inject: func(p *patient) { p.write("/var/lib/k0s/pki/ca.crt", "") }},
		{name: "network configurations", want: "info other-cni", says: "10-calico.conflist", inject: func(p *patient) { p.write(paths.SystemCNIConf+"/10-calico.conflist", "") }},
		{name: "no network configuration", want: "warning other-cni", inject: func(p *patient) { p.Backend = "none" }},
	}
}

// ufw is as much of ufw as its output.
func ufw(p *patient) {
	rules := []string{"22/tcp                     ALLOW       Anywhere                  ", "22/tcp (v6)                ALLOW       Anywhere (v6)             "}
	p.answer("ufw", func(args string) (string, error) {
		f := strings.Fields(args)
		switch {
		case args == "status":
			return "Status: active\n\nTo                         Action      From\n--                         ------      ----\n" + strings.Join(rules, "\n") + "\n\n", nil
		case f[0] == "route" && f[2] == "from":
			rules = append(rules, fmt.Sprintf("%-26s %-11s %s", "Anywhere", "ALLOW FWD", f[3]))
		case f[0] == "route":
			rules = append(rules, fmt.Sprintf("%-26s %-11s %s", f[3], "ALLOW FWD", "Anywhere"))
		case f[1] == "from":
			rules = append(rules, fmt.Sprintf("%-26s %-11s %s", "Anywhere", "ALLOW", f[2]))
		default:
			rules = append(rules, fmt.Sprintf("%-26s %-11s %s", f[1], "ALLOW", "Anywhere"))
		}
		return "Rule added\n", nil
	})
}

func firewalld(p *patient) {
	p.write("/proc/77/comm", "firewalld\n")
	sources, ports := "", "6440-6450/tcp"
	p.answer("firewall-cmd", func(args string) (string, error) {
		if strings.HasPrefix(args, "--permanent") {
			return "success\n", nil
		}
		if s, ok := strings.CutPrefix(args, "--zone=trusted --add-source="); ok {
			sources += " " + s
		}
		if s, ok := strings.CutPrefix(args, "--zone=home --add-port="); ok {
			ports += " " + s
		}
		switch args {
		case "--zone=trusted --list-all":
			return "trusted\n  target: ACCEPT\n  sources: " + sources + "\n  ports: \n", nil
		case "--get-zone-of-interface=eth0":
			return "home\n", nil
		case "--zone=home --list-all":
			return "home (active)\n  target: default\n  interfaces: eth0\n  sources: \n  services: dhcpv6-client ssh\n  ports: " + ports + "\n", nil
		}
		return "success\n", nil
	})
}

func removed(p *patient, file string) {
	if err := os.Remove(p.Path(file)); err != nil {
		p.t.Fatal(err)
	}
}
