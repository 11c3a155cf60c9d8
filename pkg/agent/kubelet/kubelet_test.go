package kubelet

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"skiff/pkg/paths"
)

func testKubelet(t *testing.T) *Kubelet {
	t.Helper()
	k := &Kubelet{
		Layout:   paths.New(t.TempDir()),
		NodeName: "n1", NodeIP: []netip.Addr{netip.MustParseAddr("192.0.2.2")},
		ClusterDNS: []netip.Addr{netip.MustParseAddr("10.43.0.10")}, ClusterDomain: "cluster.local",
		ResolvConf: "/etc/resolv.conf", Endpoint: "unix:///run/containerd.sock",
		Logger: slog.New(slog.DiscardHandler),
	}
	if err := os.MkdirAll(k.Layout.KubeletConfDir(), 0o755); err != nil {
		t.Fatal(err)
	}
	return k
}

func TestServer(t *testing.T) {
	k := testKubelet(t)
	k.Labels, k.Taints = []string{"a=b"}, []string{"c=d:NoSchedule"}
	s, err := k.server()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]any{
		"anonymous": s.Authentication.Anonymous.Enabled, "webhook": s.Authentication.Webhook.Enabled,
		"authorization": string(s.Authorization.Mode), "readOnlyPort": s.ReadOnlyPort, "failCgroupV1": s.FailCgroupV1,
		"cgroupDriver": s.CgroupDriver, "swap": s.FailSwapOn, "clientCA": filepath.Base(s.Authentication.X509.ClientCAFile),
		"dns": strings.Join(s.ClusterDNS, ","), "nodeIP": s.NodeIP, "cloud": s.CloudProvider, "label": s.NodeLabels["a"],
		"taint": s.RegisterWithTaints[0].Key, "serialize": s.SerializeImagePulls, "name": s.HostnameOverride,
	}
	want := map[string]any{
		"anonymous": false, "webhook": true, "authorization": "Webhook", "readOnlyPort": int32(0), "failCgroupV1": false,
		"cgroupDriver": "cgroupfs", "swap": false, "clientCA": "client-ca.crt", "dns": "10.43.0.10", "nodeIP": "192.0.2.2",
		"cloud": "external", "label": "b", "taint": "c", "serialize": false, "name": "n1",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

// TestPrecedence: an argument beats a drop-in, which beats ours; what none of
// them names stays ours.
func TestPrecedence(t *testing.T) {
	k := testKubelet(t)
	for name, text := range map[string]string{
		"10-a.conf":   "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nmaxPods: 50\nsyncFrequency: 2m\n",
		"20-b.conf":   "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nmaxPods: 60\n",
		"30-c.ignore": "nonsense",
	} {
		if err := os.WriteFile(filepath.Join(k.Layout.KubeletConfDir(), name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s, err := k.server()
	if err != nil {
		t.Fatal(err)
	}
	if s.MaxPods != 60 || s.SyncFrequency.Duration.String() != "2m0s" || s.SerializeImagePulls || s.Authentication.Anonymous.Enabled {
		t.Errorf("drop-ins: maxPods %d, syncFrequency %s, serialize %v, anonymous %v", s.MaxPods, s.SyncFrequency.Duration, s.SerializeImagePulls, s.Authentication.Anonymous.Enabled)
	}
	k.Args = []string{"max-pods=70", "cgroup-root=/x"}
	if s, err = k.server(); err != nil {
		t.Fatal(err)
	}
	if s.MaxPods != 70 || s.CgroupRoot != "/x" {
		t.Errorf("arguments: maxPods %d, cgroupRoot %q", s.MaxPods, s.CgroupRoot)
	}
}

func TestBadInput(t *testing.T) {
	tests := []struct {
		name   string
		change func(*Kubelet)
		want   string
	}{
		{"unknown argument", func(k *Kubelet) { k.Args = []string{"max-podz=1"} }, "max-pods"},
		{"argument that is ours", func(k *Kubelet) { k.Args = []string{"config=/x"} }, "kubelet.conf.d"},
		{"value", func(k *Kubelet) { k.Args = []string{"max-pods=many"} }, "max-pods"},
		{"label", func(k *Kubelet) { k.Labels = []string{"=x"} }, "--node-label"},
		{"kubernetes.io label", func(k *Kubelet) { k.Labels = []string{"node-role.kubernetes.io/x=y"} }, "--node-label"},
		{"taint", func(k *Kubelet) { k.Taints = []string{"x=y:Never"} }, "--node-taint"},
		{"drop-in", func(k *Kubelet) {
			if err := os.WriteFile(filepath.Join(k.Layout.KubeletConfDir(), "x.conf"), []byte("kind: Pod\napiVersion: v1\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "x.conf"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k := testKubelet(t)
			tt.change(k)
			if _, err := k.server(); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error = %v, want one that names %s", err, tt.want)
			}
		})
	}
}

func TestNoResolver(t *testing.T) {
	k := testKubelet(t)
	k.ResolvConf = ""
	s, err := k.server()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(s.ResolverConfig)
	if err != nil || len(data) != 0 {
		t.Errorf("resolver configuration %s holds %q (%v), want it empty", s.ResolverConfig, data, err)
	}
}
