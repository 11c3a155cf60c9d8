package crictl

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"skiff/internal/testkit"
)

var now = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

// fixture is a runtime with two pods, three containers and three images.
func fixture(t *testing.T) (*environment, *runtimeStub, *imageStub) {
	t.Helper()
	pod := func(id, name, ns string, state runtimeapi.PodSandboxState, age time.Duration) *runtimeapi.PodSandbox {
		return &runtimeapi.PodSandbox{
			Id: id, Metadata: &runtimeapi.PodSandboxMetadata{Name: name, Namespace: ns, Attempt: 1}, State: state, CreatedAt: now.Add(-age).UnixNano(),
			Labels: map[string]string{"app": name},
		}
	}
	container := func(id, pod, podName, ns, name string, attempt uint32, state runtimeapi.ContainerState, age time.Duration) *runtimeapi.Container {
		return &runtimeapi.Container{
			Id: id, PodSandboxId: pod, Metadata: &runtimeapi.ContainerMetadata{Name: name, Attempt: attempt}, State: state, CreatedAt: now.Add(-age).UnixNano(),
			Image: &runtimeapi.ImageSpec{Image: "sha256:0123456789abcdef0123"}, ImageRef: "sha256:0123456789abcdef0123",
			Labels: map[string]string{labelPodName: podName, labelPodNamespace: ns, "io.kubernetes.pod.uid": "uid-" + podName, "tier": name},
		}
	}
	log := filepath.Join(t.TempDir(), "0.log")
	lines := "2026-11-20T11:00:00.000000000Z stdout F first\n2026-11-20T11:30:00.000000000Z stderr F second\n2026-11-20T11:59:00.000000000Z stdout F third\n"
	if err := os.WriteFile(log, []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	r := &runtimeStub{
		pods: []*runtimeapi.PodSandbox{
			pod("aaaaaaaaaaaaaaaaaaaa", "web-1", "default", runtimeapi.PodSandboxState_SANDBOX_READY, time.Hour),
			pod("bbbbbbbbbbbbbbbbbbbb", "db-0", "data", runtimeapi.PodSandboxState_SANDBOX_NOTREADY, 48*time.Hour),
		},
		containers: []*runtimeapi.Container{
			container("dddddddddddddddddddd", "bbbbbbbbbbbbbbbbbbbb", "db-0", "data", "db", 0, runtimeapi.ContainerState_CONTAINER_RUNNING, 48*time.Hour),
			container("c1c1c1c1c1c1c1c1c1c1", "aaaaaaaaaaaaaaaaaaaa", "web-1", "default", "server", 2, runtimeapi.ContainerState_CONTAINER_RUNNING, time.Minute),
			container("c0c0c0c0c0c0c0c0c0c0", "aaaaaaaaaaaaaaaaaaaa", "web-1", "default", "server", 1, runtimeapi.ContainerState_CONTAINER_EXITED, time.Hour),
		},
		logs: map[string]string{"c1c1c1c1c1c1c1c1c1c1": "/none", "c0c0c0c0c0c0c0c0c0c0": log, "dddddddddddddddddddd": log},
	}
	i := &imageStub{images: []*runtimeapi.Image{
		{Id: "sha256:7777777777777777", RepoTags: []string{"skiff.local/pause:1"}, Size: 70000, Pinned: true},
		{Id: "sha256:0123456789abcdef0123", RepoTags: []string{"docker.io/library/web:1.2", "localhost:5000/web:latest"}, RepoDigests: []string{"docker.io/library/web@sha256:fedcba9876543210fedc"}, Size: 12345678},
		{Id: "sha256:9999999999999999", RepoDigests: []string{"quay.io/old@sha256:1111111111111111"}, Size: 999},
	}}
	return &environment{runtime: r, images: i, Getenv: func(string) string { return "" }, Now: func() time.Time { return now }, In: strings.NewReader("")}, r, i
}

// call runs crictl and returns everything it wrote, with the exit code.
func call(t *testing.T, e *environment, args ...string) (string, int) {
	t.Helper()
	var out bytes.Buffer
	e.Out, e.Err = &out, &out
	code := run(context.Background(), e, args)
	return out.String(), code
}

func TestGolden(t *testing.T) {
	var got strings.Builder
	for _, args := range []string{
		"ps", "ps -a", "ps -q", "ps -a --state exited", "ps --namespace ^data$ --no-trunc", "ps -a --name server --label tier=server -n 1", "ps --pod bbbbbbbbbbbbbbbbbbbb -q", "ps -l -q",
		"pods", "pods --state ready -q", "pods --name web --no-trunc", "pods -o yaml --label app=web-1",
		"images", "images --digests", "images -q", "img -v",
		"logs --tail 1 dddddddddddddddddddd", "logs -t dddddddddddddddddddd", "logs --since 45m dddddddddddddddddddd", "logs -p c1c1c1c1c1c1c1c1c1c1", "logs -p dddddddddddddddddddd",
		"version", "info -q",
		"ps --state running extra", "ps --state wrong", "ps -o wide", "ps --label x", "ps --name (", "logs nobody", "logs --since yesterday c1c1c1c1c1c1c1c1c1c1", "rm", "rmi nobody", "nonsense", "pod", "ps --nonsense", "inspect -o yaml c1c1c1c1c1c1c1c1c1c1",
	} {
		e, _, _ := fixture(t)
		out, code := call(t, e, strings.Fields(args)...)
		got.WriteString("$ crictl " + args + "\n" + out)
		if code != 0 {
			got.WriteString("(exit code 1)\n")
		}
		got.WriteString("\n")
	}
	testkit.Golden(t, "testdata/output.golden", got.String())
}

func TestInspectIsJSON(t *testing.T) {
	e, _, _ := fixture(t)
	out, code := call(t, e, "inspect", "c1c1c1c1c1c1c1c1c1c1")
	var v struct {
		Status struct {
			ID, State string
			Metadata  struct{ Name string }
		}
		Info struct{ PID int }
	}
	if err := json.Unmarshal([]byte(out), &v); err != nil || code != 0 {
		t.Fatalf("exit code %d, %v:\n%s", code, err, out)
	}
	if v.Status.ID != "c1c1c1c1c1c1c1c1c1c1" || v.Status.State != "CONTAINER_RUNNING" || v.Status.Metadata.Name != "server" || v.Info.PID != 42 {
		t.Errorf("got %+v", v)
	}
}

func TestRemove(t *testing.T) {
	e, r, i := fixture(t)
	if out, code := call(t, e, "rm", "c1c1c1c1c1c1c1c1c1c1"); code == 0 || !strings.Contains(out, "running") {
		t.Errorf("a running container was removed: %s", out)
	}
	if out, code := call(t, e, "rm", "-f", "c1c1c1c1c1c1c1c1c1c1", "c0c0c0c0c0c0c0c0c0c0"); code != 0 {
		t.Errorf("rm -f: %s", out)
	}
	if len(r.containers) != 1 {
		t.Errorf("%d containers are left, want 1", len(r.containers))
	}
	if out, code := call(t, e, "rmp", "aaaaaaaaaaaaaaaaaaaa"); code == 0 {
		t.Errorf("a ready pod was removed: %s", out)
	}
	if out, code := call(t, e, "rmp", "-f", "-a"); code != 0 {
		t.Errorf("rmp -f -a: %s", out)
	}
	if len(r.pods) != 0 {
		t.Errorf("%d pods are left", len(r.pods))
	}
	if out, code := call(t, e, "rmi", "localhost:5000/web:latest"); code != 0 || len(i.images) != 2 {
		t.Errorf("rmi: %s", out)
	}
	r.containers = nil
	if out, code := call(t, e, "rmi", "--prune"); code != 0 || len(i.images) != 1 || !i.images[0].Pinned {
		t.Errorf("rmi --prune must leave pinned images only: %s", out)
	}
}

func TestPull(t *testing.T) {
	for _, args := range [][]string{{"--creds", "me:secret"}, {"--auth", "bWU6c2VjcmV0"}} {
		e, _, i := fixture(t)
		if out, code := call(t, e, append(append([]string{"pull"}, args...), "reg/new:1")...); code != 0 {
			t.Fatalf("pull: %s", out)
		}
		if len(i.pulled) != 1 || i.pulled[0].GetUsername() != "me" || i.pulled[0].GetPassword() != "secret" {
			t.Errorf("%v: pulled with %v", args, i.pulled)
		}
	}
}

func TestNotRunning(t *testing.T) {
	e, _, _ := fixture(t)
	e.runtime = nil
	e.Getenv = func(k string) string {
		if k == "CONTAINER_RUNTIME_ENDPOINT" {
			return filepath.Join(t.TempDir(), "none.sock")
		}
		return ""
	}
	out, code := call(t, e, "-t", "1s", "ps")
	if code != 1 || !strings.Contains(out, "is skiff running") || strings.Contains(out, "rpc error") {
		t.Errorf("exit code %d: %s", code, out)
	}
}

func TestCPUPercent(t *testing.T) {
	at := func(ts int64, used uint64) *runtimeapi.CpuUsage {
		return &runtimeapi.CpuUsage{Timestamp: ts, UsageCoreNanoSeconds: &runtimeapi.UInt64Value{Value: used}}
	}
	if got := cpuPercent(at(1000, 100), at(2000, 600)); got != 50 {
		t.Errorf("half a CPU is %v %%", got)
	}
	if got := cpuPercent(nil, at(2000, 600)); got != 0 {
		t.Errorf("a new container uses %v %%", got)
	}
	if got := cpuPercent(at(2000, 600), at(2000, 600)); got != 0 {
		t.Errorf("the same reading gives %v %%", got)
	}
}
