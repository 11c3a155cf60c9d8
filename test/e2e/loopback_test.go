package e2e

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"skiff/test/hosts"
)

// TestLoopbackOnly starts skiff on a host without any network interface: all
// works on the node, nothing is sent anywhere, and a NIC that appears later
// disturbs nothing.
func TestLoopbackOnly(t *testing.T) {
	t.Parallel()
	h := newHost(t, hosts.Named("island"), hosts.LoopbackOnly())
	capture := h.Capture(
		netip.MustParsePrefix("10.42.0.0/16"),   // pods
		netip.MustParsePrefix("10.43.0.0/16"),   // Services
		netip.MustParsePrefix("10.44.0.1/32"),   // the node's internal address
		netip.MustParsePrefix("169.254.0.0/16"), // link-local: never routed
	)
	h.StartServer()
	h.WaitReady()
	contains(t, "kubectl get node", h.Kubectl("get", "node", "island", "--no-headers"), " Ready ")

	s := newSpace(t, h, "island")
	s.client("client")
	apiReachable(s, "client")
	s.apply(keptApp)
	s.ready("app=kept", 2)
	s.eventually("a Service by name", func() error {
		_, err := s.tryIn("client", "/tool", "get", "http://kept/")
		return err
	})
	s.eventually("the NodePort on the internal address", func() error { return answersOK(h, "http://10.44.0.1:30090/") })
	contains(t, "exec", s.in("client", "hostname"), "client")
	if sent := capture.NonLocal(); len(sent) > 0 {
		t.Errorf("sent to non-local addresses: %q", sent)
	}

	before, pid := s.containerIDs(), h.Skiff().PID()
	h.AddNIC(hosts.NewNetwork(t))
	s.eventually("the NodePort on the new NIC", func() error { return answersOK(h.Network(), "http://"+h.Addr()+":30090/") })
	s.client("late")
	apiReachable(s, "late")
	s.kubectl("delete", "pod", "late", "--now")
	<-time.After(5 * time.Second) // time for a watcher of addresses to overreact
	s.sameContainers("a NIC appeared", before)
	if status := h.Status(); status.Code != 0 || h.Skiff().PID() != pid {
		t.Errorf("after a NIC appeared: %s", status)
	}
	s.eventually("the node to be ready", func() error {
		if out := h.Exec("skiff", "kubectl", "get", "node", "island", "--no-headers"); out.Code != 0 {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
}
