package vm

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	release "skiff/test/install"
)

// TestInstallScript installs by scripts/install.sh under systemd, from a
// directory and without a network card, and looks at what a person relies on
// afterwards: another run, another argument, a reboot that ends pods in order.
func TestInstallScript(t *testing.T) {
	needBase(t)
	m := newMachineWith(t, Options{Files: releaseFiles(t)})
	m.Run("install -D -m 644 /opt/vm/tool.tar /var/lib/skiff/agent/images/tool.tar; mkdir -p /var/log/journal; systemctl restart systemd-journald")
	begin := time.Now()
	t.Log(m.Run("sh /opt/vm/install.sh"))
	t.Logf("install.sh took %s", time.Since(begin).Round(time.Second))
	checkReady(m)
	if got := strings.TrimSpace(m.Run("systemctl is-enabled skiff; readlink /usr/local/bin/kubectl; kubectl get nodes -o name")); got != "enabled\nskiff\nnode/debian" {
		t.Errorf("the service, kubectl and the nodes are %q", got)
	}
	if got := m.Run("systemd-analyze verify /etc/systemd/system/skiff.service 2>&1; true"); got != "" {
		t.Errorf("systemd-analyze verify: %s", got)
	}
	m.apply(web)
	m.kubectl("wait --for=condition=Ready --timeout=300s pod/web")
	before, pid := m.containers(), m.Run("systemctl show -P MainPID skiff")
	if out := m.Run("sh /opt/vm/install.sh"); !strings.Contains(out, "nothing has changed") || m.Run("systemctl show -P MainPID skiff") != pid {
		t.Errorf("the same again: %s", out)
	}
	m.Run("sh /opt/vm/install.sh --kubelet-arg max-pods=50")
	m.Eventually(time.Minute, "the setting of the third run", "skiff kubectl get node debian -o jsonpath={.status.capacity.pods} | grep -x 50")
	if after := m.containers(); before["web"] != after["web"] {
		t.Errorf("before %v, after %v", before, after)
	}
	begin = time.Now()
	m.Shutdown()
	t.Logf("the shutdown took %s", time.Since(begin).Round(time.Second))
	m.Boot()
	m.waitActive()
	checkReady(m)
	m.waitNewContainers(before)
	if got := m.Run("journalctl -b -1 -u skiff --no-pager -o cat | tail -n 30"); !strings.Contains(got, "all its pods have ended") {
		t.Errorf("the journal of the shutdown does not say that pods have ended:\n%s", got)
	}
	checkJournal(m)
}

// releaseFiles makes a release of the skiff under test, unless $SKIFF_RELEASE is
// a directory that `make release` has written.
func releaseFiles(t *testing.T) map[string]string {
	t.Helper()
	if dir := os.Getenv("SKIFF_RELEASE"); dir != "" {
		return filesIn(t, dir)
	}
	binary, err := os.Open(skiffBinary())
	if err != nil {
		t.Fatal(err)
	}
	defer binary.Close()
	dir := t.TempDir()
	if _, err := release.Make("../../scripts/install.sh", dir, "v1.36.3+skiff1", binary, release.NewKey('k')); err != nil {
		t.Fatal(err)
	}
	return filesIn(t, dir)
}

func filesIn(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, e := range entries {
		files[e.Name()] = filepath.Join(dir, e.Name())
	}
	return files
}
