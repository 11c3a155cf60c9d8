package install

import (
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// update rewrites the units in docs: go test ./test/install -update.
var update = flag.Bool("update", false, "rewrite docs/*.service")

// TestInstall tells the life of an installation: what is done at first, that
// nothing is done again, and what a change leads to.
func TestInstall(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	start := []string{"daemon-reload", "-q enable skiff", "start --no-block skiff"}
	restart := []string{"daemon-reload", "stop skiff", "start --no-block skiff"}
	var before string
	for _, step := range []struct {
		name  string
		words []string
		want  []string // of systemd
		said  string
	}{
		{"first", nil, start, "skiff v1.36.3+skiff1 is ready"},
		{"again", nil, nil, "nothing has changed"},
		{"by force", []string{"INSTALL_SKIFF_FORCE_RESTART=true"}, []string{"stop skiff", "start --no-block skiff"}, "restarting"},
		{"with an argument", []string{"--debug"}, restart, "restarting"},
		{"the same as a variable", []string{"INSTALL_SKIFF_EXEC=server --debug"}, nil, "nothing has changed"},
		{"with a setting", []string{"INSTALL_SKIFF_EXEC=--debug", "SKIFF_NODE_NAME=a"}, restart, "restarting"},
		{"not to be started", []string{"INSTALL_SKIFF_SKIP_START=true"}, []string{"daemon-reload"}, "was not started"},
		{"what that left to do", nil, restart, "restarting"},
		{"not to be enabled", []string{"INSTALL_SKIFF_SKIP_ENABLE=true", "--debug"}, nil, "neither enabled nor started"},
		{"what that left to do", []string{"--debug"}, restart, "restarting"},
		{"back to the first", nil, restart, "restarting"},
		{"the first again", nil, nil, "nothing has changed"},
	} {
		out := m.must(step.words...)
		if diff := cmp.Diff(step.want, m.calls()); diff != "" {
			t.Errorf("%s: calls of systemctl (-want +got):\n%s", step.name, diff)
		}
		if !strings.Contains(out, step.said) {
			t.Errorf("%s: it says %q, want %q", step.name, out, step.said)
		}
		after := m.listing()
		if step.want == nil && step.said == "nothing has changed" && before != after {
			t.Errorf("%s: nothing was to change (-before +after):\n%s", step.name, cmp.Diff(before, after))
		}
		before = after
	}
	if got := m.Run("sh", "-c", "cd /usr/local/bin; for f in *; do echo $f $(readlink $f); done"); !strings.Contains(got, "crictl skiff\nctr skiff\n") {
		t.Errorf("in /usr/local/bin: %s", got)
	}
	want := "dir\t/etc/skiff\nfile\t/usr/local/bin/skiff\nfile\t/etc/skiff/release.pub\nfile\t/etc/skiff/release.url\n"
	if got := m.ReadFile("/etc/skiff/host-changes"); !strings.HasPrefix(got, want) || !strings.HasSuffix(got, "unit\t/etc/systemd/system/skiff.service\n") {
		t.Errorf("the journal of changes has:\n%s", got)
	}
	m.Run("systemctl", "--version") // Debian's, only to show that the test's own was in front
}

// TestSettings looks at what the service gets.
func TestSettings(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	token := "K10\"$`\\' %x"
	m.must("INSTALL_SKIFF_EXEC=server --node-label 'a=b c' --debug", "SKIFF_TOKEN="+token, "HTTP_PROXY=http://proxy:3128", "INSTALL_SKIFF_NAME=two", "OTHER=1",
		"--kubelet-arg", "x=$y %n\"'")
	unit := m.ReadFile("/etc/systemd/system/skiff-two.service")
	if want := `ExecStart=/usr/local/bin/skiff server --node-label "a=b c" --debug --kubelet-arg "x=$$y %%n\"'"` + "\n"; !strings.Contains(unit, want) {
		t.Errorf("want %s in\n%s", want, unit)
	}
	const file = "/etc/systemd/system/skiff-two.service.env"
	want := "HTTP_PROXY=\"http://proxy:3128\"\nSKIFF_TOKEN=\"K10\\\"\\$\\`\\\\' %x\"\n"
	if diff := cmp.Diff(want, m.ReadFile(file)); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}
	if got := m.Run("sh", "-c", ". "+file+`; printf %s "$SKIFF_TOKEN"`); got != token {
		t.Errorf("a shell reads the token as %q, want %q", got, token)
	}
	if info, err := os.Stat(m.Path(file)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the settings' file has mode %v (%v), want 0600", info.Mode(), err)
	}
}

// TestAgent makes a node of the machine.
func TestAgent(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	out := m.must("SKIFF_URL=https://192.0.2.1:6443", "SKIFF_TOKEN=K10x")
	if !strings.Contains(out, "restart skiff-agent") || strings.Contains(out, "add a machine") {
		t.Errorf("it says %s", out)
	}
	if diff := cmp.Diff([]string{"daemon-reload", "-q enable skiff-agent", "start --no-block skiff-agent"}, m.calls()); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	golden(t, m, "skiff-agent.service")
	if r := m.install(); r.Code != 1 || !strings.Contains(r.Stderr, "the service skiff-agent is installed here") {
		t.Errorf("a server on an agent: %s", r)
	}
}

