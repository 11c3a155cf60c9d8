package hosts

import (
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	Init()
	os.Exit(m.Run())
}

// busybox stands in for skiff: these tests are about the harness only.
func busybox(t *testing.T) Option {
	t.Helper()
	const path = "/bin/busybox"
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("find busybox: %v (install busybox-static)", err)
	}
	return WithBinary(path)
}

func TestHostHasItsOwnNamespaces(t *testing.T) {
	h := New(t, busybox(t), Named("alpha"))
	for _, ns := range []string{"net", "mnt", "uts", "pid", "ipc", "cgroup"} {
		mine, err := os.Readlink("/proc/self/ns/" + ns)
		if err != nil {
			t.Fatal(err)
		}
		if theirs := strings.TrimSpace(h.Run("readlink", "/proc/self/ns/"+ns)); theirs == mine {
			t.Errorf("%s namespace is the machine's: %s", ns, theirs)
		}
	}
	if got := strings.TrimSpace(h.Run("hostname")); got != "alpha" {
		t.Errorf("hostname = %q, want alpha", got)
	}
	for line := range strings.SplitSeq(strings.TrimSpace(h.Run("cat", "/proc/self/cgroup")), "\n") {
		if !strings.HasSuffix(line, ":/") && !strings.HasSuffix(line, "::/init") {
			t.Errorf("a host's process is not at the root of its cgroups: %s", line)
		}
	}
	if got := h.ReadFile("/etc/hostname"); got != "alpha\n" {
		t.Errorf("/etc/hostname = %q", got)
	}
}

func TestHostKeepsTheMachineClean(t *testing.T) {
	h := New(t, busybox(t))
	if r := h.Exec("touch", "/usr/oops"); r.Code == 0 || !strings.Contains(r.Stderr, "Read-only") {
		t.Errorf("a write to the machine's root went through: %s", r)
	}
	for _, dir := range []string{"/etc", "/run", "/tmp", "/var/lib", "/var/log", "/dev/shm"} {
		h.Run("touch", dir+"/from-host")
		if _, err := os.Stat(dir + "/from-host"); err == nil {
			t.Errorf("%s is the machine's", dir)
		}
	}
	if _, err := os.Stat(h.Path("/var/lib/from-host")); err != nil {
		t.Errorf("Path does not lead to the host's file: %v", err)
	}
}

func TestCgroupsLimit(t *testing.T) {
	h := New(t, busybox(t))
	script := `set -e; r=/sys/fs/cgroup
if [ -e $r/cgroup.controllers ]; then mkdir $r/x; echo 16777216 >$r/x/memory.max; echo 0 >$r/x/memory.swap.max || true; echo $$ >$r/x/cgroup.procs
else mkdir $r/memory/x; echo 16777216 >$r/memory/x/memory.limit_in_bytes; echo $$ >$r/memory/x/cgroup.procs; fi
exec dd if=/dev/zero of=/dev/null bs=64M count=1`
	p := h.Spawn(Command{Args: []string{"sh", "-c", script}})
	if code := p.Wait(); code != 128+int(syscall.SIGKILL) {
		t.Errorf("a process over its memory limit ended with %d, want to be killed", code)
	}
}

func TestExec(t *testing.T) {
	h := New(t, busybox(t))
	r := h.ExecWith(Command{Args: []string{"sh", "-c", "cat; echo $X >&2; exit 7"}, Stdin: strings.NewReader("in"), Env: []string{"X=err"}})
	if r.Code != 7 || r.Stdout != "in" || r.Stderr != "err\n" {
		t.Errorf("got %s", r)
	}
	if r := h.Exec("no-such-program"); r.Code != 127 || r.Err == "" {
		t.Errorf("a missing program gives %s", r)
	}
}

func TestNetwork(t *testing.T) {
	n := NewNetwork(t)
	a, b := New(t, busybox(t), On(n)), New(t, busybox(t), On(n))
	l := a.ListenIn(":8080")
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("hello")) })}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	for name, from := range map[string]Dialer{"itself": a, "neighbour": b, "network": n} {
		code, body, err := Get(from, "http://"+a.Addr()+":8080/")
		if err != nil || code != 200 || body != "hello" {
			t.Errorf("from %s: %d %q %v", name, code, body, err)
		}
	}
	// The machine's own network may answer for any address, but not as the host does.
	if _, body, err := Get(&net.Dialer{Timeout: time.Second}, "http://"+a.Addr()+":8080/"); err == nil && body == "hello" {
		t.Error("the machine reaches the host")
	}
}

