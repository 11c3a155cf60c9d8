package paths

import "path/filepath"

// Authorities are the files of certificate authorities that Linux distributions
// have; a host needs one of them.
func Authorities() []string {
	return []string{
		"/etc/ssl/certs/ca-certificates.crt",
		"/etc/pki/tls/certs/ca-bundle.crt",
		"/etc/ssl/ca-bundle.pem",
		"/etc/pki/tls/cacert.pem",
		"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
		"/etc/ssl/cert.pem",
	}
}

// Places on the host that skiff reads, and does not own. They are here so that
// no other package spells an absolute path.
const (
	// Users is the file of user accounts.
	Users = "/etc/passwd"
	// ResolvConf is the C library's resolver configuration.
	ResolvConf = "/etc/resolv.conf"
	// Hosts and OSRelease are read by people who help.
	Hosts     = "/etc/hosts"
	OSRelease = "/etc/os-release"
	// K3s' places, which `skiff migrate-k3s` reads.
	K3sData         = "/var/lib/rancher/k3s"
	K3sEtc          = "/etc/rancher/k3s"
	K3sNodePassword = "/etc/rancher/node/password"
	K3sRun          = "/run/k3s"
	// SystemdUnits and OpenRCUnits are where services of the administrator are.
	SystemdUnits = "/etc/systemd/system"
	OpenRCUnits  = "/etc/init.d"
	OpenRCConf   = "/etc/conf.d"
	// SystemdResolvConf is where systemd-resolved keeps the servers behind
	// its stub on 127.0.0.53.
	SystemdResolvConf = "/run/systemd/resolve/resolv.conf"
	// SystemCNIConf and SystemCNIBin are where third-party network plug-ins
	// install themselves.
	SystemCNIConf = "/etc/cni/net.d"
	SystemCNIBin  = "/opt/cni/bin"
	// SelfStatus tells the capabilities of this process.
	SelfStatus = "/proc/self/status"
	// SelfOOMScore is how likely the kernel is to kill this process when
	// memory runs out.
	SelfOOMScore = "/proc/self/oom_score_adj"
	// Self is the running executable, also when its file was replaced.
	Self = "/proc/self/exe"

	// MountInfo lists the mounts of this process' mount namespace.
	MountInfo = "/proc/self/mountinfo"
	// InitName is the command name of the first process.
	InitName = "/proc/1/comm"
	// Sysctl is the root of the kernel's settings.
	Sysctl = "/proc/sys"
	// Modules holds a directory of kernel modules for each kernel release.
	Modules = "/lib/modules"
	// CgroupRoot is where control groups are mounted.
	CgroupRoot = "/sys/fs/cgroup"
	// CgroupControllers exists where the unified cgroup hierarchy (version 2)
	// is the one in use.
	CgroupControllers = "/sys/fs/cgroup/cgroup.controllers"
	// BootID is another text after each boot.
	BootID = "/proc/sys/kernel/random/boot_id"
	// CNICache is where the CNI library remembers what it did for each pod.
	CNICache = "/var/lib/cni/results"
	// MountTable is the directory that mount(8) makes, which the kubelet calls.
	MountTable = "/run/mount"
	// ContainerLogs is where the kubelet names containers' logs a second time.
	ContainerLogs = "/var/log/containers"
	// SystemdRuns exists where systemd is the first process, OpenRCRuns where
	// OpenRC is the service manager.
	SystemdRuns = "/run/systemd/system"
	OpenRCRuns  = "/run/openrc"
	// InitScripts is where OpenRC's services are.
	InitScripts = "/etc/init.d"
	// OpenRCLevels is where enabling a service makes a link.
	OpenRCLevels = "/etc/runlevels"
	// MemInfo has the machine's memory.
	MemInfo = "/proc/meminfo"
	// ProductUUID and BoardSerial are what the hardware calls itself: the first
	// by its firmware, the second by its device tree.
	ProductUUID = "/sys/class/dmi/id/product_uuid"
	BoardSerial = "/sys/firmware/devicetree/base/serial-number"
)

