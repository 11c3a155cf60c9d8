package vm

import (
	"slices"
	"strings"
	"testing"

	"skiff/test/hosts"
)

// state prints what a machine is like, a line for each thing. What a shell and
// the kernel change by themselves while a test looks is left out.
const state = `
find /etc /var/lib /var/log /usr/local /opt /root /run -xdev \( -path /var/log/journal -o -path /run/log -o -path /run/udev -o -path /run/systemd/journal -o -path /run/systemd/transient \) -prune -o \
  ! -path '/etc/skiff/*' -printf 'file %p %M %u %l\n' 2>/dev/null
cut -d ' ' -f 4,5 /proc/self/mountinfo | sed 's/^/mount /'
ip -o link | cut -d : -f 2 | sed 's/^/link /'
ip -o address | awk '{print "address", $2, $4}'
ip route show table all | sed 's/^/route /'; ip -6 route show table all | sed 's/^/route /'; ip rule | sed 's/^/rule /'
find /sys/fs/cgroup -type d | grep -v -E '[.](service|scope|mount|timer|socket)' | sed 's/^/cgroup /'
for f in net/ipv4/ip_forward net/ipv4/conf/all/forwarding net/ipv4/conf/all/accept_redirects net/ipv6/conf/all/forwarding net/bridge/bridge-nf-call-iptables \
  net/bridge/bridge-nf-call-ip6tables vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys kernel/keys/root_maxbytes \
  fs/inotify/max_user_instances fs/inotify/max_user_watches; do [ -e /proc/sys/$f ] && echo "sysctl $f $(cat /proc/sys/$f)"; done
systemctl list-unit-files --no-legend --plain | awk '{print "unit", $1, $2}'
systemctl list-units --all --no-legend --plain 'kube*' 'skiff*' 'cri-*' | awk '{print "loaded", $1, $3}'
ps -eo comm= | grep -v -E '^(kworker|ps|sh|find|awk|sort|irq|jbd2|ext4|systemd)' | sort -u | sed 's/^/process /'
`

// TestUninstall takes skiff off a machine with systemd and control groups of
// version 2, on which install.sh has put it, with its power cut in the middle.
func TestUninstall(t *testing.T) {
	needBase(t)
	m := newMachineWith(t, Options{Files: releaseFiles(t)})
	m.Run("modprobe br_netfilter; modprobe vxlan; modprobe overlay; mkdir -p /var/log/journal; systemctl restart systemd-journald")
	before := m.state()
	m.install()
	if got := m.Run("skiff stop 2>&1; systemctl is-active skiff; pgrep -c containerd-shim; true"); !strings.Contains(got, "\ninactive\n1\n") {
		t.Errorf("after skiff stop: %q", got)
	}
	m.Run("systemctl start skiff; skiff status --wait 10m")
	out := m.Run("skiff uninstall --yes 2>&1")
	t.Log(out)
	if !strings.Contains(out, "skiff has been removed.") {
		t.Errorf("uninstall: %s", out)
	}
	m.same(before)

	// The same again, but the power goes in the middle.
	m.install()
	m.Run("(skiff uninstall --yes 2>&1 & echo $! >/run/pid) | while read -r line; do case $line in *'data directory'*) kill -STOP $(cat /run/pid); break;; esac; done; sync")
	m.CutPower()
	m.Boot()
	m.Eventually(bootLimit, "the end of the boot", "systemctl is-system-running --wait; true")
	if got := m.Run("systemctl is-active skiff; true"); strings.TrimSpace(got) == "active" {
		t.Error("what is half removed has been started")
	}
	m.Run("skiff uninstall --yes 2>&1")
	gone := func(line string) bool { // modules and what they bring are of the boot before
		return strings.HasPrefix(line, "sysctl net/bridge") || strings.HasPrefix(line, "file /run/") || strings.HasPrefix(line, "file /var/log/")
	}
	m.same(slices.DeleteFunc(before, gone), gone)
}

// same compares the machine with how it was, but for what is ignored.
func (m *Machine) same(before []string, ignored ...func(string) bool) {
	m.t.Helper()
	m.Run("rm -rf /root/.kube") // what kubectl remembers for the person who calls it
	after := m.state()
	for _, f := range ignored {
		after = slices.DeleteFunc(after, f)
	}
	if diff := hosts.Difference(before, after); len(diff) > 0 {
		m.t.Errorf("the machine is not as it was:\n%s", strings.Join(diff, "\n"))
	}
}

func (m *Machine) install() {
	m.t.Helper()
	m.Run("install -D -m 644 /opt/vm/tool.tar /var/lib/skiff/agent/images/tool.tar; sh /opt/vm/install.sh")
	checkReady(m)
	m.apply(web)
	m.kubectl("wait --for=condition=Ready --timeout=300s pod/web")
}

func (m *Machine) state() []string {
	m.t.Helper()
	lines := strings.Split(strings.TrimSpace(m.Run(state)), "\n")
	slices.Sort(lines)
	return slices.Compact(lines)
}
