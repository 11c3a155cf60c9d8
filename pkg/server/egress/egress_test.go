package egress

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
)

func node(name, ip, pods string, age time.Duration) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(time.Unix(1e9, 0).Add(-age))}}
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: name}, {Type: corev1.NodeInternalIP, Address: ip}}
	n.Status.DaemonEndpoints.KubeletEndpoint.Port = 10250
	n.Spec.PodCIDRs = []string{pods}
	return n
}

func server(n *corev1.Node) *corev1.Node {
	n.Labels = map[string]string{"node-role.kubernetes.io/control-plane": ""}
	return n
}

func pod(name, node, ip string, host bool) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name},
		Spec:       corev1.PodSpec{NodeName: node, HostNetwork: host},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{IP: ip}}},
	}
}

// stage is an Egress that only says which way it would go.
func stage(t *testing.T, mode string, objects ...runtime.Object) *Egress {
	t.Helper()
	e := New(Options{
		Mode: mode, OwnNode: "s1", Logger: slog.New(slog.DiscardHandler),
		Tunnel: func(_ context.Context, node, target string) (net.Conn, error) {
			return nil, errors.New(node + " " + target)
		},
		Direct: func(_ context.Context, _, addr string) (net.Conn, error) { return nil, errors.New("direct " + addr) },
	})
	f := informers.NewSharedInformerFactory(fake.NewClientset(objects...), 0)
	e.Use(f)
	f.Start(t.Context().Done())
	return e
}

func TestWays(t *testing.T) {
	objects := []runtime.Object{
		server(node("s1", "192.0.2.1", "10.42.0.0/24", time.Hour)), server(node("s2", "192.0.2.2", "10.42.1.0/24", time.Hour)),
		node("a1", "192.0.2.11", "10.42.2.0/24", time.Hour), node("a2", "192.0.2.12", "fd00:42:3::/64", time.Hour),
		// Says that it has a1's address and range.
		node("rogue", "192.0.2.11", "10.42.2.0/24", time.Minute),
		pod("moved", "a2", "10.42.2.9", false), pod("foreign", "a1", "172.20.0.5", false), pod("host", "a1", "192.0.2.11", true),
		pod("local", "s1", "172.20.0.6", false),
	}
	tests := []struct{ addr, pod, cluster string }{
		{"192.0.2.1:10250", "direct 192.0.2.1:10250", "direct 192.0.2.1:10250"},
		{"192.0.2.2:10250", "direct 192.0.2.2:10250", "direct 192.0.2.2:10250"},
		{"192.0.2.11:10250", "a1 127.0.0.1:10250", "a1 127.0.0.1:10250"},
		{"192.0.2.11:9443", "direct 192.0.2.11:9443", "a1 192.0.2.11:9443"},
		{"10.42.2.7:443", "a1 10.42.2.7:443", "a1 10.42.2.7:443"},
		{"10.42.2.9:443", "a1 10.42.2.9:443", "a2 10.42.2.9:443"},
		{"[fd00:42:3::7]:443", "a2 [fd00:42:3::7]:443", "a2 [fd00:42:3::7]:443"},
		{"172.20.0.5:443", "direct 172.20.0.5:443", "a1 172.20.0.5:443"},
		{"172.20.0.6:443", "direct 172.20.0.6:443", "direct 172.20.0.6:443"},
		{"10.42.0.7:443", "direct 10.42.0.7:443", "direct 10.42.0.7:443"},
		{"198.51.100.1:443", "direct 198.51.100.1:443", "direct 198.51.100.1:443"},
		{"webhook.example:443", "direct webhook.example:443", "direct webhook.example:443"},
	}
	for mode, want := range map[string]func(int) string{
		Pod:     func(i int) string { return tests[i].pod },
		Cluster: func(i int) string { return tests[i].cluster },
	} {
		e := stage(t, mode, objects...)
		for i, tt := range tests {
			_, err := e.Cluster(t.Context(), "tcp", tt.addr)
			if diff := cmp.Diff(want(i), err.Error()); diff != "" {
				t.Errorf("%s in mode %s: -want +got\n%s", tt.addr, mode, diff)
			}
		}
	}
}

func TestKubelets(t *testing.T) {
	e := stage(t, Agent, server(node("s1", "192.0.2.1", "", time.Hour)), node("a1", "192.0.2.11", "", time.Hour))
	for addr, want := range map[string]string{
		"192.0.2.1:10250":  "direct 192.0.2.1:10250",
		"192.0.2.11:10250": "a1 127.0.0.1:10250",
		"a1:10250":         "a1 127.0.0.1:10250",
		"192.0.2.99:10250": "direct 192.0.2.99:10250",
	} {
		_, err := e.Kubelet(t.Context(), "tcp", addr)
		if diff := cmp.Diff(want, err.Error()); diff != "" {
			t.Errorf("%s: -want +got\n%s", addr, diff)
		}
	}
}
