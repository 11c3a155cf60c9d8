package e2e

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"skiff/test/hosts"
)

// TestNode tells the life of one node. Scenarios that do not disturb each
// other share it and run side by side; those that stop it come last.
func TestNode(t *testing.T) {
	t.Parallel()
	h := newHost(t, hosts.Named("node"))
	h.StartServer()
	h.WaitReady()
	t.Run("first start", func(t *testing.T) { firstStart(t, h.For(t)) })
	t.Run("used address", func(t *testing.T) { usedAddress(t, h.For(t)) })

	t.Run("together", func(t *testing.T) {
		for name, scenario := range map[string]func(*testing.T, *hosts.Host){
			"web":           web,
			"volumes":       volumes,
			"probes":        probes,
			"limits":        limits,
			"jobs":          jobs,
			"stateful":      stateful,
			"daemon":        daemon,
			"dns":           dns,
			"manifests":     manifests,
			"images":        droppedImages,
			"second server": secondServer,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				scenario(t, h.For(t))
			})
		}
	})
	if t.Failed() {
		return // a broken node would only fail again
	}
	t.Run("restarts", func(t *testing.T) { restarts(t, h.For(t)) })
	t.Run("write load", func(t *testing.T) { writeLoad(t, h.For(t)) })
	t.Run("power cut", func(t *testing.T) { powerCut(t, h.For(t)) })
}

// firstStart checks what a person sees who has just started skiff.
func firstStart(t *testing.T, h *hosts.Host) {
	pods := h.Exec("skiff", "kubectl", "get", "pods", "-A")
	if pods.Code != 0 || strings.TrimSpace(pods.Stdout) != "" {
		t.Errorf("a fresh node has pods: %s", pods)
	}
	contains(t, "kubectl get node", h.Kubectl("get", "node", h.Name(), "--no-headers"), " Ready ")
	contains(t, "kubectl version", h.Kubectl("version"), "Server Version: v1.36.3")
	contains(t, "skiff version", h.Run("skiff", "version"), "1.36.3")
	info, err := os.Stat(h.Path("/etc/skiff/skiff.yaml"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("kubeconfig: %v %v, want mode 0600", info, err)
	}

	status := h.Status("-o", "json")
	var report struct {
		Ready      bool
		Components []struct{ Name, State string }
	}
	if err := json.Unmarshal([]byte(status.Stdout), &report); err != nil || status.Code != 0 {
		t.Fatalf("skiff status -o json: %v %s", err, status)
	}
	if !report.Ready || len(report.Components) == 0 {
		t.Errorf("status is not ready: %s", status)
	}
	for _, c := range report.Components {
		if c.State != "ready" {
			t.Errorf("component %s is %s", c.Name, c.State)
		}
	}
}