// The units in docs are the ones that are installed.
func TestUnit(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	out := m.must()
	golden(t, m, "skiff.service")
	if want := "SKIFF_URL=https://192.0.2.7:6443"; !strings.Contains(out, want) {
		t.Errorf("it says %q, want %q", out, want)
	}
}

func golden(t *testing.T, m *machine, name string) {
	t.Helper()
	got := m.ReadFile("/etc/systemd/system/" + name)
	path := filepath.Join("../../docs", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-docs +installed); `go test ./test/install -update` takes it over:\n%s", name, diff)
	}
}

// TestPlaces installs from everywhere a release can be.
func TestPlaces(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	newer := makeRelease(t, m.subdirectory("v1.37.0+skiff1"), "v1.37.0+skiff1")
	if err := os.MkdirAll(filepath.Join(m.release.Dir, "channels"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(m.release.Dir, "channels", "latest"), []byte(newer.Version+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(m.release.Dir, "images"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(m.release.Dir, "images", "shop.tar"), []byte("an image"), 0o644); err != nil {
		t.Fatal(err)
	}
	requests := m.serve("127.0.0.1:8080")
	m.Run("sh", "-c", `mkdir /tmp/busybox /tmp/nocurl
		busybox --install -s /tmp/busybox
		ln -sf /usr/bin/* `+tools+`/* /tmp/nocurl && rm /tmp/nocurl/curl`)
	for _, tc := range []struct {
		name    string
		words   []string
		version string
	}{
		{"the script's directory", nil, "v1.36.3+skiff1"},
		{"a directory", []string{"INSTALL_SKIFF_ARTIFACT_URL=/mnt/"}, "v1.36.3+skiff1"},
		{"the same as an address", []string{"INSTALL_SKIFF_ARTIFACT_URL=file:///mnt"}, "v1.36.3+skiff1"},
		{"one version of several", []string{"INSTALL_SKIFF_ARTIFACT_URL=/mnt", "INSTALL_SKIFF_VERSION=v1.37.0+skiff1"}, "v1.37.0+skiff1"},
		{"a channel", []string{"INSTALL_SKIFF_ARTIFACT_URL=/mnt", "INSTALL_SKIFF_CHANNEL=latest"}, "v1.37.0+skiff1"},
		{"a web server", []string{"INSTALL_SKIFF_ARTIFACT_URL=http://127.0.0.1:8080"}, "v1.36.3+skiff1"},
		{"a version there", []string{"INSTALL_SKIFF_ARTIFACT_URL=http://127.0.0.1:8080/", "INSTALL_SKIFF_VERSION=v1.37.0+skiff1"}, "v1.37.0+skiff1"},
		{"a channel there", []string{"INSTALL_SKIFF_ARTIFACT_URL=http://127.0.0.1:8080", "INSTALL_SKIFF_CHANNEL=latest"}, "v1.37.0+skiff1"},
		{"with wget", []string{"PATH=/tmp/nocurl", "INSTALL_SKIFF_ARTIFACT_URL=http://127.0.0.1:8080"}, "v1.36.3+skiff1"},
		{"with nothing but busybox", []string{"PATH=/tmp/busybox:" + tools}, "v1.36.3+skiff1"},
	} {
		m.Run("rm", "-f", "/usr/local/bin/skiff")
		m.must(tc.words...)
		if got := m.Run("/usr/local/bin/skiff", "--version"); !strings.Contains(got, tc.version) {
			t.Errorf("%s: installed is %s, want %s", tc.name, got, tc.version)
		}
	}
	if got := m.ReadFile("/var/lib/skiff/agent/images/shop.tar"); got != "an image" {
		t.Errorf("the image is %q", got)
	}
	before := requests.Load()
	m.must("INSTALL_SKIFF_ARTIFACT_URL=http://127.0.0.1:8080")
	if n := requests.Load() - before; n != 2 {
		t.Errorf("%d requests to find out that all is there, want 2: the list and its signature", n)
	}
	if left := m.Run("sh", "-c", "ls -A /tmp | grep skiff-install; ls -A /usr/local/bin | grep '^\\.'; true"); left != "" {
		t.Errorf("left over: %s", left)
	}
}

func (m *machine) subdirectory(name string) string {
	m.t.Helper()
	dir := filepath.Join(m.release.Dir, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		m.t.Fatal(err)
	}
	return dir
}

// serve serves the stick on an address of the machine. The first request for
// each file fails.
func (m *machine) serve(address string) *atomic.Int64 {
	var n atomic.Int64
	failed := map[string]bool{}
	files := http.FileServer(http.Dir(m.release.Dir))
	l := m.ListenIn(address)
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.Add(1)
		if r.URL.Path == "/SHA256SUMS" && !failed[r.URL.Path] { // one client, one request at a time
			failed[r.URL.Path] = true
			http.Error(w, "not now", http.StatusServiceUnavailable)
			return
		}
		files.ServeHTTP(w, r)
	})}
	go func() { _ = s.Serve(l) }()
	m.t.Cleanup(func() { _ = s.Close() })
	return &n
}

