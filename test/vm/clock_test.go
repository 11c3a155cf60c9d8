package vm

import (
	"maps"
	"strings"
	"testing"
	"time"
)

// TestClock runs skiff on a machine whose clock boots in 1970 and is then set to
// other times by hand, years ahead and hours back. Pods stay, the API answers
// whoever comes new, and the node is ready all the time.
func TestClock(t *testing.T) {
	m := newMachineWith(t, Options{Clock: "1970-01-01T00:00:05"})
	// systemd has set the clock to its own build. (The kernel lets nobody set it
	// to less than the time that the machine has been up.)
	m.Run("systemctl mask --now systemd-timesyncd 2>/dev/null; date -s @1000000")
	install(m)
	checkReady(m)
	if year := strings.TrimSpace(m.Run("date +%Y")); year < "2026" {
		t.Errorf("it is %s by the machine's clock; skiff was built later", year)
	}
	if got := m.Run("skiff status || true"); !strings.Contains(got, "the clock showed 1970-01-12") {
		t.Errorf("skiff status does not say what it did to the clock: %s", got)
	}
	m.apply(web)
	m.kubectl("wait --for=condition=Ready --timeout=300s pod/web")
	before, pid := m.containers(), m.Run("systemctl show -P MainPID skiff")
	for _, jump := range []struct{ name, set string }{
		{"an hour and a half back", "date -s '-90 minutes'"},
		{"to 1970", "date -s @2000000"},
		{"to the present", "date -s '2027-03-01 12:00:00'"},
		{"five years ahead", "date -s '2032-03-01 12:00:00'"},
		{"back again", "date -s '2027-03-01 12:05:00'"},
	} {
		t.Log(jump.name, strings.TrimSpace(m.Run(jump.set)))
		m.Eventually(2*time.Minute, "the API for somebody new after the clock was set "+jump.name, "skiff kubectl get --raw /readyz")
		m.Eventually(3*time.Minute, "a pod's token after the clock was set "+jump.name,
			"skiff kubectl auth can-i --as=system:serviceaccount:default:default get pods; skiff kubectl exec web -- /tool lookup kubernetes.default")
		// Nodes are called lost after fifty seconds without a heartbeat.
		for range 6 {
			if got := m.kubectl(`get nodes -o jsonpath='{.items[0].status.conditions[?(@.type=="Ready")].status}'`); got != "True" {
				t.Errorf("%s: the node's Ready is %q", jump.name, got)
			}
			m.Run("sleep 10")
		}
		if after := m.containers(); !maps.Equal(before, after) {
			t.Errorf("%s: before %v, after %v", jump.name, before, after)
		}
		if got := m.Run("systemctl show -P MainPID skiff"); got != pid {
			t.Errorf("%s: skiff was started again", jump.name)
		}
		t.Log(strings.TrimSpace(m.Run("skiff status | grep -i clock || true")))
	}
	m.CutPower()
	m.Boot()
	m.Eventually(bootLimit, "skiff to be ready after a boot in 1970", "systemctl is-active skiff && skiff kubectl get --raw /readyz")
	if now := strings.TrimSpace(m.Run("date +%Y")); now < "2026" {
		t.Errorf("after a boot in 1970 it is %s; skiff was built later", now)
	}
}
