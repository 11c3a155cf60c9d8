package runtime_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"skiff/pkg/agent/images"
	"skiff/pkg/agent/runtime"
	applet "skiff/pkg/applet/containerd"
	"skiff/pkg/paths"
)

// inside marks the process that TestRuntime starts in namespaces of its own.
const inside = "SKIFF_TEST_INSIDE"

// TestMain is also containerd, as the skiff executable is.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "containerd" {
		if err := applet.Run(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// payload is where `make` leaves the helper executables.
const payload = "../../../build/payload"

// TestRuntime runs a real containerd: it starts, makes its pause image, runs a
// pod, is stopped and adopts the pod when it starts again.
func TestRuntime(t *testing.T) {
	if os.Getenv(inside) == "" {
		outside(t)
		return
	}
	for _, m := range [][3]string{{"proc", "/proc", "proc"}, {"tmpfs", "/run", "tmpfs"}} {
		if err := unix.Mount(m[0], m[1], m[2], 0, ""); err != nil {
			t.Fatal(err)
		}
	}
	dir := os.Getenv(inside)
	h := &host{t: t, notes: map[string]string{}, layout: paths.Layout{Data: filepath.Join(dir, "data"), Etc: filepath.Join(dir, "etc"), Run: filepath.Join(dir, "run")}}
	h.stage()
	h.dropIn("test-handler.toml", `version = 3
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.test-handler]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.test-handler.options]
BinaryName = "`+filepath.Join(h.layout.Bin(), "runc")+`"
`)

	h.dropIn("broken.toml", "version = 3\n[plugins\n")
	h.dropIn("wrong.toml", "version = 3\n[plugins.\"io.containerd.cri.v1.images\"]\nmax_concurrent_downloads = \"many\"\n")

	stop := h.start()
	if got := h.handlers(); !slices.Contains(got, "test-handler") || !slices.Contains(got, "runc") {
		t.Errorf("runtime handlers = %q, want runc and that of the drop-in", got)
	}
	pod := h.runPod()

	h.putArchive("broken.tar", []byte(strings.Repeat("no archive", 100)))
	h.eventually("note on broken.tar", func() bool { return strings.Contains(h.note("images/broken.tar"), "not a tar archive") })
	h.putArchive("broken.tar", nil)
	if err := os.Remove(filepath.Join(h.layout.Images(), "broken.tar")); err != nil {
		t.Fatal(err)
	}
	h.eventually("no note on broken.tar", func() bool { return h.note("images/broken.tar") == "" })

	h.registries("mirrors:\n  docker.io:\n    endpoint: [\"http://127.0.0.1:5000\"]\n")
	hosts := filepath.Join(h.layout.Certs(), "docker.io", "hosts.toml")
	h.eventually("hosts.toml", func() bool { _, err := os.Stat(hosts); return err == nil })

	// A file that makes no sense changes nothing.
	h.registries("mirrors:\n  docker.io:\n    endpoint: [\"ftp://x\"]\n")
	h.eventually("note on registries.yaml", func() bool { return strings.Contains(h.note("registries"), "line 3: mirrors.docker.io.endpoint") })
	if _, err := os.Stat(hosts); err != nil {
		t.Errorf("a broken registries.yaml: %v", err)
	}
	if got := h.note("containerd/broken.toml"); !strings.Contains(got, "line 2") {
		t.Errorf("note on broken.toml = %q, want one that names line 2", got)
	}
	if got := h.note("containerd/wrong.toml"); !strings.Contains(got, "containerd: ") {
		t.Errorf("note on wrong.toml = %q, want containerd's words", got)
	}

	// Identity tokens are read by containerd at its start only, so it is
	// restarted; passwords are not.
	before := h.pid()
	h.registries("configs:\n  r.example:\n    auth: {username: somebody, password: secret}\n")
	secret := filepath.Join(h.layout.Certs(), "r.example", "hosts.toml")
	h.eventually("password applied", func() bool { _, err := os.Stat(secret); return err == nil && h.note("registries") == "" })
	if h.pid() != before {
		t.Error("containerd was restarted for a password")
	}
	h.registries("configs:\n  r.example:\n    auth: {token: somebody}\n")
	h.eventually("containerd restarted", func() bool { p := h.pid(); return p != "" && p != before && h.rt.Ready(t.Context()) == nil })
	config, err := os.ReadFile(h.layout.ContainerdConfig())
	if err != nil || !strings.Contains(string(config), "somebody") {
		t.Errorf("the credentials are not in containerd's configuration (%v)", err)
	}
	if got := h.podState(pod); got != cri.PodSandboxState_SANDBOX_READY {
		t.Errorf("state of the pod after containerd's restart = %v, want ready", got)
	}
	stop()

	stop = h.start()
	defer stop()
	if got := h.podState(pod); got != cri.PodSandboxState_SANDBOX_READY {
		t.Errorf("state of the pod after a restart = %v, want ready", got)
	}
	h.removePod(pod)
}

// outside runs this test in new namespaces, so that nothing it leaves behind
// can hurt: they die with it.
func outside(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	if _, err := os.Stat(filepath.Join(payload, "runc")); err != nil {
		t.Skip("needs the payload; run make first")
	}
	dir := t.TempDir()
	t.Cleanup(func() {
		dirs, _ := filepath.Glob("/sys/fs/cgroup/*/skiff-runtime-test")
		for _, d := range dirs {
			_ = os.Remove(d)
		}
	})
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestRuntime$", "-test.v")
	cmd.Env = append(os.Environ(), inside+"="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:   unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
		Unshareflags: unix.CLONE_NEWNS,
		Pdeathsig:    syscall.SIGKILL,
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}

type host struct {
	t      *testing.T
	layout paths.Layout
	rt     *runtime.Runtime

	mu    sync.Mutex
	notes map[string]string // guarded by mu
}

// Set and Clear make host the Notes of an Importer.
func (h *host) Set(key, message string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.notes[key] = message
}

func (h *host) Clear(key string) { h.Set(key, "") }

func (h *host) note(key string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.notes[key]
}

func (h *host) stage() {
	h.t.Helper()
	for _, d := range []string{h.layout.Bin(), h.layout.Etc, h.layout.Images(), h.layout.ContainerdDropIns()} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			h.t.Fatal(err)
		}
	}
	for _, name := range []string{"runc", "containerd-shim-runc-v2", "pause", "loopback"} {
		data, err := os.ReadFile(filepath.Join(payload, name))
		if err != nil {
			h.t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(h.layout.Bin(), name), data, 0o755); err != nil {
			h.t.Fatal(err)
		}
	}
}