// TestPipe runs the script as `curl | sh -` does, which is also what a
// connection that breaks does: half a script must do nothing.
func TestPipe(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	text, err := os.ReadFile(filepath.Join(m.release.Dir, "install.sh"))
	if err != nil {
		t.Fatal(err)
	}
	before := m.listing()
	for i := range 12 {
		cut := len(text)*i/12 + 7*i
		m.Exec("sh", "-c", fmt.Sprintf("head -c %d %s/install.sh | env PATH=%s:$PATH sh -s - --debug", cut, stick, tools))
		if after := m.listing(); after != before {
			t.Fatalf("the first %d bytes of the script have changed something (-before +after):\n%s", cut, cmp.Diff(before, after))
		}
	}
	out := m.Run("sh", "-c", "cat "+stick+"/install.sh | env PATH="+tools+":$PATH INSTALL_SKIFF_ARTIFACT_URL="+stick+" sh -s - --debug")
	if !strings.Contains(out, "is ready") || !strings.Contains(m.ReadFile("/etc/systemd/system/skiff.service"), "skiff server --debug\n") {
		t.Errorf("it says %s", out)
	}
}

// killer stands in for a program that changes things: the n-th to be called
// kills everything of the script, as a power cut would.
const killer = `#!/bin/sh
n=$(cat /tmp/lives)
echo $((n - 1)) >/tmp/lives
[ $n != 1 ] || kill -9 0
exec /usr/bin/${0##*/} "$@"
`

// TestKilled kills the script at each of its steps. Another run makes it good,
// and restarts the service if it has not been for the change.
func TestKilled(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.must()
	want := m.withoutTimes()
	m.must("--debug")
	for _, program := range []string{"sync", "mv", "ln", "chmod", "tee", "touch", "rm", "mkdir", "cp"} {
		m.tool(program, killer)
	}
	step := 5
	if os.Getenv("SKIFF_SOAK") != "" {
		step = 1
	}
	killed := 0
	for n := 1; ; n += step {
		m.WriteFile("/tmp/lives", "0\n")
		m.must("--debug")
		m.Run("rm", "-f", "/usr/local/bin/skiff", "/usr/local/bin/ctr")
		m.calls()
		m.WriteFile("/tmp/lives", fmt.Sprintln(n))
		r := m.install()
		m.WriteFile("/tmp/lives", "0\n")
		m.must()
		if got := m.withoutTimes(); got != want {
			t.Fatalf("killed at step %d, then run again (-want +got):\n%s", n, cmp.Diff(want, got))
		}
		if all := m.calls(); strings.Count(strings.Join(all, "\n"), "start --no-block") < 1 {
			t.Errorf("killed at step %d: the service was not restarted: %q", n, all)
		}
		if r.Code == 0 {
			break
		}
		killed++
	}
	t.Logf("killed %d times", killed)
	if killed*step < 15 {
		t.Errorf("killed at %d steps only: does the script do what the test believes?", killed*step)
	}
}

// withoutTimes is what is installed in the end; the journal's order may differ.
func (m *machine) withoutTimes() string {
	m.t.Helper()
	return m.Run("sh", "-c", `find /etc /usr/local/bin /run /tmp/skiff-install* ! -type d -printf '%p %M %s %l\n' 2>/dev/null | sort; cat /etc/skiff/host-changes | sort; cat /etc/skiff/release.pub /etc/skiff/release.url /etc/systemd/system/*.* 2>/dev/null; true`)
}

// TestNotReady shows what a person needs when skiff does not come up.
func TestNotReady(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.WriteFile("/tmp/broken", "")
	m.tool("journalctl", "#!/bin/sh\necho 'the journal: memory cgroup missing'\n")
	r := m.install()
	for _, want := range []string{"no cgroup for memory", "the journal: memory cgroup missing", "not ready yet"} {
		if r.Code != 1 || !strings.Contains(r.Stderr, want) {
			t.Errorf("want %q in: %s", want, r)
		}
	}
}

// TestByHand is a machine with neither systemd nor OpenRC.
func TestByHand(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.Run("rm", "-r", "/run/systemd", tools+"/systemctl")
	m.Run("sh", "-c", "mkdir /tmp/busybox && busybox --install -s /tmp/busybox")
	out := m.must("PATH=/tmp/busybox", "SKIFF_NODE_NAME=a b", "--node-label", "a=b c")
	want := "    set -a; . /etc/skiff/skiff.env; set +a; /usr/local/bin/skiff server '--node-label' 'a=b c'\n"
	if !strings.HasSuffix(out, want) {
		t.Errorf("it says %q, want %q at the end", out, want)
	}
	if diff := cmp.Diff("SKIFF_NODE_NAME=\"a b\"\n", m.ReadFile("/etc/skiff/skiff.env")); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}
}
