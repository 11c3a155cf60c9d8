package e2e

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"skiff/test/hosts"
	"skiff/test/releases"
)

// What is installed on the hosts here, since nobody can replace a file that is
// mounted.
const (
	installedSkiff = "/var/lib/installed/skiff"
	upgradeState   = "/var/lib/skiff/upgrade"
)

// supervise does what the unit does: the guard before each start, and another
// start after each end.
const supervise = `#!/bin/sh
trap 'kill -TERM $child; wait $child; exit 0' TERM
while :; do
	[ ! -x ` + upgradeState + `/guard ] || ` + upgradeState + `/guard
	` + installedSkiff + ` "$@" & child=$!
	wait $child
	sleep 0.2 & child=$!
	wait $child
done
`

// upgrades is a host with skiff under a supervisor, and the files that it is
// upgraded with.
type upgrades struct {
	*space
	*releases.Maker // in the host's /tmp
}

// TestUpgrade upgrades a server in every way that can go wrong. Its pods run in
// the same containers all the time, until the power fails.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	u := newUpgrades(t)
	before := u.containerIDs()
	u.refusals()
	u.good(2)
	u.crashes()
	u.neverReady()
	u.abandoned(3)
	u.takenBack()
	u.sameContainers("all this", before)
	u.powerCuts()
}

func newUpgrades(t *testing.T) *upgrades {
	t.Helper()
	u := supervised(t, newHost(t, hosts.Named("site")), "server")
	u.space = newSpace(t, u.Host, "kept")
	u.apply(keptApp)
	u.ready("app=kept", 2)
	return u
}

// supervised starts skiff on a host as a service would, and waits until it is
// ready. The space is there only for what needs no API.
func supervised(t *testing.T, h *hosts.Host, command ...string) *upgrades {
	t.Helper()
	maker := releases.New(t, hosts.Binary(t), h.Path("/tmp"))
	h.WriteFile("/etc/skiff/release.pub", maker.Key)
	h.WriteFile("/var/lib/installed/supervise", supervise)
	noError(t, os.Chmod(h.Path("/var/lib/installed/supervise"), 0o755))
	noError(t, copyTo(hosts.Binary(t), h.Path(installedSkiff)))
	h.StartWith(append([]string{"/var/lib/installed/supervise"}, command...)...)
	h.WaitReady()
	return &upgrades{space: &space{Host: h, t: t}, Maker: maker}
}