// ContainerdDropIns is the directory whose *.toml files are merged into
// containerd's configuration.
func (l Layout) ContainerdDropIns() string {
	return filepath.Join(l.AgentEtc(), "containerd", "config.toml.d")
}

// GoodRegistries is registries.yaml as it was when it last made sense.
func (l Layout) GoodRegistries() string {
	return filepath.Join(l.AgentEtc(), "containerd", "registries.yaml")
}

// ImagesState remembers which image archives have been imported.
func (l Layout) ImagesState() string { return filepath.Join(l.Agent(), "images.json") }

// Network remembers this node's pod network between starts.
func (l Layout) Network() string { return filepath.Join(l.Agent(), "network.json") }

// WireGuardKey is the private key of the node's tunnel to the others.
func (l Layout) WireGuardKey() string { return filepath.Join(l.Agent(), "wireguard.key") }

// PodResolvConf is what pods' resolv.conf is made from.
func (l Layout) PodResolvConf() string { return filepath.Join(l.AgentEtc(), "resolv.conf") }

// StaticPods is the directory whose pod manifests the kubelet runs without
// asking anybody.
func (l Layout) StaticPods() string { return filepath.Join(l.Agent(), "pod-manifests") }

// What package doctor looks at.
const (
	// SysctlFile is where `skiff doctor --fix` writes kernel settings; its name
	// comes after those that distributions use.
	SysctlFile = "/etc/sysctl.d/99-zz-skiff.conf"
	// SysctlConf is the old file of kernel settings.
	SysctlConf = "/etc/sysctl.conf"
	// Fstab lists what is mounted at boot, swap included.
	Fstab = "/etc/fstab"
	// GrubDefaults is where GRUB's kernel command line is set.
	GrubDefaults = "/etc/default/grub"
	// IPTablesNames lists the tables of the old iptables.
	IPTablesNames = "/proc/net/ip_tables_names"
)

// OpenRCCgroups are where OpenRC makes control groups for its services, which it
// leaves there: version 1, both versions, version 2 (its sh/rc-cgroup.sh).
func OpenRCCgroups() []string {
	return []string{filepath.Join(CgroupRoot, "openrc"), filepath.Join(CgroupRoot, "unified"), CgroupRoot}
}

// SysctlDirs hold kernel settings, weakest first.
func SysctlDirs() []string {
	return []string{"/lib/sysctl.d", "/usr/lib/sysctl.d", "/usr/local/lib/sysctl.d", "/run/sysctl.d", "/etc/sysctl.d"}
}

// PiCmdline are the places of a Raspberry Pi's kernel command line, the newer
// one first.
func PiCmdline() []string { return []string{"/boot/firmware/cmdline.txt", "/boot/cmdline.txt"} }

// KernelConfig is how a kernel was built, where the distribution says so.
func KernelConfig(release string) string { return filepath.Join("/boot", "config-"+release) }

// SystemdRun exists while systemd runs the machine.
const SystemdRun = "/run/systemd/system"

// TimesyncUnits are where systemd's time service is installed.
func TimesyncUnits() []string {
	return []string{"/lib/systemd/system/systemd-timesyncd.service", "/usr/lib/systemd/system/systemd-timesyncd.service"}
}

// UFWConf says whether ufw is switched on.
const UFWConf = "/etc/ufw/ufw.conf"

// K3s is where K3s keeps what it has.
func K3s() []string { return []string{K3sData, K3sEtc} }

// RKE2 is where RKE2 does.
func RKE2() []string { return []string{"/var/lib/rancher/rke2", "/etc/rancher/rke2"} }

// K0s is where k0s does.
func K0s() []string { return []string{"/var/lib/k0s", "/etc/k0s"} }

// MicroK8s is where MicroK8s does.
func MicroK8s() []string { return []string{"/var/snap/microk8s"} }

// Kubeadm is where kubeadm does.
func Kubeadm() []string {
	return []string{"/etc/kubernetes/manifests/*.yaml", "/etc/kubernetes/admin.conf", "/etc/kubernetes/kubelet.conf"}
}
