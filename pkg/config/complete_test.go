package config

import (
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"skiff/internal/testkit"
)

func addrs(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

// loadFlags is Load with flags only.
func loadFlags(t *testing.T, flags map[string][]string) *Config {
	t.Helper()
	cfg, _, err := Load(RoleServer, Input{Flags: flags, DefaultFile: filepath.Join(t.TempDir(), "none")})
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func TestCompleteAddresses(t *testing.T) {
	lan := Facts{Hostname: "Node1", RouteAddresses: addrs("192.0.2.10"), Addresses: addrs("10.42.0.1", "192.0.2.10", "2001:db8::10")}
	tests := []struct {
		name  string
		facts Facts
		flags map[string][]string
		want  string // node addresses; internal; advertise; kubernetes; dns
	}{
		{name: "default route", facts: lan, want: "192.0.2.10; -; 192.0.2.10; 10.43.0.1; 10.43.0.10"},
		{
			name: "no route, any address but the bridge's", facts: Facts{Hostname: "a", Addresses: addrs("10.42.0.1", "10.44.0.1", "198.51.100.7")},
			want: "198.51.100.7; -; 198.51.100.7; 10.43.0.1; 10.43.0.10",
		},
		{
			name: "loopback only", facts: Facts{Hostname: "a"},
			want: "10.44.0.1; 10.44.0.1; 10.44.0.1; 10.43.0.1; 10.43.0.10",
		},
		{
			name: "loopback only, restarted", facts: Facts{Hostname: "a", Addresses: addrs("10.44.0.1", "10.42.0.1")},
			want: "10.44.0.1; 10.44.0.1; 10.44.0.1; 10.43.0.1; 10.43.0.10",
		},
		{
			name: "two families", facts: lan,
			flags: map[string][]string{"cluster-cidr": {"10.42.0.0/16,fd00:42::/56"}, "service-cidr": {"10.43.0.0/16,fd00:43::/112"}},
			want:  "192.0.2.10,2001:db8::10; -; 192.0.2.10; 10.43.0.1; 10.43.0.10,fd00:43::a",
		},
		{
			name: "the families of the other range", facts: lan, flags: map[string][]string{"cluster-cidr": {"fd00:77::/56,10.77.0.0/16"}},
			want: "2001:db8::10,192.0.2.10; -; 2001:db8::10; fd00:43::1; fd00:43::a,10.43.0.10",
		},
		{
			name: "the family of the services", facts: lan, flags: map[string][]string{"service-cidr": {"fd00:99::/112"}},
			want: "2001:db8::10; -; 2001:db8::10; fd00:99::1; fd00:99::a",
		},
		{
			name: "the family of the node", facts: lan, flags: map[string][]string{"node-ip": {"2001:db8::10"}},
			want: "2001:db8::10; -; 2001:db8::10; fd00:43::1; fd00:43::a",
		},
		{
			name: "given", facts: lan,
			flags: map[string][]string{"node-ip": {"203.0.113.5"}, "bind-address": {"203.0.113.6"}, "cluster-dns": {"10.43.0.53"}},
			want:  "203.0.113.5; -; 203.0.113.6; 10.43.0.1; 10.43.0.53",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := loadFlags(t, tt.flags).Complete(RoleServer, tt.facts)
			if err != nil {
				t.Fatal(err)
			}
			internal := "-"
			if c.InternalAddress.IsValid() {
				internal = c.InternalAddress.String()
			}
			got := strings.Join([]string{
				joinStrings(c.Node.IP), internal, c.Server.AdvertiseAddress.String(),
				c.KubernetesServiceIP.String(), joinStrings(c.Cluster.DNS),
			}, "; ")
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestListenForIPv6 looks at where the API is served when there are IPv6 pods.
func TestListenForIPv6(t *testing.T) {
	lan := Facts{Hostname: "a", RouteAddresses: addrs("192.0.2.10", "2001:db8::10"), Addresses: addrs("192.0.2.10", "2001:db8::10")}
	for pods, want := range map[string]string{"10.42.0.0/16": "0.0.0.0", "fd00:42::/56": "::", "10.42.0.0/16,fd00:42::/56": "::"} {
		c, err := loadFlags(t, map[string][]string{"cluster-cidr": {pods}}).Complete(RoleServer, lan)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Server.BindAddress.String(); got != want || c.LocalURL() != "https://127.0.0.1:6443" {
			t.Errorf("pods in %s: listening on %s, found at %s, want %s", pods, got, c.LocalURL(), want)
		}
	}
}

func TestCompleteNamesAndPaths(t *testing.T) {
	cfg := loadFlags(t, map[string][]string{"data-dir": {"data"}, "log": {"/var/log/skiff.log"}, "resolv-conf": {"resolv.conf"}})
	c, err := cfg.Complete(RoleServer, Facts{Hostname: "Node1.Example", WorkingDir: "/work"})
	if err != nil {
		t.Fatal(err)
	}
	got := []string{c.Node.Name, c.Hostname, c.DataDir, c.Paths.Data, c.Log.File, c.Node.ResolvConf, c.Server.WriteKubeconfig, c.Node.PrivateRegistry}
	want := []string{"node1.example", "Node1.Example", "/work/data", "/work/data", "/var/log/skiff.log", "/work/resolv.conf", c.Paths.AdminKubeconfig(), c.Paths.RegistriesFile()}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if cfg.Node.Name != "" || len(cfg.Cluster.DNS) != 0 {
		t.Error("Complete changed its receiver")
	}
}

func TestCompleteErrors(t *testing.T) {
	good := Facts{Hostname: "a", RouteAddresses: addrs("192.0.2.10")}
	tests := []struct {
		name  string
		flags map[string][]string
		facts *Facts
		want  []string
	}{
		{
			name:  "overlap",
			flags: map[string][]string{"service-cidr": {"10.42.128.0/20"}},
			want:  []string{`invalid --service-cidr "10.42.128.0/20": it overlaps --cluster-cidr 10.42.0.0/16`},
		},
		{
			name:  "host bits, sizes",
			flags: map[string][]string{"cluster-cidr": {"10.42.0.1/16"}, "service-cidr": {"10.43.0.0/30"}},
			want: []string{
				`invalid --cluster-cidr "10.42.0.1/16": the address is not the first of its range; did you mean 10.42.0.0/16?`,
				`invalid --service-cidr "10.43.0.0/30": the range is too small; the prefix must be /28 or shorter`,
			},
		},
		{
			name:  "families",
			flags: map[string][]string{"cluster-cidr": {"10.42.0.0/16,fd00:42::/56"}, "service-cidr": {"10.53.0.0/16"}},
			want:  []string{`invalid --service-cidr "10.53.0.0/16": give one range per IP family of --cluster-cidr 10.42.0.0/16,fd00:42::/56`},
		},
		{
			name:  "dns",
			flags: map[string][]string{"cluster-dns": {"10.42.0.10,10.43.0.1"}},
			want: []string{
				`invalid --cluster-dns "10.42.0.10": it lies outside --service-cidr 10.43.0.0/16`,
				`invalid --cluster-dns "10.43.0.1": the first addresses of --service-cidr 10.43.0.0/16 belong to the API; the default is 10.43.0.10`,
				`invalid --cluster-dns "10.42.0.10,10.43.0.1": want at most one address per IP family`,
			},
		},
		{
			name: "all at once, in words",
			flags: map[string][]string{
				"https-listen-port": {"70000"}, "service-node-port-range": {"32767-30000"}, "flannel-backend": {"vxlna"},
				"snapshotter": {"zfs"}, "write-kubeconfig-mode": {"rw"}, "datastore-endpoint": {"postgers://u:p@h/d"},
				"tls-san": {"https://a"}, "cluster-domain": {"Cluster.Local"},
			},
			want: []string{
				`invalid --https-listen-port "70000": want a port between 1 and 65535`,
				`invalid --tls-san "https://a": want a host name or an IP address, without scheme and port`,
				`invalid --write-kubeconfig-mode "rw": want an octal file mode like 0600`,
				`invalid --datastore-endpoint "postgers://u:[redacted]@h/d": want a URL that begins with one of sqlite://, postgres://, postgresql://, mysql://, http://, https://; did you mean postgres?`,
				`invalid --service-node-port-range "32767-30000": want ports between 1 and 65535, the lower one first`,
				`invalid --cluster-domain "Cluster.Local": want a DNS domain like cluster.local, in lower case`,
				`invalid --flannel-backend "vxlna": want one of vxlan, host-gw, wireguard-native, none; did you mean vxlan?`,
				`invalid --snapshotter "zfs": want one of auto, overlayfs, native`,
			},
		},
		{
			name:  "port within range",
			flags: map[string][]string{"https-listen-port": {"30001"}},
			want:  []string{`invalid --service-node-port-range "30000-32767": it contains --https-listen-port 30001`},
		},
		{
			name:  "labels and taints",
			flags: map[string][]string{"node-label": {"a", "node-role.kubernetes.io/db=", "-a=1"}, "node-taint": {"a=b", "a=b:NoScheduel"}},
			want: []string{
				`invalid --node-label "a": want KEY=VALUE`,
				"invalid --node-label \"node-role.kubernetes.io/db=\": a node must not give itself the label node-role.kubernetes.io/db; set it later with `skiff kubectl label node`",
				`invalid --node-label "-a=1": the key's name is "-a", want 1 to 63 letters, digits, '-', '_' and '.', beginning and ending with a letter or digit`,
				`invalid --node-taint "a=b": want KEY=VALUE:EFFECT or KEY:EFFECT`,
				`invalid --node-taint "a=b:NoScheduel": want one of the effects NoSchedule, PreferNoSchedule, NoExecute; did you mean NoSchedule?`,
			},
		},
		{
			name:  "host name",
			facts: &Facts{Hostname: "my_host", RouteAddresses: addrs("192.0.2.10")},
			want:  []string{`invalid --node-name "my_host": want letters in lower case, digits, '-' and '.', beginning and ending with a letter or digit; if this is the host name, set --node-name`},
		},
		{
			name:  "host's network clashes",
			facts: &Facts{Hostname: "a", RouteAddresses: addrs("10.43.7.1")},
			want:  []string{`invalid --service-cidr 10.43.0.0/16: the host's own address 10.43.7.1 lies in that range; choose another range, or set --node-ip to an address outside it`},
		},
		{
			name:  "node address",
			flags: map[string][]string{"node-ip": {"127.0.0.1"}, "advertise-address": {"0.0.0.0"}},
			want: []string{
				`invalid --node-ip "127.0.0.1": pods and other nodes cannot reach this kind of address`,
				`invalid --advertise-address "0.0.0.0": pods and other nodes cannot reach this kind of address`,
			},
		},
		{
			name:  "internal address in a range",
			flags: map[string][]string{"cluster-cidr": {"10.44.0.0/16"}},
			facts: &Facts{Hostname: "a"},
			want:  []string{`invalid --cluster-cidr 10.44.0.0/16: this host has no address, so skiff uses 10.44.0.1, which lies in that range; choose another range or set --node-ip`},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			facts := good
			if tt.facts != nil {
				facts = *tt.facts
			}
			_, err := loadFlags(t, tt.flags).Complete(RoleServer, facts)
			if err == nil {
				t.Fatal("no error")
			}
			if diff := cmp.Diff(tt.want, strings.Split(err.Error(), "\n")); diff != "" {
				t.Errorf("errors (-want +got):\n%s", diff)
			}
		})
	}
}

func TestEffectiveMasksSecrets(t *testing.T) {
	cfg := loadFlags(t, map[string][]string{"datastore-endpoint": {"mysql://root:geheim@tcp(db:3306)/skiff"}})
	c, err := cfg.Complete(RoleServer, Facts{Hostname: "a"})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range Effective(c, nil) {
		if strings.Contains(strings.Join(s.Values, " "), "geheim") {
			t.Errorf("%s shows the password", s.Name)
		}
	}
	if !strings.Contains(c.Server.DatastoreEndpoint, "geheim") {
		t.Error("masking reached the configuration itself")
	}
}

func TestReferenceIsCurrent(t *testing.T) {
	testkit.Golden(t, "../../docs/reference/flags.md", Reference())
}
