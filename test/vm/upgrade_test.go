package vm

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"skiff/pkg/release"
	"skiff/test/releases"
)

const upgrade = "skiff upgrade --yes --settle 5s "

// upgraded is a machine that is upgraded as a service of systemd, and the files
// for that in /opt/vm.
type upgraded struct {
	*Machine
	*releases.Maker
	before map[string]container // that run all the time, until the power fails
}

// TestUpgrade upgrades skiff as a service of systemd in every way that can go
// wrong; test/e2e has the finer points.
func TestUpgrade(t *testing.T) {
	needBase(t)
	u := newUpgraded(t)
	u.refuses("tampered.skiff", "unpack upgrade file")
	u.refuses("s390x.skiff", "linux/s390x")
	u.refuses("down.skiff", "--allow-downgrade")
	u.runs(u.Version)
	u.good()
	u.takenBack()
	u.crashes()
	u.neverReady()
	checkJournal(u.Machine)
	u.powerCut("Unpacking", u.Version)
	u.powerCut("Trying the new version", u.Version)
	u.powerCut("is in place; starting it", u.Later(3))
}

func newUpgraded(t *testing.T) *upgraded {
	t.Helper()
	dir := t.TempDir()
	binary, err := filepath.Abs(skiffBinary())
	if err != nil {
		t.Fatal(err)
	}
	u := &upgraded{Maker: releases.New(t, binary, dir)}
	files := map[string]string{"skiff": binary, "skiff.service": "../../docs/skiff.service"}
	add := func(name, path string) {
		t.Helper()
		files[name] = filepath.Join(dir, name)
		if err := os.Rename(path, files[name]); err != nil {
			t.Fatal(err)
		}
	}
	of := func(change func(*release.Manifest)) string {
		manifest := u.Manifest(2)
		change(&manifest)
		return u.Content(manifest, []byte("#!/bin/sh\n"))
	}
	add("2.skiff", u.Skiff(2))
	add("3.skiff", u.Skiff(3))
	add("crash.skiff", u.CrashesAtStart(3, "/opt/vm/skiff"))
	add("s390x.skiff", of(func(m *release.Manifest) { m.Arch = "s390x" }))
	add("down.skiff", of(func(m *release.Manifest) { m.Kubernetes, m.Version = "v1.36.0", "v1.36.0+skiff1" }))
	tampered, err := os.ReadFile(files["2.skiff"])
	if err != nil {
		t.Fatal(err)
	}
	tampered[len(tampered)/2] ^= 4
	for name, content := range map[string][]byte{"tampered.skiff": tampered, "release.pub": []byte(u.Key)} {
		files[name] = filepath.Join(dir, name)
		if err := os.WriteFile(files[name], content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	u.Machine = newMachineWith(t, Options{Files: files})
	u.Run("install -D -m 644 /opt/vm/release.pub /etc/skiff/release.pub")
	install(u.Machine)
	u.apply(web)
	u.kubectl("wait --for=condition=Ready --timeout=300s pod/web")
	u.before = u.containers()
	return u
}

// refuses checks that nothing happens but an error.
func (u *upgraded) refuses(file, why string) {
	u.t.Helper()
	pid := u.Run("systemctl show -P MainPID skiff")
	r := u.Try(upgrade + "/opt/vm/" + file)
	if r.Code == 0 || !strings.Contains(r.Stderr, why) {
		u.t.Errorf("an upgrade to %s, which should say %q: %s", file, why, r)
	}
	if u.Run("systemctl show -P MainPID skiff") != pid {
		u.t.Errorf("after %s was refused skiff is another process", file)
	}
}

// good is an upgrade as it should be.
func (u *upgraded) good() {
	u.t.Helper()
	u.t.Log(u.Run(upgrade + "--limit 20m /opt/vm/2.skiff"))
	u.runs(u.Later(2))
	u.same("an upgrade")
}

// crashes is a version that stands the test and then does not start.
func (u *upgraded) crashes() {
	u.t.Helper()
	crash := u.Try(upgrade + "--limit 20m /opt/vm/crash.skiff")
	if crash.Code == 0 || !strings.Contains(crash.String(), "was started 3 times") {
		u.t.Errorf("an upgrade to what does not start: %s", crash)
	}
	u.back(u.Version)
}

// takenBack takes the last upgrade back because a person wants that.
func (u *upgraded) takenBack() {
	u.t.Helper()
	u.t.Log(u.Run("skiff upgrade rollback --yes"))
	u.back(u.Version)
}

// neverReady is a version that runs, and no more: what it finds in the
// configuration then is not what it was tried with.
func (u *upgraded) neverReady() {
	u.t.Helper()
	command := u.upgradeUntil("is in place; starting it", "90s")
	u.Run("mkdir -p /etc/skiff/config.yaml.d; echo datastore-endpoint: https://127.0.0.1:1 >/etc/skiff/config.yaml.d/20.yaml")
	select {
	case <-command.Done:
	case <-time.After(commandLimit):
		u.t.Fatalf("the upgrade has not ended after %s: %s", commandLimit, command.result())
	}
	if r := command.result(); r.Code == 0 || !strings.Contains(r.String(), "not well after 1m30s") {
		u.t.Errorf("an upgrade to what is never ready: %s", r)
	}
	u.back(u.Version)
}

// powerCut pulls the plug when an upgrade has come to a line.
func (u *upgraded) powerCut(at, version string) {
	u.t.Helper()
	u.upgradeUntil(at, "20m")
	u.CutPower()
	u.Boot()
	u.waitActive()
	u.Eventually(commandLimit, "the upgrade to be over", "test ! -e /var/lib/skiff/upgrade/guard && skiff status")
	u.runs(version)
	u.t.Logf("after a power cut at %q: %s", at, version)
}

// upgradeUntil begins an upgrade to the third skiff and waits until it has said
// something.
func (u *upgraded) upgradeUntil(words, limit string) *Command {
	u.t.Helper()
	said := make(chan struct{})
	var once sync.Once
	command := u.Start(upgrade+"--limit "+limit+" /opt/vm/3.skiff", func(line string) {
		if strings.Contains(line, words) {
			once.Do(func() { close(said) })
		}
	})
	select {
	case <-said:
	case <-command.Done:
		u.t.Fatalf("the upgrade has ended before it said %q: %s", words, command.result())
	case <-time.After(commandLimit):
		u.t.Fatalf("the upgrade has not said %q after %s: %s", words, commandLimit, command.result())
	}
	return command
}

// back checks that an upgrade has gone back and the pods have gone on.
func (u *upgraded) back(version string) {
	u.t.Helper()
	u.Eventually(commandLimit, "the version before to be ready", "skiff status")
	u.runs(version)
	u.same("an upgrade that went back")
}

func (u *upgraded) same(after string) {
	u.t.Helper()
	if now := u.containers(); !maps.Equal(u.before, now) {
		u.t.Errorf("containers after %s are %v, were %v", after, now, u.before)
	}
}

// runs checks which version runs and which is installed.
func (u *upgraded) runs(version string) {
	u.t.Helper()
	for _, command := range []string{"skiff version", "skiff status -o json"} {
		if out := u.Run(command); !strings.Contains(out, version) {
			u.t.Errorf("%s is not of %s:\n%s", command, version, out)
		}
	}
}
