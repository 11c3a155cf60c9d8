package apiserver

import (
	"fmt"
	"net"
	"net/netip"
	"sort"
	"strings"
	"testing"

	apioptions "k8s.io/kubernetes/cmd/kube-apiserver/app/options"

	"skiff/internal/testkit"
	"skiff/pkg/config"
	"skiff/pkg/datastore"
)

// TestOptions shows what matters for security, so that a change of it is seen
// in review.
func TestOptions(t *testing.T) {
	tests := []struct {
		name   string
		change func(*config.Config)
		ds     datastore.Endpoint
	}{
		{"default", func(*config.Config) {}, datastore.Endpoint{Servers: []string{"unix:///run/skiff/datastore.sock"}}},
		{"user", func(c *config.Config) {
			c.Cluster.PodCIDR = []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd01::/56")}
			c.Cluster.ServiceCIDR = []netip.Prefix{netip.MustParsePrefix("10.2.0.0/16"), netip.MustParsePrefix("fd02::/112")}
			c.Cluster.Domain = "example.internal"
			c.Cluster.NodePortRange = "31000-31999"
			c.Node.IP = []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}
			c.Extra.APIServer = []string{"audit-log-path=/tmp/audit.log", "enable-admission-plugins=NodeRestriction,AlwaysPullImages", "anonymous-auth=true", "profiling"}
		}, datastore.Endpoint{Servers: []string{"https://etcd:2379"}, TLS: datastore.TLS{CAFile: "/tls/ca", CertFile: "/tls/crt", KeyFile: "/tls/key"}, Shared: true}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = l.Close() })
			raw := config.Default()
			raw.Server.DisableAgent = true
			tt.change(raw)
			addr := []netip.Addr{netip.MustParseAddr("192.0.2.1")}
			cfg, err := raw.Complete(config.RoleServer, config.Facts{Hostname: "n1", RouteAddresses: addr, Addresses: addr})
			if err != nil {
				t.Fatal(err)
			}
			o, err := New(Options{Config: cfg, Datastore: tt.ds, Listener: l}).options()
			if err != nil {
				t.Fatal(err)
			}
			got := dump(o)
			port := fmt.Sprint(l.Addr().(*net.TCPAddr).Port)
			testkit.Golden(t, "testdata/options-"+tt.name, strings.ReplaceAll(got, port, "PORT"))
		})
	}
}

// dump prints what a reviewer of the API server's exposure wants to see.
func dump(o *apioptions.ServerRunOptions) string {
	a, s := o.Authentication, o.SecureServing
	lines := map[string]any{
		"bind":                         fmt.Sprint(s.BindAddress, ":", s.BindPort),
		"tls-cert-file":                s.ServerCert.CertKey.CertFile,
		"tls-private-key-file":         s.ServerCert.CertKey.KeyFile,
		"advertise-address":            o.GenericServerRunOptions.AdvertiseAddress,
		"profiling":                    o.Features.EnableProfiling,
		"etcd-servers":                 o.Etcd.StorageConfig.Transport.ServerList,
		"etcd-tls":                     []string{o.Etcd.StorageConfig.Transport.TrustedCAFile, o.Etcd.StorageConfig.Transport.CertFile, o.Etcd.StorageConfig.Transport.KeyFile},
		"etcd-compaction-interval":     o.Etcd.StorageConfig.CompactionInterval,
		"endpoint-reconciler-type":     o.EndpointReconcilerType,
		"anonymous-auth":               a.Anonymous.Allow,
		"client-ca-file":               a.ClientCert.ClientCA,
		"requestheader-client-ca-file": a.RequestHeader.ClientCAFile,
		"requestheader-allowed-names":  a.RequestHeader.AllowedNames,
		"service-account-issuer":       a.ServiceAccounts.Issuers,
		"service-account-key-file":     a.ServiceAccounts.KeyFiles,
		"service-account-signing-key":  o.ServiceAccountSigningKeyFile,
		"authorization-mode":           o.Authorization.Modes,
		"enable-admission-plugins":     o.Admission.GenericAdmission.EnablePlugins,
		"allow-privileged":             o.AllowPrivileged,
		"enable-aggregator-routing":    o.EnableAggregatorRouting,
		"proxy-client":                 []string{o.ProxyClientCertFile, o.ProxyClientKeyFile},
		"kubelet-client":               []string{o.KubeletConfig.TLSClientConfig.CAFile, o.KubeletConfig.TLSClientConfig.CertFile, o.KubeletConfig.TLSClientConfig.KeyFile},
		"kubelet-address-types":        o.KubeletConfig.PreferredAddressTypes,
		"service-cluster-ip-range":     o.ServiceClusterIPRanges,
		"service-node-port-range":      o.ServiceNodePortRange.String(),
		"audit-log-path":               o.Audit.LogOptions.Path,
	}
	out := make([]string, 0, len(lines))
	for k, v := range lines {
		out = append(out, fmt.Sprintf("%s: %v", k, v))
	}
	sort.Strings(out)
	return strings.Join(out, "\n") + "\n"
}

func TestFailed(t *testing.T) {
	report := "[+]ping ok\n[-]etcd failed: reason withheld\n[-]poststarthook/skiff/default-policy failed: reason withheld\nreadyz check failed\n"
	got := strings.Join(failed(report), " ")
	if want := "etcd poststarthook/skiff/default-policy"; got != want {
		t.Errorf("failed = %q, want %q", got, want)
	}
}