func (h *host) dropIn(name, text string) {
	h.t.Helper()
	if err := os.WriteFile(filepath.Join(h.layout.ContainerdDropIns(), name), []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) registries(text string) {
	h.t.Helper()
	if err := os.WriteFile(h.layout.RegistriesFile(), []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) putArchive(name string, data []byte) {
	h.t.Helper()
	if err := os.WriteFile(filepath.Join(h.layout.Images(), name), data, 0o600); err != nil {
		h.t.Fatal(err)
	}
}

// start runs containerd and the importer until the returned function is called.
func (h *host) start() (stop func()) {
	h.t.Helper()
	logger := slog.New(slog.NewTextHandler(os.Stdout, nil))
	h.rt = &runtime.Runtime{Layout: h.layout, Snapshotter: "auto", PauseImage: "skiff.local/pause:test", RestrictOOM: true, Registries: h.layout.RegistriesFile(), Path: os.Getenv("PATH"), Notes: h, Logger: logger}
	imp := &images.Importer{Layout: h.layout, PauseName: "skiff.local/pause:test", Snapshotter: h.rt.ChosenSnapshotter, Notes: h, Logger: logger}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	begin := time.Now()
	wg.Go(func() {
		if err := h.rt.Run(ctx); err != nil && ctx.Err() == nil {
			h.t.Errorf("containerd: %v", err)
		}
	})
	h.eventually("containerd is ready", func() bool { return h.rt.Ready(ctx) == nil })
	ready := time.Since(begin)
	if err := imp.EnsurePause(ctx); err != nil {
		h.t.Fatal(err)
	}
	h.t.Logf("containerd ready after %s, pause image after %s", ready, time.Since(begin))
	wg.Go(func() {
		if err := imp.Run(ctx); err != nil && ctx.Err() == nil {
			h.t.Errorf("images: %v", err)
		}
	})
	return func() {
		begin := time.Now()
		cancel()
		wg.Wait()
		h.t.Logf("stopped in %s", time.Since(begin))
	}
}

// pid finds containerd among this process' children.
func (h *host) pid() string {
	h.t.Helper()
	list, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range list {
		data, err := os.ReadFile(file)
		if err == nil && strings.HasPrefix(string(data), "containerd\x00") {
			return filepath.Base(filepath.Dir(file))
		}
	}
	return ""
}

func (h *host) client() cri.RuntimeServiceClient {
	h.t.Helper()
	conn, err := grpc.NewClient(h.rt.Endpoint(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = conn.Close() })
	return cri.NewRuntimeServiceClient(conn)
}

func (h *host) handlers() []string {
	h.t.Helper()
	s, err := h.client().Status(h.t.Context(), &cri.StatusRequest{})
	if err != nil {
		h.t.Fatal(err)
	}
	var names []string
	for _, rh := range s.RuntimeHandlers {
		names = append(names, rh.Name)
	}
	return names
}

func (h *host) runPod() string {
	h.t.Helper()
	begin := time.Now()
	r, err := h.client().RunPodSandbox(h.t.Context(), &cri.RunPodSandboxRequest{Config: &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: "p", Namespace: "default", Uid: "u1"},
		Linux: &cri.LinuxPodSandboxConfig{
			CgroupParent:    "/skiff-runtime-test",
			SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: &cri.NamespaceOption{Network: cri.NamespaceMode_NODE}},
		},
	}})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Logf("pod sandbox in %s", time.Since(begin))
	return r.PodSandboxId
}

func (h *host) podState(id string) cri.PodSandboxState {
	h.t.Helper()
	s, err := h.client().PodSandboxStatus(h.t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: id})
	if err != nil {
		h.t.Fatal(err)
	}
	return s.Status.State
}

func (h *host) removePod(id string) {
	h.t.Helper()
	c := h.client()
	if _, err := c.StopPodSandbox(h.t.Context(), &cri.StopPodSandboxRequest{PodSandboxId: id}); err != nil {
		h.t.Error(err)
	}
	if _, err := c.RemovePodSandbox(h.t.Context(), &cri.RemovePodSandboxRequest{PodSandboxId: id}); err != nil {
		h.t.Error(err)
	}
}

func (h *host) eventually(what string, ok func() bool) {
	h.t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			h.t.Fatalf("waited in vain: %s (containerd: %v)", what, h.rt.Ready(h.t.Context()))
		case <-tick.C:
		}
	}
}
