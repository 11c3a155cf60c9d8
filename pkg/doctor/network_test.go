package doctor

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"skiff/pkg/paths"
)

func networkFaults() []fault {
	rules := func(file string) func(*patient) {
		return func(p *patient) {
			text, err := os.ReadFile(filepath.Join("testdata", file))
			if err != nil {
				p.t.Fatal(err)
			}
			p.answer("nft", func(string) (string, error) { return string(text), nil })
		}
	}
	links := func(l ...link) func(*patient) {
		return func(p *patient) { p.sys.links = func() ([]link, error) { return l, nil } }
	}
	return []fault{
		{name: "port of the API", want: "error port-taken", says: "port 6443 (the API) is in use by nginx (process 4711)", inject: func(p *patient) { p.sys.tcpFree = taken(6443, 4711) }},
		{name: "port 443", want: "warning port-http", says: "port 443", inject: func(p *patient) { p.sys.tcpFree = taken(443, 4711) }},
		{name: "port of the tunnel", want: "error port-taken", says: "8472", inject: func(p *patient) { p.sys.udpFree = taken(8472, 0) }},
		{name: "another's tunnel", want: "error port-taken", says: "by the interface vx0", inject: func(p *patient) {
			p.sys.udpFree = taken(8472, 0)
			links(link{name: "vx0", kind: "vxlan", udpPort: 8472})(p)
		}},
		{name: "stub", want: "warning dns-loop", says: "names only 127.0.0.53", inject: func(p *patient) { p.write(paths.ResolvConf, "nameserver 127.0.0.53\n") }},
		{name: "loop", want: "error dns-loop", says: "10.43.0.10, which is the cluster's own", inject: func(p *patient) { p.write(paths.ResolvConf, "nameserver 10.43.0.10\n") }},
		{name: "no resolver", want: "info dns-none", inject: func(p *patient) { removed(p, paths.ResolvConf) }},
		{name: "no route", want: "info no-default-route", inject: func(p *patient) { p.sys.defaultRoute = func() ([]netip.Addr, error) { return nil, nil } }},
		{name: "interface of others", want: "warning other-interfaces", says: "cni0 has the address 10.244.0.1/24", inject: links(link{name: "cni0", ports: 1, addrs: []netip.Prefix{netip.MustParsePrefix("10.244.0.1/24")}})},
		{name: "ufw", want: "warning ufw", says: "10.42.0.0/16 to this machine, routed from 10.42.0.0/16, routed to 10.42.0.0/16, 6443/tcp, 8472/udp", inject: ufw, fixable: true},
		{name: "firewalld", want: "warning firewalld", says: "not pass: 10.42.0.0/16, 10.43.0.0/16, 8472/udp", inject: firewalld, fixable: true},
		{name: "docker", want: "warning firewall-nftables", says: "FORWARD of table ip filter drops packets between pods, from other networks to pods, from pods to other networks", inject: rules("docker.json")},
		{name: "a table by hand", want: "warning firewall-nftables", says: "input of table inet mine drops packets from pods to the cluster's DNS", inject: func(p *patient) {
			rules("own.json")(p)
			p.Server = false // 6443 is open
		}},
	}
}

