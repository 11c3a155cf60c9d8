package vm

import (
	"maps"
	"strings"
	"testing"
	"time"

	"skiff/test/images"
)

// ten is a Deployment of ten small pods.
const ten = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: ten}
spec:
  replicas: 10
  selector: {matchLabels: {app: ten}}
  template:
    metadata: {labels: {app: ten}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: ` + images.Tool + `
`

// memory prints what the processes have for themselves, largest first.
const memory = `awk '/^Name:/ { name = $2 } /^RssAnon:/ { kib[name] += $2; n[name]++ } END { for (i in kib) print kib[i], n[i], i }' /proc/[0-9]*/status | sort -rn | head -n 8`

// calm waits until skiff says that all is well. Where every instruction is
// translated its probes come too late for minutes while ten pods start.
func (m *Machine) calm() {
	m.t.Helper()
	m.Eventually(10*time.Minute, "skiff to be ready", "skiff status && skiff kubectl get --raw /readyz")
}

// TestSmall runs ten pods for 15 minutes on the smallest machine that skiff is
// for: 512 MiB of memory and no swap. Nothing is ended for want of memory,
// nothing restarts.
func TestSmall(t *testing.T) {
	needBase(t)
	m := newMachineWith(t, Options{Memory: 512, Files: releaseFiles(t)})
	checkHost(m)
	m.Run("install -D -m 644 /opt/vm/tool.tar /var/lib/skiff/agent/images/tool.tar; sh /opt/vm/install.sh")
	checkReady(m)
	m.apply(ten)
	m.kubectl("rollout status --timeout=600s deployment/ten")
	m.calm()
	before, pid := m.containers(), m.Run("systemctl show -P MainPID skiff")
	if len(before) != 10 {
		t.Fatalf("%d pods run, want 10", len(before))
	}
	for end := time.Now().Add(15 * time.Minute); time.Now().Before(end); {
		m.Run("sleep 60")
		t.Log(strings.Join(strings.Fields(m.Run("grep -E '^(MemAvailable|Cached|AnonPages|Slab):' /proc/meminfo; cut -d ' ' -f 1 /proc/loadavg; grep -h some /proc/pressure/memory")), " "))
		t.Log(strings.TrimSpace(m.Try("skiff status | head -n 1").Stdout))
	}
	m.calm()
	t.Logf("memory of its own, in KiB, by program:\n%s", m.Run(memory))
	if after := m.containers(); !maps.Equal(before, after) {
		t.Errorf("containers before %v, after %v", before, after)
	}
	if got := m.Run("systemctl show -P MainPID skiff"); got != pid {
		t.Errorf("skiff was started again")
	}
	if got := m.Run("dmesg | grep -i -E 'out of memory|oom-kill|oom_reaper' || true; grep -H -r '^oom_kill [1-9]' /sys/fs/cgroup --include=memory.events || true"); got != "" {
		t.Errorf("something was ended for want of memory:\n%s", got)
	}
	if got := strings.TrimSpace(m.Run("wc -l </proc/swaps")); got != "1" {
		t.Errorf("/proc/swaps has %s lines: the machine swaps", got)
	}
	checkJournal(m)
}
