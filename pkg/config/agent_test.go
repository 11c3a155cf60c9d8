package config

import (
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func loadAgent(t *testing.T, flags map[string][]string) *Config {
	t.Helper()
	cfg, _, err := Load(RoleAgent, Input{Flags: flags, DefaultFile: filepath.Join(t.TempDir(), "none")})
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func TestServerURL(t *testing.T) {
	tests := []struct{ in, want string }{
		{"", ""},
		{"https://192.0.2.1:6443", "https://192.0.2.1:6443"},
		{"https://192.0.2.1:6443/", "https://192.0.2.1:6443"},
		{"192.0.2.1", "https://192.0.2.1:6443"},
		{"https://server.example", "https://server.example:6443"},
		{"server:443", "https://server:443"},
		{"2001:db8::1", "https://[2001:db8::1]:6443"},
		{"https://[2001:db8::1]:7443", "https://[2001:db8::1]:7443"},
		{"http://192.0.2.1:6443", "error"},
		{"https://192.0.2.1:6443/path", "error"},
		{"https://user@192.0.2.1", "error"},
		{"https://192.0.2.1:0", "error"},
		{"https://192.0.2.1:port", "error"},
		{"https://", "error"},
		{"my server", "error"},
	}
	for _, tt := range tests {
		t.Run(tt.in, func(t *testing.T) {
			got, err := serverURL(tt.in)
			if err != nil {
				got = "error"
			}
			if got != tt.want {
				t.Errorf("serverURL = %q (%v), want %q", got, err, tt.want)
			}
		})
	}
}

// An agent has addresses before it knows its cluster, and those of the
// cluster's families afterwards.
func TestAgentJoinsCluster(t *testing.T) {
	facts := Facts{Hostname: "a1", RouteAddresses: addrs("10.42.7.10"), Addresses: addrs("10.42.7.10", "2001:db8::10")}
	c, err := loadAgent(t, map[string][]string{"server": {"10.42.7.1"}, "token": {"secret"}}).Complete(RoleAgent, facts)
	if err != nil {
		t.Fatalf("the default ranges are not those of an agent: %v", err)
	}
	if diff := cmp.Diff("10.42.7.10,2001:db8::10", joinStrings(c.Node.IP)); diff != "" {
		t.Errorf("before joining (-want +got):\n%s", diff)
	}
	shared := Default().Cluster
	shared.DNS = addrs("10.43.0.10")
	if _, err := c.InCluster(shared, nil); err == nil {
		t.Error("the node's address lies in --cluster-cidr, and nobody says so")
	} else {
		want := `invalid --cluster-cidr 10.42.0.0/16: the host's own address 10.42.7.10 lies in that range; choose another range, or set --node-ip to an address outside it`
		if diff := cmp.Diff(want, err.Error()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	shared.PodCIDR = []netip.Prefix{netip.MustParsePrefix("172.16.0.0/16")}
	in, err := c.InCluster(shared, []string{"coredns"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("10.42.7.10", joinStrings(in.Node.IP)); diff != "" {
		t.Errorf("in the cluster (-want +got):\n%s", diff)
	}
	if !in.Disabled("coredns") || in.Disabled("ingress") || in.Cluster.Domain != "cluster.local" {
		t.Errorf("the cluster's settings were not taken over: %+v", in.Cluster)
	}
}

func TestAPIURL(t *testing.T) {
	for want, flags := range map[string]map[string][]string{
		"https://127.0.0.1:6444": {"server": {"192.0.2.1"}},
		"https://127.0.0.1:7000": {"server": {"192.0.2.1"}, "lb-server-port": {"7000"}},
		"https://192.0.2.1:6443": {"server": {"192.0.2.1"}, "disable-apiserver-lb": {"true"}},
	} {
		c, err := loadAgent(t, flags).Complete(RoleAgent, Facts{Hostname: "a1", Addresses: addrs("192.0.2.9")})
		if err != nil {
			t.Fatal(err)
		}
		if got := c.APIURL(); got != want {
			t.Errorf("APIURL = %s, want %s", got, want)
		}
	}
}
