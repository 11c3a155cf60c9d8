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
		Layout: paths.New(t.TempDir()), Kubeconfig: "/nowhere",
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
		{"drop-in of another kind", func(k *Kubelet) { dropIn(t, k, "x.conf", "kind: Pod\napiVersion: v1\n") }, "x.conf"},
		{"drop-in that is no YAML", func(k *Kubelet) { dropIn(t, k, "y.conf", "a: [\n") }, "y.conf"},
		{"drop-in with a wrong key", func(k *Kubelet) { dropIn(t, k, "z.conf", kubeletConf+"maxPodz: 3\n") }, "z.conf"},
		{"drop-in with a wrong type", func(k *Kubelet) { dropIn(t, k, "w.conf", kubeletConf+"maxPods: many\n") }, "w.conf"},
		{"drop-in with an impossible value", func(k *Kubelet) { dropIn(t, k, "v.conf", kubeletConf+"maxPods: -1\n") }, "v.conf"},
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

// TestReserves: machines from a small board to a server.
func TestReserves(t *testing.T) {
	const mi = 1 << 20
	for _, tt := range []struct {
		memory       uint64
		controlPlane bool
		evict, keep  string // "" is none
	}{
		{512 * mi, true, "50Mi", "204Mi"},
		{512 * mi, false, "50Mi", "138Mi"},
		{1024 * mi, true, "50Mi", "340Mi"},
		{2048 * mi, true, "51Mi", "360Mi"},
		{4096 * mi, true, "100Mi", "401Mi"},
		{8192 * mi, false, "100Mi", "291Mi"},
		{65536 * mi, true, "100Mi", "1024Mi"},
		{0, true, "50Mi", ""},
	} {
		k := testKubelet(t)
		k.Memory, k.ControlPlane = tt.memory, tt.controlPlane
		s, err := k.server()
		if err != nil {
			t.Fatal(err)
		}
		if evict, keep := s.EvictionHard["memory.available"], s.SystemReserved["memory"]; evict != tt.evict || keep != tt.keep {
			t.Errorf("%d MiB: evicts below %s and reserves %q, want %s and %q", tt.memory/mi, evict, keep, tt.evict, tt.keep)
		}
	}
}

// TestReservesAreTheUsers: arguments and drop-ins win, key by key where they
// are merged.
func TestReservesAreTheUsers(t *testing.T) {
	k := testKubelet(t)
	k.Memory, k.ControlPlane = 4<<30, true
	k.Args = []string{"system-reserved=memory=1Gi,cpu=100m"}
	text := "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nevictionHard: {memory.available: 300Mi, imagefs.available: null}\n"
	if err := os.WriteFile(filepath.Join(k.Layout.KubeletConfDir(), "memory.conf"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := k.server()
	if err != nil {
		t.Fatal(err)
	}
	want := []map[string]string{
		{"memory.available": "300Mi", "nodefs.available": "5%", "nodefs.inodesFree": "5%"},
		{"memory": "1Gi", "cpu": "100m"},
	}
	if diff := cmp.Diff(want, []map[string]string{s.EvictionHard, s.SystemReserved}); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

const kubeletConf = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"

func dropIn(t *testing.T, k *Kubelet, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(k.Layout.KubeletConfDir(), name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
