package e2e

import (
	"net/netip"
	"strings"
	"testing"

	"skiff/test/hosts"
	"skiff/test/images"
	corner "skiff/test/shop"
)

// TestShop uses every packaged service on a host with nothing but loopback, and
// again after a restart in the middle: no pod of ours appears, no image is
// pulled, and nothing is sent anywhere.
func TestShop(t *testing.T) {
	t.Parallel()
	h := newHost(t, hosts.Named("corner"), hosts.LoopbackOnly())
	capture := h.Capture(
		netip.MustParsePrefix("10.42.0.0/16"),   // pods
		netip.MustParsePrefix("10.43.0.0/16"),   // Services
		netip.MustParsePrefix("10.44.0.1/32"),   // the node's internal address
		netip.MustParsePrefix("169.254.0.0/16"), // link-local: never routed
	)
	h.StartServer()
	h.WaitReady()
	if pods := h.Kubectl("get", "pods", "-A", "--no-headers"); pods != "" {
		t.Errorf("pods on a fresh node:\n%s", pods)
	}
	s := corner.Open(t, h)
	s.Use()
	h.Restart()
	s.Use()
	for line := range strings.Lines(h.Kubectl("get", "pods", "-A", "--no-headers")) {
		if !strings.HasPrefix(line, corner.Namespace+" ") {
			t.Errorf("a pod that the shop has not made: %s", line)
		}
	}
	if log := h.Log(); strings.Contains(log, "PullImage") {
		t.Error("containerd's log tells of an image that was pulled")
	}
	for line := range strings.Lines(h.Run("skiff", "ctr", "-n", "k8s.io", "images", "ls", "-q")) {
		if name := strings.TrimSpace(line); !strings.HasPrefix(name, "sha256:") && !strings.HasPrefix(name, "skiff.local/pause:") && name != images.Tool {
			t.Errorf("image %s is in the store", name)
		}
	}
	s.Close()
	if sent := capture.NonLocal(); len(sent) > 0 {
		t.Errorf("sent to non-local addresses: %q", sent)
	}
}
