package config

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestReaddress(t *testing.T) {
	start := Facts{Hostname: "n1", WorkingDir: "/", RouteAddresses: addrs("192.0.2.5"), Addresses: addrs("192.0.2.5", "2001:db8::5")}
	for _, tt := range []struct {
		name   string
		change func(*Config)
		facts  Facts // of later
		now    []netip.Addr
		want   []netip.Addr
	}{
		{name: "the same", facts: start, now: addrs("192.0.2.5"), want: addrs("192.0.2.5")},
		{name: "another", facts: Facts{RouteAddresses: addrs("192.0.2.9"), Addresses: addrs("192.0.2.9")}, now: addrs("192.0.2.5"), want: addrs("192.0.2.9")},
		{
			name: "a second interface with a better route", facts: Facts{RouteAddresses: addrs("198.51.100.1"), Addresses: addrs("192.0.2.5", "198.51.100.1")},
			now: addrs("192.0.2.5"), want: addrs("192.0.2.5"),
		},
		{name: "the cable is out", facts: Facts{}, now: addrs("192.0.2.5"), want: addrs("192.0.2.5")},
		{name: "only the bridge is left", facts: Facts{Addresses: addrs("10.42.0.1")}, now: addrs("192.0.2.5"), want: addrs("192.0.2.5")},
		{
			name: "a network that clashes with the pods'", facts: Facts{RouteAddresses: addrs("10.42.7.7"), Addresses: addrs("10.42.7.7")},
			now: addrs("192.0.2.5"), want: addrs("192.0.2.5"),
		},
		{
			name: "a host that had none gets one", facts: Facts{RouteAddresses: addrs("192.0.2.9"), Addresses: addrs("10.44.0.1", "192.0.2.9")},
			now: addrs("10.44.0.1"), want: addrs("192.0.2.9"),
		},
		{
			name: "without a default route", facts: Facts{Addresses: addrs("10.42.0.1", "192.0.2.9")},
			now: addrs("192.0.2.5"), want: addrs("192.0.2.9"),
		},
		{
			name: "the user's", change: func(c *Config) { c.Node.IP = addrs("192.0.2.5") },
			facts: Facts{RouteAddresses: addrs("192.0.2.9"), Addresses: addrs("192.0.2.9")}, now: addrs("192.0.2.5"), want: addrs("192.0.2.5"),
		},
		{
			name: "one of two families", change: func(c *Config) {
				c.Cluster.PodCIDR = []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("fd00:42::/56")}
				c.Cluster.ServiceCIDR = []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16"), netip.MustParsePrefix("fd00:43::/112")}
			},
			facts: Facts{RouteAddresses: addrs("192.0.2.5"), Addresses: addrs("192.0.2.5", "2001:db8::9")},
			now:   addrs("192.0.2.5", "2001:db8::5"), want: addrs("192.0.2.5", "2001:db8::9"),
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			raw := Default()
			if tt.change != nil {
				tt.change(raw)
			}
			c, err := raw.Complete(RoleServer, start)
			if err != nil {
				t.Fatal(err)
			}
			got := c.Readdress(tt.facts, tt.now)
			if diff := cmp.Diff(tt.want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestAdvertise(t *testing.T) {
	f := Facts{Hostname: "n1", WorkingDir: "/", RouteAddresses: addrs("192.0.2.5"), Addresses: addrs("192.0.2.5")}
	for _, tt := range []struct {
		name, want string
		change     func(*Config)
	}{
		{"follows the node", "192.0.2.9", func(*Config) {}},
		{"is the user's", "192.0.2.1", func(c *Config) { c.Server.AdvertiseAddress = netip.MustParseAddr("192.0.2.1") }},
		{"is where the port is", "192.0.2.2", func(c *Config) { c.Server.BindAddress = netip.MustParseAddr("192.0.2.2") }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			raw := Default()
			tt.change(raw)
			c, err := raw.Complete(RoleServer, f)
			if err != nil {
				t.Fatal(err)
			}
			if got := c.Advertise(addrs("192.0.2.9")).String(); got != tt.want {
				t.Errorf("advertised %s, want %s", got, tt.want)
			}
		})
	}
}
