package uplink

import (
	"context"
	"fmt"
	"net/netip"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// rules decide what servers may reach: the kubelet, by the loopback address,
// and pods of this node if the mode says so.
type rules struct {
	Options

	mu     sync.Mutex
	client kubernetes.Interface // nil before it is first needed; guarded by mu
}

// allow returns what to connect to for a target, or why not to.
func (r *rules) allow(ctx context.Context, target netip.AddrPort) (netip.AddrPort, error) {
	if target.Addr().IsLoopback() {
		kubelet := r.Kubelet()
		if kubelet.IsValid() && target.Port() == kubelet.Port() {
			return kubelet, nil
		}
		if !kubelet.IsValid() {
			return kubelet, fmt.Errorf("the kubelet of node %s does not serve yet", r.NodeName)
		}
		return kubelet, fmt.Errorf("of node %s itself only the kubelet (port %d) may be reached, not %s", r.NodeName, kubelet.Port(), target)
	}
	return target, r.allowPod(ctx, target)
}

func (r *rules) allowPod(ctx context.Context, target netip.AddrPort) error {
	if r.Mode != modePod && r.Mode != modeCluster {
		return fmt.Errorf("--egress-selector-mode is %q: of node %s only the kubelet may be reached, not %s", r.Mode, r.NodeName, target)
	}
	if r.Allocated != nil && r.Allocated(target.Addr()) {
		return nil
	}
	if r.Mode == modeCluster {
		pods, err := r.pods(ctx)
		if err != nil {
			return fmt.Errorf("find out whether %s is a pod of node %s: %w", target, r.NodeName, err)
		}
		if isPod(pods, target) {
			return nil
		}
	}
	return fmt.Errorf("%s is not the address of a pod on node %s", target, r.NodeName)
}

// pods are those of this node, as the API server has them in memory. They are
// asked for at each new connection to a pod whose address is not one of ours,
// which are few: connections are kept and used again.
func (r *rules) pods(ctx context.Context) ([]corev1.Pod, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.client == nil {
		cfg, err := clientcmd.BuildConfigFromFlags("", r.Kubeconfig)
		if err != nil {
			return nil, fmt.Errorf("make client: %w", err)
		}
		if r.client, err = kubernetes.NewForConfig(cfg); err != nil {
			return nil, fmt.Errorf("make client: %w", err)
		}
	}
	list, err := r.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{
		ResourceVersion: "0", FieldSelector: fields.OneTermEqualSelector("spec.nodeName", r.NodeName).String(),
	})
	if err != nil {
		return nil, fmt.Errorf("list pods: %w", err)
	}
	return list.Items, nil
}

// isPod reports whether the target is that of a pod: any port of an address of
// its own, or a port that a pod in the host's network declares.
func isPod(pods []corev1.Pod, target netip.AddrPort) bool {
	for i := range pods {
		p := &pods[i]
		if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
			continue
		}
		for _, a := range p.Status.PodIPs {
			ip, err := netip.ParseAddr(a.IP)
			if err == nil && ip == target.Addr() && (!p.Spec.HostNetwork || declares(p, target.Port())) {
				return true
			}
		}
	}
	return false
}

func declares(p *corev1.Pod, port uint16) bool {
	for _, c := range p.Spec.Containers {
		for _, d := range c.Ports {
			if d.ContainerPort == int32(port) && (d.Protocol == corev1.ProtocolTCP || d.Protocol == "") {
				return true
			}
		}
	}
	return false
}