// copyTo makes an executable with the content of another file.
func copyTo(from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// inside is the path of a file of the Maker on the host.
func (u *upgrades) inside(file string) string { return "/tmp/" + filepath.Base(file) }

// skiff is the upgrade file of a later skiff.
func (u *upgrades) skiff(n int) string {
	u.t.Helper()
	return u.inside(u.Skiff(n))
}

// upgrade runs skiff upgrade with short times.
func (u *upgrades) upgrade(args ...string) hosts.Result {
	u.t.Helper()
	return u.Exec(append([]string{installedSkiff, "upgrade", "--yes", "--settle", "2s", "--limit", "60s"}, args...)...)
}

// runs checks which version runs, and that it is well.
func (u *upgrades) runs(version string) {
	u.t.Helper()
	u.eventually("skiff "+version+" to be ready", func() error {
		r := u.Status("-o", "json")
		var report struct {
			Version string
			Ready   bool
		}
		if err := json.Unmarshal([]byte(r.Stdout), &report); err != nil || !report.Ready || report.Version != version {
			return fmt.Errorf("version %q, ready %v: %s", report.Version, report.Ready, r.Stderr)
		}
		return nil
	})
	if out := u.Run(installedSkiff, "version"); !strings.Contains(out, version+" ") {
		u.t.Errorf("installed is %s, want %s", out, version)
	}
	if left, _ := filepath.Glob(u.Path("/var/lib/installed/.*")); len(left) > 0 {
		u.t.Errorf("left beside the executable: %v", left)
	}
}

// over checks how the last upgrade ended.
func (u *upgrades) over(phase string) {
	u.t.Helper()
	u.eventually("the upgrade to be "+phase, func() error {
		var s struct{ Phase string }
		text, err := os.ReadFile(u.Path(upgradeState + "/state.json"))
		if err == nil {
			err = json.Unmarshal(text, &s)
		}
		_, missing := os.Stat(u.Path(upgradeState + "/guard"))
		if guarded := missing == nil; err == nil && (s.Phase != phase || guarded) {
			err = fmt.Errorf("it is %s, guarded: %v", s.Phase, guarded)
		}
		return err
	})
}

// good is an upgrade as it should be.
func (u *upgrades) good(n int) {
	u.t.Helper()
	pid := u.skiffPID()
	l := u.ListenIn("127.0.0.1:8099")
	defer l.Close()
	go func() { _ = http.Serve(l, http.FileServer(http.Dir(u.Path("/tmp")))) }()
	dry := u.upgrade("--dry-run", "http://127.0.0.1:8099/"+filepath.Base(u.skiff(n)))
	if dry.Code != 0 || !strings.Contains(dry.Stdout, "nothing has been changed") || u.skiffPID() != pid {
		u.t.Fatalf("skiff upgrade --dry-run: %s", dry)
	}
	u.WriteFile("/etc/skiff/release.url", "/tmp\n")
	r := u.upgrade(u.Later(n))
	if r.Code != 0 {
		u.t.Fatalf("skiff upgrade: %s", r)
	}
	contains(u.t, "skiff upgrade", r.Stdout, "Snapshot made: /var/lib/skiff/server/snapshots/pre-upgrade-", "skiff "+u.Later(n)+" is in place and all is ready")
	u.runs(u.Later(n))
	u.over("done")
	contains(u.t, "kubectl get node", u.Kubectl("get", "node", u.Name(), "--no-headers"), " Ready ", u.Later(n))
	made := 0
	for _, i := range snapshots(u.t, u.Host) {
		if i.Kind == "pre-upgrade" && i.Problem == "" {
			made++
		}
	}
	if made != 1 { // none for what was refused, and none by the new version itself
		u.t.Errorf("%d snapshots from before the upgrade, want 1", made)
	}
	same := u.upgrade(u.skiff(n))
	if same.Code != 0 || !strings.Contains(same.Stdout, "installed already") {
		u.t.Errorf("the same upgrade again: %s", same)
	}
}

func (u *upgrades) skiffPID() string {
	u.t.Helper()
	return strings.TrimSpace(u.ReadFile("/var/lib/skiff/lock"))
}

// crashes is a version that stands the test and then does not start.
func (u *upgrades) crashes() {
	u.t.Helper()
	r := u.upgrade(u.inside(u.CrashesAtStart(3, "/usr/local/bin/skiff")))
	oneError(u.t, r, "was rolled back", "started 3 times")
	u.runs(u.Later(2))
	u.over("rolled back")
	contains(u.t, "skiff status", u.Status().Stdout, "was rolled back", "started 3 times")
	contains(u.t, "skiff upgrade status", u.Run("skiff", "upgrade", "status"), "was rolled back")
}

// neverReady is a version that runs, and no more: what it finds in the
// configuration then is not what it was tried with.
func (u *upgrades) neverReady() {
	u.t.Helper()
	const file = "/etc/skiff/config.yaml.d/20.yaml"
	u.upgradeUntil("starting it", func() {
		u.WriteFile(file, "datastore-endpoint: https://127.0.0.1:1\n")
	}, "--limit", "12s", u.skiff(3))
	u.over("rolled back")
	u.runs(u.Later(2))
	contains(u.t, "skiff upgrade status", u.Run("skiff", "upgrade", "status"), "not well after 12s", "not ready:")
	if _, err := os.Stat(u.Path(file)); !os.IsNotExist(err) {
		u.t.Errorf("the configuration is still what it was: %v", err)
	}
	contains(u.t, "the configuration that was put aside", u.ReadFile(file+"."+u.Later(3)), "datastore-endpoint")
}

// abandoned is an upgrade whose command is killed: it goes on without.
func (u *upgrades) abandoned(n int) {
	u.t.Helper()
	p := u.upgradeUntil("(start 1)", func() {}, u.skiff(n))
	p.Signal(syscall.SIGKILL)
	u.over("done")
	u.runs(u.Later(n))
}

// takenBack takes an upgrade back because a person wants that.
func (u *upgrades) takenBack() {
	u.t.Helper()
	out := u.Run("skiff", "upgrade", "rollback", "--yes")
	contains(u.t, "skiff upgrade rollback", out, "was rolled back", "asked for")
	u.runs(u.Later(2))
	oneError(u.t, u.Exec("skiff", "upgrade", "rollback", "--yes"), "nothing to take back")
}

// powerCuts pulls the plug in the middle. There is one skiff afterwards, which
// works; and what had been changed is carried to its end.
func (u *upgrades) powerCuts() {
	u.t.Helper()
	for _, cut := range []struct{ at, phase, version string }{
		{"Unpacking", "rolled back", u.Later(2)}, // as it was before
		{"Trying", "rolled back", u.Later(2)},
		{"starting it", "done", u.Later(3)},
	} {
		u.upgradeUntil(cut.at, u.PowerCut, u.skiff(3))
		u.Start()
		u.WaitReady()
		u.over(cut.phase)
		u.runs(cut.version)
	}
	u.ready("app=kept", 2)
}

// upgradeUntil runs skiff upgrade, and does something when it has come to a
// line.
func (u *upgrades) upgradeUntil(line string, then func(), args ...string) *hosts.Process {
	u.t.Helper()
	r, w := io.Pipe()
	p := u.Spawn(hosts.Command{Args: append([]string{installedSkiff, "upgrade", "--yes", "--settle", "2s", "--limit", "60s"}, args...), Stdout: w, Stderr: w})
	go func() { p.Wait(); _ = w.Close() }()
	lines := bufio.NewScanner(r)
	var seen []string
	for lines.Scan() {
		seen = append(seen, lines.Text())
		if strings.Contains(lines.Text(), line) {
			then()
			go func() { _, _ = io.Copy(io.Discard, r) }()
			return p
		}
	}
	u.t.Fatalf("skiff upgrade has not said %q: %s", line, strings.Join(seen, "\n"))
	return nil
}

func noError(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
