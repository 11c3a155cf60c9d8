package flannel

import (
	"encoding/json"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"skiff/pkg/paths"
)

func prefixes(list ...string) []netip.Prefix {
	var p []netip.Prefix
	for _, s := range list {
		p = append(p, netip.MustParsePrefix(s))
	}
	return p
}

func TestRules(t *testing.T) {
	f := &Flannel{PodCIDR: prefixes("10.42.0.0/16", "fd00:42::/56")}
	got := f.rules(network{PodCIDR: prefixes("10.42.3.0/24", "fd00:42:0:3::/64")})
	want := []string{
		"ip saddr 10.42.3.0/24 ip daddr != { 10.42.0.0/16 , 224.0.0.0/4 } masquerade fully-random",
		"ip saddr != 10.42.0.0/16 ip daddr 10.42.0.0/16 ip daddr != 10.42.3.0/24 masquerade fully-random",
		"ip6 saddr fd00:42:0:3::/64 ip6 daddr != { fd00:42::/56 , ff00::/8 } masquerade fully-random",
		"ip6 saddr != fd00:42::/56 ip6 daddr fd00:42::/56 ip6 daddr != fd00:42:0:3::/64 masquerade fully-random",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	public := &Flannel{PodCIDR: prefixes("2001:db8:42::/56")}
	own := network{PodCIDR: prefixes("2001:db8:42:3::/64")}
	want = []string{"ip6 saddr != 2001:db8:42::/56 ip6 daddr 2001:db8:42::/56 ip6 daddr != 2001:db8:42:3::/64 masquerade fully-random"}
	if diff := cmp.Diff(want, public.rules(own)); diff != "" {
		t.Errorf("public addresses -want +got\n%s", diff)
	}
	public.IPv6Masquerade = true
	if got := public.rules(own); len(got) != 2 {
		t.Errorf("public addresses, masqueraded: %q", got)
	}
}

func TestGateway(t *testing.T) {
	for pods, want := range map[string]string{"10.42.3.0/24": "10.42.3.1/24", "fd00:42:0:3::/64": "fd00:42:0:3::1/64"} {
		if got := gateway(netip.MustParsePrefix(pods)).String(); got != want {
			t.Errorf("gateway(%s) = %s, want %s", pods, got, want)
		}
	}
}

func TestMemory(t *testing.T) {
	f := &Flannel{Layout: paths.New(t.TempDir()), PodCIDR: prefixes("10.42.0.0/16"), Logger: slog.New(slog.DiscardHandler)}
	if err := os.MkdirAll(f.Layout.Agent(), 0o755); err != nil {
		t.Fatal(err)
	}
	if n, err := f.load(); n != nil || err != nil {
		t.Errorf("a new node remembers %v, %v", n, err)
	}
	want := network{PodCIDR: prefixes("10.42.3.0/24"), MTU: 1450}
	if err := f.save(want); err != nil {
		t.Fatal(err)
	}
	got, err := f.load()
	if err != nil || got == nil || !cmp.Equal(*got, want, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })) {
		t.Errorf("load = %v, %v, want %v", got, err, want)
	}
	// With another --cluster-cidr the old range is void.
	f.PodCIDR = prefixes("10.99.0.0/16")
	if n, err := f.load(); n != nil || err != nil {
		t.Errorf("load of a foreign range = %v, %v", n, err)
	}
	if err := os.WriteFile(f.Layout.Network(), []byte("{\"podCIDR\":["), 0o600); err != nil {
		t.Fatal(err)
	}
	if n, err := f.load(); n != nil || err != nil {
		t.Errorf("load of a broken file = %v, %v", n, err)
	}
}

func TestWriteCNI(t *testing.T) {
	t.Run("open", func(t *testing.T) { testWriteCNI(t, "") })
	t.Run("gate", func(t *testing.T) { testWriteCNI(t, "some.sock") })
}

func testWriteCNI(t *testing.T, gate string) {
	f := &Flannel{Layout: paths.New(t.TempDir()), Gate: gate}
	if err := f.writeCNI(network{PodCIDR: prefixes("10.42.3.0/24"), MTU: 1450}); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(f.Layout.CNIConf(), conflistName))
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Plugins []struct {
			Type string
			MTU  int
			IPAM struct {
				Type, Gate, Memory string
				Ranges             [][]struct{ Subnet string }
				DataDir            string
			}
		}
	}
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	var types []string
	for _, p := range got.Plugins {
		types = append(types, p.Type)
	}
	if diff := cmp.Diff([]string{"bridge", "portmap", "bandwidth", "announce"}, types); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	b := got.Plugins[0]
	if b.MTU != 1450 || b.IPAM.Ranges[0][0].Subnet != "10.42.3.0/24" || b.IPAM.DataDir != filepath.Join(f.Layout.CNIState(), "networks") {
		t.Errorf("bridge = %+v", b)
	}
	if b.IPAM.Type != "announce" || b.IPAM.Gate != gate || b.IPAM.Memory != f.Layout.PodAddresses() {
		t.Errorf("addresses by %+v; want gate %q", b.IPAM, gate)
	}
}
