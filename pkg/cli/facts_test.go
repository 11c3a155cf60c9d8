package cli

import (
	"net/netip"
	"path/filepath"
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

func TestNodeID(t *testing.T) {
	path := filepath.Join(t.TempDir(), "node", "id")
	first, err := nodeID(path)
	if err != nil || len(first) != 8 {
		t.Fatalf("%q, %v", first, err)
	}
	again, err := nodeID(path)
	if err != nil || again != first {
		t.Errorf("%q became %q, %v", first, again, err)
	}
	cfg := config.Default()
	cfg.Node.WithID = true
	completed, err := cfg.Complete(config.RoleServer, config.Facts{Hostname: "Till", NodeID: func() (string, error) { return nodeID(path) }})
	if err != nil || completed.Node.Name != "till-"+first {
		t.Errorf("%v, %v", completed, err)
	}
}
