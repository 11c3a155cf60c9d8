package arm64

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"skiff/test/hosts"
	"skiff/test/images"
)

const (
	readyLimit = 15 * time.Minute
	bootLimit  = 40 * time.Minute
)

func TestMain(m *testing.M) {
	hosts.Init()
	os.Exit(m.Run())
}

// binary is the executable for arm64.
func binary(t *testing.T) string {
	t.Helper()
	if os.Getenv("SKIFF_ARM64") == "" {
		t.Skip("make arm64-test runs this: every instruction is translated")
	}
	path := os.Getenv("SKIFF_ARM64_BIN")
	if path == "" {
		path = filepath.Join(hosts.Root(t), "bin", "skiff-arm64")
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("find the executable for arm64: %v (run make ARCH=arm64)", err)
	}
	return path
}

// TestUserMode runs the server without a node on this machine's kernel.
func TestUserMode(t *testing.T) {
	skiff := binary(t)
	translate(t)
	h := hosts.New(t, hosts.Named("arm"), hosts.WithBinary(skiff))
	var v struct {
		Platform string
		Helpers  []struct{ Name, Version string }
	}
	out := h.Run("skiff", "version", "--verbose", "-o", "json")
	if err := json.Unmarshal([]byte(out), &v); err != nil || v.Platform != "linux/arm64" || len(v.Helpers) < 10 {
		t.Fatalf("skiff version: %v\n%s", err, out)
	}
	t.Log(h.Run("skiff", "version", "--verbose"))

	start := time.Now()
	h.StartServer("--disable-agent")
	hosts.Eventually(t, readyLimit, "/readyz", func() error {
		r := h.Exec("skiff", "kubectl", "get", "--raw", "/readyz")
		if r.Code != 0 || r.Stdout != "ok" {
			return fmt.Errorf("%s", r)
		}
		return nil
	})
	t.Logf("/readyz after %s", time.Since(start).Round(time.Second))
	h.Kubectl("create", "configmap", "written", "--from-literal=by=arm64")
	if got := h.Kubectl("get", "configmap", "written", "-o", "jsonpath={.data.by}"); got != "arm64" {
		t.Errorf("the object has %q", got)
	}
	h.Stop()
}

// translate makes the kernel run programs for arm64 by qemu, until the test
// ends. The translator is opened now, so hosts need not have it.
func translate(t *testing.T) {
	t.Helper()
	const dir, name = "/proc/sys/fs/binfmt_misc", "skiff-test-arm64"
	if _, err := os.Stat(filepath.Join(dir, "register")); err != nil {
		if err := unix.Mount("binfmt_misc", dir, "binfmt_misc", 0, ""); err != nil {
			t.Fatalf("mount binfmt_misc: %v", err)
		}
		t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	}
	qemu, err := exec.LookPath("qemu-aarch64-static")
	if err != nil {
		t.Fatalf("find the translator (Debian package qemu-user-static): %v", err)
	}
	entry := filepath.Join(dir, name)
	remove := func() { _ = os.WriteFile(entry, []byte("-1"), 0) }
	remove() // of a test that was killed
	rule := `:` + name + `:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:` +
		`\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:` + qemu + `:F`
	if err := os.WriteFile(filepath.Join(dir, "register"), []byte(rule), 0); err != nil {
		t.Fatalf("register qemu: %v", err)
	}
	t.Cleanup(remove)
}

// boot is the first process: the file system that the kernel unpacks cannot be
// pivoted away from, as containers need it, so everything moves to another.
const boot = `#!/bin/busybox sh
/bin/busybox --install -s /bin
/bin/busybox --install -s /sbin
mount -t proc proc /proc
mount -t tmpfs -o size=3g,mode=755 tmpfs /new
cp -a bin sbin etc lib tmp var node /new/
mkdir -p /new/proc /new/sys /new/dev /new/run
exec switch_root /new /node
`

// node is the machine's whole life. What the test reads begins with "test:".
const node = `#!/bin/busybox sh
export PATH=/bin:/sbin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; mount -t tmpfs run /run
mkdir -p /dev/pts /dev/shm; mount -t devpts pts /dev/pts; mount -t tmpfs shm /dev/shm; mount -t cgroup2 cgroup /sys/fs/cgroup
ip link set lo up; hostname arm; echo 127.0.0.1 localhost arm >/etc/hosts # containerd copies it for pods
step() { echo "test: $* after $(cut -d. -f1 /proc/uptime) s"; }
fail() { echo "test: FAILED $*"; tail -n 60 /run/log; skiff status; skiff kubectl get pods -A -o wide; skiff kubectl describe pod web; poweroff -f; }
step "booted $(uname -rm)"
skiff server >/run/log 2>&1 &
for i in $(seq 120); do skiff status --wait 10s >/dev/null 2>&1 && break; [ -d /proc/$! ] || fail "skiff has ended"; done
skiff status >/dev/null || fail "the node is not ready"
step "node ready"
skiff kubectl get nodes -o wide
skiff kubectl run web --image=` + images.Tool + ` --image-pull-policy=Never || fail "run the pod"
skiff kubectl wait --for=condition=Ready --timeout=600s pod/web || fail "the pod is not ready"
step "pod ready"
skiff kubectl exec web -- /bin/busybox uname -m >/run/machine || fail "exec in the pod"
[ "$(cat /run/machine)" = aarch64 ] || fail "the pod runs on $(cat /run/machine)"
skiff kubectl exec web -- /tool lookup kubernetes.default >/run/name || fail "a name in the pod"
[ "$(cat /run/name)" = 10.43.0.1 ] || fail "the name is $(cat /run/name)"
step "PASSED"
sync; poweroff -f
`

// TestMachine runs a whole node, and a pod, under Debian's kernel for arm64.
func TestMachine(t *testing.T) {
	skiff := binary(t)
	m := Machine{Dir: t.TempDir(), Scripts: map[string]string{"init": boot, "node": node}}
	tool := toolImage(t, m.Dir)
	m.Files = map[string]string{"bin/skiff": skiff, "var/lib/skiff/agent/images/tool.tar": tool}
	ctx, cancel := context.WithTimeout(t.Context(), bootLimit)
	defer cancel()
	passed := false
	err := m.Run(ctx, func(line string) {
		t.Log(line)
		passed = passed || strings.HasPrefix(line, "test: PASSED")
	})
	if !passed {
		t.Fatalf("the machine has not passed its test: %v", errors.Join(err, ctx.Err()))
	}
}

// toolImage is the test image for arm64.
func toolImage(t *testing.T, dir string) string {
	t.Helper()
	tool := filepath.Join(dir, "tool")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", tool, "./test/images/tool")
	build.Dir, build.Env = hosts.Root(t), append(os.Environ(), "CGO_ENABLED=0", "GOARCH=arm64")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build test/images/tool: %v\n%s", err, out)
	}
	root := filepath.Join(dir, "root")
	if err := fetch(dir, root); err != nil {
		t.Fatal(err)
	}
	layout := images.Layout{Dir: filepath.Join(dir, "layout")}
	image := images.Image{Ref: images.Tool, Cmd: []string{"/tool", "serve"}, Architecture: "arm64", Layers: []images.Layer{
		images.Dirs(0o755, "bin", "etc", "proc", "sys", "dev"), images.Dirs(0o1777, "tmp"),
		images.Executable(filepath.Join(root, "bin/busybox"), "bin/busybox"), images.Executable(tool, "tool"),
	}}
	if err := layout.Add(image); err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(dir, "tool.tar")
	if err := layout.ArchiveFile(images.Tool, archive); err != nil {
		t.Fatal(err)
	}
	return archive
}
