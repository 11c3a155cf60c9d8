package install

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"skiff/test/hosts"
)

const (
	stick = "/mnt"      // where the release is on a host
	tools = "/tmp/tool" // programs of the test, found before all others
	calls = "/tmp/calls"
)

// standIn is what is installed in place of skiff. It is ready as soon as the
// service runs, unless /tmp/broken says otherwise.
const standIn = `#!/bin/sh
case $1 in
--version) echo "skiff VERSION (stands in for skiff)" ;;
status)
	[ ! -e /tmp/broken ] || { echo "no cgroup for memory"; exit 4; }
	[ -e /run/active ] || exit 3
	;;
kubectl) echo '{"items":[{"status":{"addresses":[{"type":"InternalIP","address":"192.0.2.7"},{"type":"Hostname","address":"x"}]}}]}' ;;
esac
`

// systemctl stands in for systemd's, which does not run here: it writes down
// what changes something, and remembers what is on.
const systemctl = `#!/bin/sh
for name; do :; done
case " $* " in
*" is-enabled "*) [ -e /etc/systemd/system/enabled-$name ] ;;
*" is-active "*) [ -e /run/active ] ;;
*" is-system-running "*) echo running ;;
*)
	echo "$*" >>` + calls + `
	case " $* " in
	*" enable "*) touch /etc/systemd/system/enabled-$name ;;
	*" start "*) touch /run/active ;;
	*" stop "*) rm -f /run/active ;;
	esac
	;;
esac
`

// machine is a host with a release on a stick and nothing installed.
type machine struct {
	*hosts.Host
	t       *testing.T
	release *Release
}

// newMachine makes one. It has systemd, or what the script takes for it.
func newMachine(t *testing.T, opts ...hosts.Option) *machine {
	t.Helper()
	// A host removes what was mounted only after the test's own directories.
	dir, err := os.MkdirTemp("", "skiff-install-") //nolint:usetesting // outlives the host
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	bin, files := filepath.Join(dir, "bin"), filepath.Join(dir, "stick")
	for _, d := range []string{bin, files} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	m := &machine{t: t, release: makeRelease(t, files, "v1.36.3+skiff1")}
	m.Host = hosts.New(t, append(opts, hosts.WithBinary("/bin/busybox"), hosts.LoopbackOnly(),
		hosts.WithBind(hosts.Bind{From: bin, To: "/usr/local/bin"}), hosts.WithBind(hosts.Bind{From: files, To: stick}))...)
	linkAlternatives(t, m.Host)
	m.tool("systemctl", systemctl)
	m.Run("mkdir", "-p", "/run/systemd/system", "/etc/systemd/system")
	return m
}

func makeRelease(t *testing.T, dir, version string) *Release {
	t.Helper()
	r, err := Make(script, dir, version, strings.NewReader(strings.Replace(standIn, "VERSION", version, 1)), NewKey('k'))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// linkAlternatives gives a host what /etc has on a Debian machine: awk is found
// by way of it.
func linkAlternatives(t *testing.T, h *hosts.Host) {
	t.Helper()
	if err := os.MkdirAll(h.Path("/etc/alternatives"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/usr/bin/mawk", h.Path("/etc/alternatives/awk")); err != nil {
		t.Fatal(err)
	}
}

// tool puts a program in front of all others.
func (m *machine) tool(name, text string) {
	m.t.Helper()
	path := tools + "/" + name
	m.WriteFile(path, text)
	if err := os.Chmod(m.Path(path), 0o755); err != nil {
		m.t.Fatal(err)
	}
}

// install runs the script of the release, with variables and then arguments.
func (m *machine) install(words ...string) hosts.Result {
	m.t.Helper()
	variables := []string{"env", "PATH=" + tools + ":/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	for len(words) > 0 && strings.Contains(words[0], "=") && !strings.HasPrefix(words[0], "-") {
		variables, words = append(variables, words[0]), words[1:]
	}
	return m.Exec(append(append(variables, "sh", stick+"/install.sh"), words...)...)
}

// must is install for what has to succeed.
func (m *machine) must(words ...string) string {
	m.t.Helper()
	r := m.install(words...)
	if r.Code != 0 {
		m.t.Fatalf("install.sh %q: %s", words, r)
	}
	return r.Stdout
}

// calls is what was asked of systemctl since the last time.
func (m *machine) calls() []string {
	m.t.Helper()
	data, err := os.ReadFile(m.Path(calls))
	if err != nil {
		return nil
	}
	_ = os.Remove(m.Path(calls))
	return strings.Split(strings.TrimSpace(string(data)), "\n")
}

// listing is all that an installation could change, with contents, and with
// times but for directories, in which something may come and go.
func (m *machine) listing() string {
	m.t.Helper()
	return m.Run("sh", "-c", `find /etc /usr/local/bin /var/lib /tmp/skiff-install* /run \( -type d -printf '%p %M\n' -o -printf '%p %M %s %T@ %l\n' \) 2>/dev/null | sort; cat /etc/skiff/* /etc/systemd/system/*.* 2>/dev/null; true`)
}
