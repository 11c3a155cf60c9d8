package cli

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"skiff/pkg/config"
)

func TestPorts(t *testing.T) {
	cfg := config.Default()
	cfg.Server.BindAddress = netip.MustParseAddr("192.0.2.5")
	completed, err := cfg.Complete(config.RoleServer, config.Facts{Hostname: "a"})
	if err != nil {
		t.Fatal(err)
	}
	list := func(node bool) (out []string) {
		for _, p := range ports(completed, node) {
			out = append(out, p.Address.String())
		}
		return out
	}
	if diff := cmp.Diff([]string{"192.0.2.5:6443", "0.0.0.0:10250"}, list(true)); diff != "" {
		t.Errorf("node (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"192.0.2.5:6443"}, list(false)); diff != "" {
		t.Errorf("no node (-want +got):\n%s", diff)
	}
	completed.Extra.Kubelet = []string{"port=10251"}
	if diff := cmp.Diff([]string{"192.0.2.5:6443"}, list(true)); diff != "" {
		t.Errorf("kubelet port chosen (-want +got):\n%s", diff)
	}
}
