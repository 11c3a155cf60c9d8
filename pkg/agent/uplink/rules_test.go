package uplink

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

func pod(name, ip string, phase corev1.PodPhase, hostPorts ...int32) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name}}
	p.Status = corev1.PodStatus{Phase: phase, PodIPs: []corev1.PodIP{{IP: ip}}}
	if hostPorts != nil {
		p.Spec.HostNetwork = true
		c := corev1.Container{Name: "c"}
		for _, port := range hostPorts {
			c.Ports = append(c.Ports, corev1.ContainerPort{ContainerPort: port})
		}
		p.Spec.Containers = []corev1.Container{c}
	}
	return p
}

func TestRules(t *testing.T) {
	ours := netip.MustParseAddr("10.42.1.7")
	client := fake.NewClientset(
		pod("foreign", "172.20.0.5", corev1.PodRunning), pod("ended", "172.20.0.6", corev1.PodSucceeded),
		pod("host", "192.0.2.5", corev1.PodRunning, 9443), pod("v6", "fd00::5", corev1.PodRunning),
	)
	tests := []struct {
		target string
		want   string // modes that allow it
	}{
		{"127.0.0.1:10250", "agent pod cluster"},
		{"[::1]:10250", "agent pod cluster"},
		{"127.0.0.1:6444", ""},
		{"127.0.0.1:22", ""},
		{"10.42.1.7:443", "pod cluster"},
		{"10.42.1.1:22", ""}, // the bridge: the node itself
		{"10.42.2.7:443", ""},
		{"172.20.0.5:8443", "cluster"},
		{"172.20.0.6:8443", ""},
		{"[fd00::5]:8443", "cluster"},
		{"192.0.2.5:9443", "cluster"},
		{"192.0.2.5:22", ""},
		{"169.254.169.254:80", ""},
		{"10.43.0.1:443", ""},
	}
	kubelet := netip.MustParseAddrPort("192.0.2.9:10250") // by --kubelet-arg=address=
	for _, mode := range []string{"agent", "pod", "cluster"} {
		r := &rules{client: client, Options: Options{
			NodeName: "n1", Mode: mode, Kubelet: func() netip.AddrPort { return kubelet },
			Allocated: func(a netip.Addr) bool { return a == ours },
		}}
		for _, tt := range tests {
			target := netip.MustParseAddrPort(tt.target)
			dial, err := r.allow(t.Context(), target)
			want := slices.Contains(strings.Fields(tt.want), mode)
			if (err == nil) != want {
				t.Errorf("mode %s, %s: %v, want allowed %v", mode, tt.target, err, want)
			}
			if err == nil && dial != target && dial != kubelet {
				t.Errorf("mode %s, %s: %s is dialled", mode, tt.target, dial)
			}
		}
	}
}

func TestKubeletPortUnknown(t *testing.T) {
	r := &rules{Options: Options{NodeName: "n1", Mode: "agent", Kubelet: func() netip.AddrPort { return netip.AddrPort{} }}}
	for _, target := range []string{"127.0.0.1:10250", "127.0.0.1:1"} {
		if _, err := r.allow(t.Context(), netip.MustParseAddrPort(target)); err == nil {
			t.Errorf("%s is allowed before the kubelet's port is known", target)
		}
	}
}

func TestDisabled(t *testing.T) {
	if New(Options{Mode: modeDisabled}) != nil {
		t.Error("there is a tunnel although there is to be none")
	}
}
