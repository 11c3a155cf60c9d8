package agent

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestNodeMissing tells a node that is not there yet from one that somebody has
// deleted, after which only a restart helps.
func TestNodeMissing(t *testing.T) {
	w := &nodeWatch{name: "attic"}
	check := func(want string) {
		t.Helper()
		if err := w.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Ready() = %v, want %q", err, want)
		}
	}
	check("node attic is not registered")
	w.set(&corev1.Node{})
	check("has not reported")
	w.set(nil)
	check("node attic was deleted from the cluster; restart skiff")
}
