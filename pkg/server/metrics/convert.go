package metrics

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	"k8s.io/metrics/pkg/apis/metrics"
)

// window is over what time the kubelet takes the rate of CPU time.
const window = 10 * time.Second

// nodeMetrics is what a node uses, or nil while its kubelet cannot say.
func nodeMetrics(node *corev1.Node, u *usage) *metrics.NodeMetrics {
	list, at, ok := resources(u.node.CPU, u.node.Memory)
	if !ok {
		return nil
	}
	return &metrics.NodeMetrics{
		ObjectMeta: metav1.ObjectMeta{Name: node.Name, Labels: node.Labels, CreationTimestamp: metav1.Now()},
		Timestamp:  at, Window: metav1.Duration{Duration: window}, Usage: list,
	}
}

// podMetrics is what a pod uses, or nil while its kubelet cannot say it of
// every container: a sum with a part missing would mislead an autoscaler.
func podMetrics(pod *corev1.Pod, u *usage) *metrics.PodMetrics {
	s := u.pods[podKey{pod.Namespace, pod.Name}]
	// Another pod of the same name has no say.
	if s == nil || len(s.Containers) == 0 || s.PodRef.UID != string(pod.UID) {
		return nil
	}
	m := &metrics.PodMetrics{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, Labels: pod.Labels, CreationTimestamp: metav1.Now()},
		Window:     metav1.Duration{Duration: window},
	}
	for _, c := range s.Containers {
		list, at, ok := resources(c.CPU, c.Memory)
		if !ok {
			return nil
		}
		if m.Timestamp.IsZero() || at.Before(&m.Timestamp) {
			m.Timestamp = at
		}
		m.Containers = append(m.Containers, metrics.ContainerMetrics{Name: c.Name, Usage: list})
	}
	return m
}

// resources are the CPU and memory in use, if both are known, and when.
func resources(cpu *stats.CPUStats, memory *stats.MemoryStats) (list corev1.ResourceList, at metav1.Time, ok bool) {
	if cpu == nil || memory == nil || cpu.UsageNanoCores == nil || memory.WorkingSetBytes == nil {
		return nil, at, false
	}
	return corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewScaledQuantity(int64(*cpu.UsageNanoCores), resource.Nano),
		corev1.ResourceMemory: *resource.NewQuantity(int64(*memory.WorkingSetBytes), resource.BinarySI),
	}, cpu.Time, true
}
