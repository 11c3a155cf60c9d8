package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/test/hosts"
)

const serverDir = "/var/lib/skiff/server"

// snapshots lists what `skiff snapshot ls` shows.
func snapshots(t *testing.T, h *hosts.Host) []snapshotInfo {
	t.Helper()
	var list []snapshotInfo
	if out := h.Run("skiff", "snapshot", "ls", "-o", "json"); json.Unmarshal([]byte(out), &list) != nil {
		t.Fatalf("skiff snapshot ls: %s", out)
	}
	return list
}

type snapshotInfo struct{ Name, Path, Kind, Node, Problem string }

// TestSnapshot loses a namespace and gets it back, and then loses the machine.
func TestSnapshot(t *testing.T) {
	t.Parallel()
	network := hosts.NewNetwork(t)
	h := newHost(t, hosts.Named("first"), hosts.On(network))
	h.WriteFile("/etc/skiff/config.yaml", "node-label: [site=harbour]\nsnapshot-interval: 10s\nsnapshot-keep: 2\n")
	h.StartServer()
	h.WaitReady()
	s := newSpace(t, h, "kept")
	s.apply(keptApp)
	s.kubectl("create", "configmap", "note", "--from-literal=text=remember")
	s.ready("app=kept", 2)
	kubeconfig := h.ReadFile("/etc/skiff/skiff.yaml")

	saved := strings.Fields(h.Run("skiff", "snapshot", "save", "--name", "before"))[0]
	contains(t, "verify", h.Run("skiff", "snapshot", "verify", saved), "is sound: node first")
	if info, err := os.Stat(h.Path(saved)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the archive: %v, %v; want mode 0600", info, err)
	}
	scheduledSnapshots(t, s)

	refused := h.Exec("skiff", "snapshot", "restore", saved)
	oneError(t, refused, "is running on --data-dir", "stop it before restoring")

	s.kubectl("create", "configmap", "late", "--from-literal=text=lost")
	s.Kubectl("delete", "namespace", "kept")
	h.Stop()
	restored := h.Run("skiff", "snapshot", "restore", saved)
	contains(t, "restore", restored, "node first as of", "server.before-restore-", "Next: start skiff server")
	h.Start()
	h.WaitReady()
	contains(t, "the node", h.Kubectl("get", "node", "first", "--no-headers"), " Ready ")
	h.WriteFile("/tmp/old.yaml", kubeconfig)
	contains(t, "the object, with the old kubeconfig",
		h.Kubectl("--kubeconfig", "/tmp/old.yaml", "-n", "kept", "get", "configmap", "note", "-o", "yaml"), "text: remember")
	if _, err := s.kube.CoreV1().ConfigMaps("kept").Get(t.Context(), "late", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("what was made after the snapshot: %v, want that it is gone", err)
	}
	s.ready("app=kept", 2)
	s.eventually("the NodePort after the restore", func() error { return answersOK(network, "http://"+h.Addr()+":30090/") })
	if !strings.Contains(fmt.Sprint(snapshots(t, h)), "before-first-") {
		t.Error("the snapshots are gone after the restore")
	}

	anotherMachine(t, h, network, saved)
}

// scheduledSnapshots waits until the server has made more than it may keep.
func scheduledSnapshots(t *testing.T, s *space) {
	t.Helper()
	seen := make(map[string]bool)
	s.eventually("three scheduled snapshots", func() error {
		kept := 0
		for _, i := range snapshots(t, s.Host) {
			if i.Kind == "scheduled" && i.Problem == "" {
				seen[i.Name] = true
				kept++
			}
		}
		if kept > 2 {
			t.Errorf("%d scheduled snapshots are there, want 2 at most", kept)
		}
		if len(seen) < 3 {
			return fmt.Errorf("seen so far: %v", seen)
		}
		return nil
	})
}

// anotherMachine restores the snapshot on a machine that has never run skiff,
// and does what the restore says.
func anotherMachine(t *testing.T, first *hosts.Host, network *hosts.Network, saved string) {
	t.Helper()
	h := newHost(t, hosts.Named("second"), hosts.On(network))
	h.WriteFile("/tmp/moved.tar.zst", first.ReadFile(saved))
	first.PowerCut()

	restored := h.Run("skiff", "snapshot", "restore", "/tmp/moved.tar.zst")
	contains(t, "restore", restored, "This machine joins as node second", "skiff kubectl delete node first", "/etc/skiff/config.yaml")
	contains(t, "configuration", h.ReadFile("/etc/skiff/config.yaml"), "site=harbour")
	h.StartServer()
	h.WaitReady()
	h.Kubectl("delete", "node", "first")
	s := newSpace(t, h, "kept")
	s.eventually("the pods to be on this machine", func() error {
		for _, p := range s.pods("app=kept") {
			if p.Spec.NodeName != "second" {
				return fmt.Errorf("pod %s is on %q", p.Name, p.Spec.NodeName)
			}
		}
		return nil
	})
	s.ready("app=kept", 2)
	s.eventually("the NodePort on the other machine", func() error { return answersOK(network, "http://"+h.Addr()+":30090/") })
	contains(t, "the object", s.kubectl("get", "configmap", "note", "-o", "yaml"), "text: remember")
	if _, err := os.Stat(h.Path(serverDir + "/token")); err != nil {
		t.Error(err)
	}
}
