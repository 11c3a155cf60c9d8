package e2e

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"skiff/pkg/release"
	"skiff/test/hosts"
)

// refusals are upgrades that are refused, and change nothing.
func (u *upgrades) refusals() {
	u.t.Helper()
	change := func(fn func(*release.Manifest)) release.Manifest {
		m := u.Manifest(2)
		fn(&m)
		return m
	}
	tests := []struct {
		name string
		file func() string
		want string
	}{
		{"tampered manifest", func() string { return u.tampered("linux", "Linux") }, "does not match"},
		{"tampered executable", func() string { return u.tampered("", "") }, "unpack upgrade file"},
		{"another key", u.foreign, "trusted is key"},
		{"wrong architecture", func() string { return u.content(change(func(m *release.Manifest) { m.Arch = "s390x" }), "x") }, "linux/s390x"},
		{"two minor versions up", func() string { return u.content(change(toKubernetes("v1.38.0")), "x") }, "v1.37 first"},
		{"a minor version down", func() string { return u.content(change(toKubernetes("v1.35.0")), "x") }, "skiff upgrade rollback --restore-data"},
		{"a patch down", func() string { return u.content(change(toKubernetes("v1.36.0")), "x") }, "--allow-downgrade"},
		{"fails at once", func() string { return u.content(u.Manifest(2), "#!/bin/sh\necho a part is missing >&2\nexit 1\n") }, "a part is missing"},
		{"crashes at once", u.truncated, "cannot be used here; nothing has been changed"},
		{"no upgrade file", func() string { return "/etc/skiff/release.pub" }, "no upgrade file"},
		{"no such file", func() string { return "/tmp/none.skiff" }, "no such file"},
		{"a version from nowhere", func() string { return "v1.36.9+skiff1" }, "does not say where this skiff came from"},
	}
	pid := u.skiffPID()
	for _, tt := range tests {
		oneError(u.t, u.upgrade(tt.file()), tt.want)
		if u.t.Failed() {
			u.t.Fatalf("the upgrade was: %s", tt.name)
		}
	}
	u.alone()
	if now := u.skiffPID(); now != pid {
		u.t.Errorf("skiff is process %s, was %s", now, pid)
	}
	u.runs(u.Version)
	if _, err := os.Stat(u.Path(upgradeState + "/state.json")); err == nil {
		u.t.Error("there is a journal of an upgrade")
	}
	if _, err := os.Stat(u.Path("/etc/skiff/release.pub")); err != nil {
		u.t.Error(err)
	}
}

func toKubernetes(version string) func(*release.Manifest) {
	return func(m *release.Manifest) { m.Kubernetes, m.Version = version, version+"+skiff1" }
}

// tampered changes a word in the file, or a bit of the executable.
func (u *upgrades) tampered(from, to string) string {
	u.t.Helper()
	text, err := os.ReadFile(u.Path(u.skiff(2)))
	noError(u.t, err)
	if from == "" {
		text[len(text)/2] ^= 4
	} else {
		text = bytes.Replace(text, []byte(from), []byte(to), 1)
	}
	noError(u.t, os.WriteFile(u.Path("/tmp/tampered.skiff"), text, 0o600))
	return "/tmp/tampered.skiff"
}

// content is the upgrade file of something.
func (u *upgrades) content(m release.Manifest, content string) string {
	u.t.Helper()
	return u.inside(u.Content(m, []byte(content)))
}

// foreign is signed by somebody else.
func (u *upgrades) foreign() string {
	u.t.Helper()
	return u.inside(u.Foreign().Content(u.Manifest(2), []byte("#!/bin/sh\n")))
}

// truncated is the beginning of an executable.
func (u *upgrades) truncated() string {
	u.t.Helper()
	content, err := os.ReadFile(u.Binary)
	noError(u.t, err)
	return u.content(u.Manifest(2), string(content[:1<<20]))
}

// alone checks that there is one upgrade at a time.
func (u *upgrades) alone() {
	u.t.Helper()
	lock, err := os.OpenFile(u.Path(upgradeState+"/install.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	noError(u.t, err)
	defer lock.Close()
	noError(u.t, unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB))
	oneError(u.t, u.upgrade(u.skiff(2)), "another upgrade is at work")
}

func TestUpgradeNeedsAKey(t *testing.T) {
	t.Parallel()
	h := hosts.New(t, hosts.LoopbackOnly())
	oneError(t, h.Exec("skiff", "upgrade", "/tmp/x.skiff"), "/etc/skiff/release.pub is missing", "--key")
	r := h.Exec("skiff", "upgrade")
	if r.Code != 2 || !strings.Contains(r.Stderr, "FILE, VERSION or URL") {
		t.Errorf("skiff upgrade: %s", r)
	}
}