// TestHarmless: what must not be called a fault.
func TestHarmless(t *testing.T) {
	tests := map[string]func(p *patient){
		"stub, and systemd's own file": func(p *patient) {
			p.write(paths.ResolvConf, "nameserver 127.0.0.53\n")
			p.write(paths.SystemdResolvConf, "nameserver 192.168.1.1\n")
		},
		"our own ports": func(p *patient) { p.running(); p.sys.tcpFree = taken(6443, 99) },
		"our own tunnel, stopped": func(p *patient) {
			p.write(p.Paths.Agent()+"/x", "")
			p.sys.udpFree = taken(8472, 0)
			p.sys.links = ours
		},
		"low, and raised at start": func(p *patient) { p.write("/proc/sys/fs/inotify/max_user_instances", "128\n") },
		"hidden by a file of ours": func(p *patient) {
			p.write("/etc/sysctl.d/50-low.conf", "fs.inotify.max_user_watches=1\n")
			p.write(paths.SysctlFile, "fs.inotify.max_user_watches = 524288\n")
		},
		"not forwarding before run": func(p *patient) { p.write("/proc/sys/net/ipv4/ip_forward", "0\n") },
		"ufw is off":                func(p *patient) { p.answer("ufw", func(string) (string, error) { return "Status: inactive\n", nil }) },
		"allowed by rules": func(p *patient) {
			text, err := os.ReadFile(filepath.Join("testdata", "allowed.json"))
			if err != nil {
				p.t.Fatal(err)
			}
			p.answer("nft", func(string) (string, error) { return string(text), nil })
		},
		"vxlan is not used": func(p *patient) {
			p.Backend = "host-gw"
			p.write(paths.KernelConfig(release), strings.Replace(p.Read(paths.KernelConfig(release)), "CONFIG_VXLAN=y\n", "", 1))
		},
		"a module": func(p *patient) {
			p.write(paths.KernelConfig(release), strings.Replace(p.Read(paths.KernelConfig(release)), "CONFIG_VXLAN=y", "CONFIG_VXLAN=m", 1))
			p.write(paths.Modules+"/"+release+"/modules.dep", "kernel/drivers/net/vxlan/vxlan.ko.xz: kernel/net/ipv4/udp_tunnel.ko.xz\n")
		},
		"nothing known, and it can be made": func(p *patient) {
			p.write(paths.KernelConfig(release), strings.Replace(p.Read(paths.KernelConfig(release)), "CONFIG_VETH=y\n", "", 1))
			p.sys.canMake = func(string) error { return nil }
		},
		"fresh certificate": func(p *patient) {
			p.running()
			p.write(p.Paths.ServerTLS()+"/a.crt", string(certificatePEM(p.t, "a", false, today.AddDate(0, 11, 0))))
		},
	}
	for name, inject := range tests {
		t.Run(name, func(t *testing.T) {
			p := healthy(t)
			inject(p)
			r := p.Examine(t.Context(), Everything)
			r.Findings = slices.DeleteFunc(r.Findings, func(f Finding) bool { return f.ID == "disk-space" || f.ID == "slow-fsync" })
			if diff := cmp.Diff([]string{}, found(r)); diff != "" {
				t.Errorf("-want +got\n%s\n%+v", diff, r.Findings)
			}
		})
	}
}

// TestFirewalls follows the packets through what the real programs write: ufw
// 0.36.2 and firewalld 1.3.3 as they come, and after what --fix tells them.
func TestFirewalls(t *testing.T) {
	input := []string{"from pods to the cluster's DNS", "from pods to the API"}
	forward := []string{"from pods to other networks", "between pods", "from other networks to pods"}
	tests := []struct {
		file string
		want []string
	}{
		// ufw's iptables hides what its connection tracking matches: no rule is
		// certain, and the check of ufw asks ufw.
		{"ufw-bare", nil},
		{"ufw-allowed", nil},
		{"firewalld-bare", []string{forward[0], forward[1], input[0]}}, // what is translated for a Service may pass
		{"firewalld-trusted", nil},
		{"docker", forward},
		{"own", input[:1]},
		{"allowed", nil},
	}
	for _, tt := range tests {
		t.Run(tt.file, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join("testdata", tt.file+".json"))
			if err != nil {
				t.Fatal(err)
			}
			rules, err := parseRuleset(string(text))
			if err != nil {
				t.Fatal(err)
			}
			var lost []string
			for _, p := range healthy(t).packets() {
				if slices.ContainsFunc(rules, func(c *chain) bool { return c.Type == "filter" && c.Hook == p.hook && rules.drops(c, p) }) {
					lost = append(lost, p.what)
				}
			}
			if diff := cmp.Diff(tt.want, lost); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

func ours() ([]link, error) {
	return []link{
		{name: "cni0", kind: "bridge", ports: 2, addrs: []netip.Prefix{netip.MustParsePrefix("10.42.0.1/24")}},
		{name: "flannel.1", kind: "vxlan", udpPort: 8472, addrs: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/32")}},
	}, nil
}

func TestSlow(t *testing.T) {
	for took, want := range map[time.Duration][]string{
		10 * time.Millisecond: {}, 40 * time.Millisecond: {"info slow-fsync"}, 150 * time.Millisecond: {"warning slow-fsync"},
	} {
		p := healthy(t)
		r := &Report{}
		x := &exam{Doctor: p.Doctor, check: check{id: "slow-fsync"}, report: r}
		x.slow(took, 2*took)
		if diff := cmp.Diff(want, found(r)); diff != "" {
			t.Errorf("%s: -want +got\n%s", took, diff)
		}
	}
}

func TestPortRange(t *testing.T) {
	for text, want := range map[string]bool{"6443/tcp": true, "6443/udp": false, "6440-6450/tcp": true, "1-100/tcp": false, "": false} {
		if got := inRange(text, "6443/tcp"); got != want {
			t.Errorf("inRange(%q) = %v", text, got)
		}
	}
}

// certificatePEM makes a certificate that ends at a time.
func certificatePEM(t *testing.T, name string, ca bool, end time.Time) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: end.AddDate(-1, 0, 0), NotAfter: end,
		IsCA: ca, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
