package agent

import (
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The kernel's own version 2, with a process that stands for a container.
func TestLeaveCgroupRoot(t *testing.T) {
	mount := t.TempDir()
	if err := unix.Mount("cgroup2", mount, "cgroup2", 0, ""); err != nil {
		t.Skipf("no control groups of version 2 here: %v", err)
	}
	defer func() {
		if err := unix.Unmount(mount, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	root := filepath.Join(mount, fmt.Sprintf("skiff-test-%d", os.Getpid()))
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	container := exec.CommandContext(t.Context(), "sleep", "60")
	if err := container.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = container.Process.Kill()
		_ = container.Wait()
		for _, dir := range []string{filepath.Join(root, ownLeaf), root} {
			if err := os.Remove(dir); err != nil {
				t.Error(err)
			}
		}
	}()
	pid := fmt.Sprint(container.Process.Pid)
	if err := os.WriteFile(filepath.Join(root, "cgroup.procs"), []byte(pid), 0); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time there is nothing to do
		if err := leaveCgroupRoot(root, slog.New(slog.DiscardHandler)); err != nil {
			t.Fatal(err)
		}
		for dir, want := range map[string]string{root: "", filepath.Join(root, ownLeaf): pid} {
			got, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
			if err != nil || strings.TrimSpace(string(got)) != want {
				t.Errorf("processes of %s: %q, %v; want %q", dir, got, err, want)
			}
		}
	}
}

// The real root, and a host with version 1, are left alone.
func TestLeaveCgroupRootElsewhere(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := leaveCgroupRoot(dir, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, ownLeaf)); !os.IsNotExist(err) {
		t.Errorf("a group was made: %v", err)
	}
}
