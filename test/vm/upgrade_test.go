package vm

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"skiff/test/releases"
)

const upgrade = "skiff upgrade --yes --settle 5s --limit 20m "

// TestUpgrade upgrades skiff as a service of systemd: well, with a version that
// does not start, and with the plug pulled in the middle.
func TestUpgrade(t *testing.T) {
	needBase(t)
	dir := t.TempDir()
	binary, err := filepath.Abs(skiffBinary())
	if err != nil {
		t.Fatal(err)
	}
	maker := releases.New(t, binary, dir)
	key := filepath.Join(dir, "release.pub")
	if err := os.WriteFile(key, []byte(maker.Key), 0o644); err != nil {
		t.Fatal(err)
	}
	m := newMachineWith(t, Options{Files: map[string]string{
		"skiff": binary, "skiff.service": "../../docs/skiff.service",
		"release.pub": key, "2.skiff": maker.Skiff(2), "3.skiff": maker.Skiff(3), "crash.skiff": maker.CrashesAtStart(3, "/opt/vm/skiff"),
	}})
	m.Run("install -D -m 644 /opt/vm/release.pub /etc/skiff/release.pub")
	install(m)
	m.apply(web)
	m.kubectl("wait --for=condition=Ready --timeout=300s pod/web")
	before := m.containers()
	same := func(after string) {
		t.Helper()
		if now := m.containers(); !maps.Equal(before, now) {
			t.Errorf("containers after %s are %v, were %v", after, now, before)
		}
	}

	t.Log(m.Run(upgrade + "/opt/vm/2.skiff"))
	m.runs(maker.Later(2))
	same("an upgrade")

	crash := m.Try(upgrade + "/opt/vm/crash.skiff")
	if crash.Code == 0 || !strings.Contains(crash.String(), "was started 3 times") {
		t.Errorf("an upgrade to what does not start: %s", crash)
	}
	m.Eventually(commandLimit, "the version before to be ready", "skiff status")
	m.runs(maker.Later(2))
	same("an upgrade that went back")
	checkJournal(m)

	for _, cut := range []struct{ at, version string }{{"Trying the new version", maker.Later(2)}, {"is in place; starting it", maker.Later(3)}} {
		reached := make(chan struct{})
		var once sync.Once
		m.Start(upgrade+"/opt/vm/3.skiff", func(line string) {
			if strings.Contains(line, cut.at) {
				once.Do(func() { close(reached) })
			}
		})
		<-reached
		m.CutPower()
		m.Boot()
		m.waitActive()
		m.Eventually(commandLimit, "the upgrade to be over", "test ! -e /var/lib/skiff/upgrade/guard && skiff status")
		m.runs(cut.version)
	}
}

// runs checks which version runs and which is installed.
func (m *Machine) runs(version string) {
	m.t.Helper()
	for _, command := range []string{"skiff version", "skiff status -o json"} {
		if out := m.Run(command); !strings.Contains(out, version) {
			m.t.Errorf("%s is not of %s:\n%s", command, version, out)
		}
	}
}
