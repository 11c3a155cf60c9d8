package halt

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"skiff/internal/lockfile"
	"skiff/pkg/paths"
)

// holderVar makes this executable one that holds a lock, in the way it says.
const holderVar = "SKIFF_TEST_HOLDER"

func TestMain(m *testing.M) {
	if how := os.Getenv(holderVar); how != "" {
		if err := hold(how, os.Args[1]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func hold(how, file string) error {
	terminate := make(chan os.Signal, 1)
	signal.Notify(terminate, syscall.SIGTERM)
	lock, err := lockfile.Acquire(file)
	if err != nil {
		return err
	}
	if err := os.WriteFile(file+".ready", nil, 0o600); err != nil {
		return err
	}
	for range terminate {
		if how == "politely" {
			return lock.Release()
		}
	}
	return nil
}

// holder starts a process that holds the lock of a layout.
func holder(t *testing.T, layout paths.Layout, how string) *os.Process {
	t.Helper()
	if err := os.MkdirAll(layout.Data, 0o755); err != nil {
		t.Fatal(err)
	}
	p, err := os.StartProcess("/proc/self/exe", []string{"holder", layout.LockFile()}, &os.ProcAttr{
		Env: []string{holderVar + "=" + how}, Files: []*os.File{nil, nil, os.Stderr},
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { // or it would stay a zombie, whose files nobody can look at
		defer close(done)
		_, _ = p.Wait()
	}()
	t.Cleanup(func() { _ = p.Kill(); <-done })
	for deadline := time.Now().Add(10 * time.Second); ; <-time.After(5 * time.Millisecond) {
		if _, err := os.Stat(layout.LockFile() + ".ready"); err == nil {
			return p
		}
		if time.Now().After(deadline) {
			t.Fatal("the process does not hold the lock")
		}
	}
}

func newHalt(t *testing.T) (*Halt, *[]string) {
	t.Helper()
	dir := t.TempDir()
	var said []string
	return &Halt{
		Layout: paths.Layout{Data: filepath.Join(dir, "data"), Run: filepath.Join(dir, "run"), Etc: filepath.Join(dir, "etc")},
		Run: func(context.Context, string, ...string) (string, error) {
			return "", fmt.Errorf("nothing is to be run here")
		},
		Say: func(format string, args ...any) { said = append(said, fmt.Sprintf(format, args...)) },
	}, &said
}

func TestStop(t *testing.T) {
	for how, want := range map[string]string{"politely": "", "never": "killing it"} {
		t.Run(how, func(t *testing.T) {
			h, said := newHalt(t)
			h.Patience = 300 * time.Millisecond
			if how == "politely" {
				h.Patience = 10 * time.Second
			}
			holder(t, h.Layout, how)
			lock, err := h.Stop(t.Context())
			if err != nil || lock == nil {
				t.Fatalf("lock %v, %v", lock, err)
			}
			if _, err := lockfile.Acquire(h.Layout.LockFile()); err == nil {
				t.Error("another skiff can start")
			}
			if err := lock.Release(); err != nil {
				t.Error(err)
			}
			if got := strings.Join(*said, "\n"); !strings.Contains(got, "stopping skiff") || !strings.Contains(got, want) || want == "" && strings.Contains(got, "killing") {
				t.Errorf("it says %q", got)
			}
		})
	}
}

// TestStopSleeper ends a process that a person has stopped by Ctrl-Z.
func TestStopSleeper(t *testing.T) {
	h, said := newHalt(t)
	p := holder(t, h.Layout, "politely")
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	lock, err := h.Stop(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := lock.Release(); err != nil {
		t.Error(err)
	}
	if got := strings.Join(*said, " "); strings.Contains(got, "killing") {
		t.Errorf("it says %q", got)
	}
}

func TestStopNothing(t *testing.T) {
	h, _ := newHalt(t)
	if lock, err := h.Stop(t.Context()); lock != nil || err != nil {
		t.Errorf("without a data directory: %v, %v", lock, err)
	}
	if err := os.MkdirAll(h.Layout.Data, 0o755); err != nil {
		t.Fatal(err)
	}
	lock, err := h.Stop(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := lock.Release(); err != nil {
		t.Error(err)
	}
}

// TestStopStranger does not touch a process that only has the number which a
// skiff in another container has written into its lock.
func TestStopStranger(t *testing.T) {
	h, _ := newHalt(t)
	holder(t, h.Layout, "never")
	if err := os.WriteFile(h.Layout.LockFile(), []byte(fmt.Sprintln(os.Getppid())), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Stop(t.Context()); err == nil || !strings.Contains(err.Error(), "container") {
		t.Errorf("error %v", err)
	}
}

func TestIsHelper(t *testing.T) {
	h := &Halt{Layout: paths.New(paths.DefaultData)}
	tests := []struct {
		name string
		args string
		want bool
	}{
		{"shim", "/var/lib/skiff/bin/containerd-shim-runc-v2 -namespace k8s.io -id 1 -address /run/skiff/containerd/containerd.sock", true},
		{"another containerd's shim", "/usr/bin/containerd-shim-runc-v2 -namespace moby -id 1 -address /run/containerd/containerd.sock", false},
		{"containerd", "containerd -c /var/lib/skiff/agent/etc/containerd/config.toml", true},
		{"another containerd", "/usr/bin/containerd", false},
		{"a person who looks", "cat /var/lib/skiff/agent/etc/containerd/config.toml", false},
		{"a person who greps", "grep -- containerd -c /var/lib/skiff/agent/etc/containerd/config.toml", false},
		{"kernel thread", "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := h.isHelper(strings.Split(tt.args, " ")); got != tt.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

func TestBundles(t *testing.T) {
	h, _ := newHalt(t)
	tasks := filepath.Join(h.Layout.ContainerdRun(), "io.containerd.runtime.v2.task", "k8s.io")
	for id, config := range map[string]string{
		"a": `{"linux":{"cgroupsPath":"/kubepods/burstable/pod1/a"}}`,
		"b": `{"linux":{"cgroupsPath":"kubepods-pod1.slice:cri-containerd:b"}}`,
		"c": `{"linux":{"cgroupsPath":"/"}}`,
		"d": `{"linux":`,
	} {
		if err := os.MkdirAll(filepath.Join(tasks, id), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(tasks, id, "config.json"), []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	all, err := h.bundles()
	if err != nil || len(all) != 3 {
		t.Fatalf("%v, %v", all, err)
	}
	for i, want := range []string{"/kubepods/burstable/pod1/a", "", ""} {
		if got := all[i].cgroup(); got != want {
			t.Errorf("%s is in %q, want %q", all[i].id, got, want)
		}
	}
}

func TestGrace(t *testing.T) {
	for text, want := range map[string]time.Duration{"7": 7 * time.Second, "0": 0, "": defaultGrace, "-3": defaultGrace, "x": defaultGrace} {
		if got := graceOf(map[string]string{graceNote: text}); got != want {
			t.Errorf("%q is %s, want %s", text, got, want)
		}
	}
}

func TestInGroup(t *testing.T) {
	for text, want := range map[string]bool{
		"0::/system.slice/skiff.service\n":                                       true,
		"0::/system.slice/skiff.service/.control\n":                              true,
		"4:memory:/\n1:name=systemd:/system.slice/skiff.service\n0::/\n":         true,
		"0::/user.slice/user-0.slice/session-1.scope\n":                          false,
		"0::/system.slice/myskiff.service\n":                                     false,
		"0::/system.slice/ssh.service\n1:name=systemd:/system.slice/ssh.service": false,
		"": false,
	} {
		if got := inGroup(text, "skiff.service"); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}