func TestLoopbackOnlyThenNIC(t *testing.T) {
	h := New(t, busybox(t), LoopbackOnly())
	links := func() string { return h.Run("ls", "/sys/class/net") }
	if got := strings.Fields(links()); len(got) != 1 || got[0] != "lo" {
		t.Errorf("links = %v, want lo only", got)
	}
	capture := h.Capture()
	h.Run("/bin/busybox", "ping", "-c", "1", "-W", "2", "127.0.0.1")
	if got := capture.NonLocal(); len(got) != 0 {
		t.Errorf("loopback traffic counts as sent elsewhere: %v", got)
	}
	h.AddNIC(NewNetwork(t))
	if got := links(); !strings.Contains(got, "eth0") {
		t.Errorf("links = %q after a NIC was added", got)
	}
	h.Run("/bin/busybox", "ping", "-c", "1", "-W", "2", h.Network().Gateway())
	if got := strings.Join(capture.NonLocal(), " "); !strings.Contains(got, h.Network().Gateway()) {
		t.Errorf("the capture has missed a ping: %q", got)
	}
}

func TestPowerCutKeepsTheDiskOnly(t *testing.T) {
	h := New(t, busybox(t))
	h.WriteFile("/var/lib/kept", "yes")
	h.Run("touch", "/run/lost")
	p := h.Spawn(Command{Args: []string{"sleep", "1000"}})
	h.PowerCut()
	if code := p.Wait(); code != 137 {
		t.Errorf("a process of a host without power ended with %d", code)
	}
	h.Boot()
	if got := h.Run("cat", "/var/lib/kept"); got != "yes" {
		t.Errorf("the disk has %q", got)
	}
	if r := h.Exec("ls", "/run/lost"); r.Code == 0 {
		t.Error("/run survived")
	}
	h.Run("/bin/busybox", "ping", "-c", "1", "-W", "2", h.Network().Gateway())
}

// TestPowerCutPullsThePlug keeps the namespace of a dead host alive by a socket
// in it: the host that is booted at the same address must not meet it on the
// network.
func TestPowerCutPullsThePlug(t *testing.T) {
	h := New(t, busybox(t))
	serve := func(word string) {
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(word)) })}
		l := h.ListenIn(":8080")
		go func() { _ = server.Serve(l) }()
		t.Cleanup(func() { _ = server.Close() })
	}
	answer := func() string {
		_, body, err := Get(h.Network(), "http://"+h.Addr()+":8080/")
		if err != nil {
			t.Fatal(err)
		}
		return body
	}
	serve("old")
	if got := answer(); got != "old" {
		t.Fatalf("the host says %q", got)
	}
	h.PowerCut()
	if _, body, err := Get(h.Network(), "http://"+h.Addr()+":8080/"); err == nil {
		t.Errorf("a host without power says %q", body)
	}
	h.Boot()
	serve("new")
	if got := answer(); got != "new" {
		t.Errorf("after the power cut the host says %q", got)
	}
}

// TestMainThreadStaysOutside enters namespaces often enough for it to happen on
// the main thread, if that were not prevented. It would stay inside, as it does
// not end with its goroutine, and keep a host's namespace alive after a power cut.
func TestMainThreadStaysOutside(t *testing.T) {
	n := NewNetwork(t)
	for range 50 {
		if err := inNamespace(n.ns, func() error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	mine, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	if main, err := os.Readlink("/proc/self/ns/net"); err != nil || main != mine {
		t.Errorf("the main thread is in %s, want %s (%v)", main, mine, err)
	}
}

// TestNothingIsLeft runs a host with a stray process tree and nested cgroups
// and looks for traces afterwards.
func TestNothingIsLeft(t *testing.T) {
	var dir, id string
	var pid int
	t.Run("host", func(t *testing.T) {
		h := New(t, busybox(t))
		dir, id, pid = h.dir, h.id, h.on().pid
		h.Run("sh", "-c", `for d in /sys/fs/cgroup/memory /sys/fs/cgroup; do mkdir -p $d/a/b 2>/dev/null; done; setsid sleep 1000 >/dev/null 2>&1 &`)
		h.Run("mount", "-t", "tmpfs", "tmpfs", "/var/lib")
	})
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s is left: %v", dir, err)
	}
	if err := syscall.Kill(pid, 0); err != syscall.ESRCH {
		t.Errorf("the init is left: %v", err)
	}
	all, err := hierarchies()
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range all {
		if _, err := os.Stat(filepath.Join(h.Own, mark+"-"+id)); !os.IsNotExist(err) {
			t.Errorf("cgroup left in %s", h.Mount)
		}
	}
}

func TestReapTakesOnlyDeadHosts(t *testing.T) {
	h := New(t, busybox(t))
	dead := filepath.Join(baseDir(), "0-0-dead")
	if err := os.MkdirAll(filepath.Join(dead, "lib"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := touch(filepath.Join(dead, "lock")); err != nil {
		t.Fatal(err)
	}
	if err := Reap(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dead); !os.IsNotExist(err) {
		t.Errorf("a dead host's directory is left: %v", err)
	}
	h.Run("true") // the living host is untouched
}
