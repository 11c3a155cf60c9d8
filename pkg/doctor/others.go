package doctor

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"

	"skiff/pkg/paths"
)

func otherChecks() []check {
	return []check{
		{
			id: "other-distribution", worst: Error, about: "K3s, RKE2, k0s, MicroK8s and kubeadm: processes, units that start at boot, state on the disk",
			why: "two kubelets on one machine take each other's ports, interfaces, rules and containers", look: lookDistributions,
		},
		{
			id: "other-interfaces", worst: Warning, node: true, about: "cni0 and flannel.1 of another distribution: with addresses outside of the range of pods, or on a machine where skiff has never run",
			why: "skiff's own have these names: pods would be given addresses that lead nowhere",
			fix: "they are removed, if no pod is connected and neither skiff nor another distribution runs", look: lookInterfaces,
		},
		{
			id: "other-cni", worst: Warning, node: true, about: "network configurations of others in " + paths.SystemCNIConf,
			why: "with --flannel-backend=none the first of them is the pods' network; otherwise skiff does not look there", look: lookCNI,
		},
	}
}

// distribution is another Kubernetes.
type distribution struct {
	name      string
	processes []string // command names; the kernel keeps 15 letters
	units     []string
	state     []string
	remove    string // how to be rid of it
}

func distributions() []distribution {
	return []distribution{
		{"K3s", []string{"k3s", "k3s-server", "k3s-agent"}, []string{"k3s.service", "k3s-agent.service"}, paths.K3s(), "/usr/local/bin/k3s-uninstall.sh, or k3s-agent-uninstall.sh there"},
		{"RKE2", []string{"rke2"}, []string{"rke2-server.service", "rke2-agent.service"}, paths.RKE2(), "/usr/local/bin/rke2-uninstall.sh, or in /usr/bin"},
		{"k0s", []string{"k0s"}, []string{"k0scontroller.service", "k0sworker.service"}, paths.K0s(), "k0s stop; k0s reset; then reboot"},
		{"MicroK8s", []string{"kubelite", "k8s-dqlite"}, []string{"snap.microk8s.daemon-kubelite.service"}, paths.MicroK8s(), "snap remove --purge microk8s"},
		{"kubeadm", []string{"kubelet", "kube-apiserver", "kube-controller", "kube-scheduler", "kube-proxy"}, []string{"kubelet.service"}, paths.Kubeadm(), "kubeadm reset; systemctl disable --now kubelet"},
	}
}

// proc is a process.
type proc struct{ pid, name string }

func (d *Doctor) processes() []proc {
	var all []proc
	for _, dir := range d.existing("/proc/[0-9]*") {
		if name := strings.TrimSpace(d.Read(filepath.Join(dir, "comm"))); name != "" {
			all = append(all, proc{pid: filepath.Base(dir), name: name})
		}
	}
	return all
}

// enabled returns the links by which systemd starts a unit at boot.
func (d *Doctor) enabled(units []string) []string {
	var found []string
	for _, u := range units {
		found = append(found, d.existing(filepath.Join(paths.SystemdUnits, "*.wants", u))...)
	}
	return found
}

func lookDistributions(_ context.Context, x *exam) error {
	for _, o := range distributions() {
		mend := "if it is not needed any more: " + o.remove + ". To take its cluster over from K3s: skiff migrate-k3s"
		if o.name != "K3s" {
			mend = "if it is not needed any more: " + o.remove
		}
		state := x.existing(o.state...)
		if p, runs := x.running(o); runs {
			x.found(Error, fmt.Sprintf("%s runs: %s (process %s)", o.name, p.name, p.pid), mend, nil)
			continue
		}
		if units := x.enabled(o.units); len(units) > 0 {
			x.found(Warning, fmt.Sprintf("%s starts at the next boot: %s", o.name, strings.Join(units, ", ")), mend, nil)
			continue
		}
		if len(state) > 0 {
			x.found(Info, fmt.Sprintf("%s has been here and has left: %s", o.name, strings.Join(state, ", ")), mend, nil)
		}
	}
	return nil
}

// running returns a process of a distribution. What skiff runs has other names.
func (x *exam) running(o distribution) (proc, bool) {
	for _, p := range x.processes() {
		if slices.Contains(o.processes, p.name) && p.pid != strconv.Itoa(x.PID) {
			return p, true
		}
	}
	return proc{}, false
}

// lookInterfaces tells our own interfaces from others' by their addresses: ours
// are in the range of pods, and skiff has left its data where it has run.
func lookInterfaces(_ context.Context, x *exam) error {
	links, err := x.sys.links()
	if err != nil {
		return err
	}
	ran := len(x.existing(x.Paths.Agent())) > 0
	for _, l := range links {
		if l.name != bridge && l.name != "flannel.1" && l.name != "flannel-v6.1" {
			continue
		}
		foreign := func(p netip.Prefix) bool {
			return !p.Addr().IsLinkLocalUnicast() && !slices.ContainsFunc(x.PodCIDR, func(pods netip.Prefix) bool { return pods.Contains(p.Addr()) })
		}
		outside := slices.IndexFunc(l.addrs, foreign)
		switch {
		case outside >= 0:
			x.iface(l, fmt.Sprintf("the interface %s has the address %s, which is outside of the range of pods", l.name, l.addrs[outside]))
		case !ran:
			x.iface(l, fmt.Sprintf("there is an interface %s, and skiff has never run here", l.name))
		}
	}
	return nil
}

func (x *exam) iface(l link, problem string) {
	safe := x.PID == 0 && x.sys.root && l.ports == 0
	for _, o := range distributions() {
		_, runs := x.running(o)
		safe = safe && !runs
	}
	var f fix
	if safe {
		f = func(context.Context) (string, error) {
			if err := deleteLink(l.name); err != nil {
				return "", err
			}
			return "removed the interface " + l.name, nil
		}
	}
	x.found(Warning, problem, "stop what it belongs to, then: ip link delete "+l.name, f)
}

func deleteLink(name string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("remove interface %s: %w", name, err)
	}
	if err := netlink.LinkDel(l); err != nil {
		return fmt.Errorf("remove interface %s: %w", name, err)
	}
	return nil
}

func lookCNI(_ context.Context, x *exam) error {
	files := x.existing(filepath.Join(paths.SystemCNIConf, "*.conf"), filepath.Join(paths.SystemCNIConf, "*.conflist"))
	if len(files) == 0 {
		if x.Backend == "none" {
			x.found(Warning, fmt.Sprintf("--flannel-backend=none, and %s has no network for pods", paths.SystemCNIConf), "install a network plug-in: the node is not ready before", nil)
		}
		return nil
	}
	if x.Backend != "none" {
		x.found(Info, "others have left "+strings.Join(files, ", "), "nothing has to be done: skiff does not read them", nil)
	}
	return nil
}
