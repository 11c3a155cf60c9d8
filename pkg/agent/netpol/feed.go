package netpol

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"skiff/internal/backoff"
	"skiff/pkg/agent/netpol/plan"
	"skiff/pkg/paths"
)

// feed hands the objects of one resource on and keeps nothing but their names.
type feed struct {
	source   cache.ListerWatcher
	expected runtime.Object
	set      func(obj any)
	drop     func(plan.Key)

	known  map[plan.Key]struct{}
	once   sync.Once
	synced chan struct{} // closed after the first list
}

var _ cache.ReflectorStore = (*feed)(nil)

func newFeed(client rest.Interface, resource, namespace string, expected runtime.Object, narrow func(*metav1.ListOptions)) *feed {
	return &feed{
		source:   cache.NewFilteredListWatchFromClient(client, resource, namespace, narrow),
		expected: expected, known: map[plan.Key]struct{}{}, synced: make(chan struct{}),
	}
}

// run follows the resource until ctx ends.
func (f *feed) run(ctx context.Context) {
	cache.NewReflectorWithOptions(f.source, f.expected, f, cache.ReflectorOptions{
		Name: "network policy", TypeDescription: fmt.Sprintf("%T", f.expected),
	}).RunWithContext(ctx)
}

func keyOf(obj any) (plan.Key, error) {
	m, err := meta.Accessor(obj)
	if err != nil {
		return plan.Key{}, fmt.Errorf("read the name of an object: %w", err)
	}
	return plan.Key{Namespace: m.GetNamespace(), Name: m.GetName()}, nil
}

// Add implements cache.ReflectorStore.
func (f *feed) Add(obj any) error {
	key, err := keyOf(obj)
	if err != nil {
		return err
	}
	f.known[key] = struct{}{}
	f.set(obj)
	return nil
}

// Update implements cache.ReflectorStore.
func (f *feed) Update(obj any) error { return f.Add(obj) }

// Delete implements cache.ReflectorStore.
func (f *feed) Delete(obj any) error {
	key, err := keyOf(obj)
	if err != nil {
		return err
	}
	delete(f.known, key)
	f.drop(key)
	return nil
}

// Replace implements cache.ReflectorStore.
func (f *feed) Replace(list []any, _ string) error {
	gone := f.known
	f.known = make(map[plan.Key]struct{}, len(list))
	for _, obj := range list {
		if err := f.Add(obj); err != nil {
			return err
		}
		key, _ := keyOf(obj) // Add has read it.
		delete(gone, key)
	}
	for key := range gone {
		f.drop(key)
	}
	f.once.Do(func() { close(f.synced) })
	return nil
}

// Resync implements cache.ReflectorStore; there is nothing to do.
func (f *feed) Resync() error { return nil }

// watchPolicies follows the policies until ctx ends.
func (e *Enforcer) watchPolicies(ctx context.Context, client kubernetes.Interface) {
	if !e.waitAllowed(ctx, client) {
		return
	}
	f := newFeed(client.NetworkingV1().RESTClient(), "networkpolicies", "", &networkingv1.NetworkPolicy{}, func(*metav1.ListOptions) {})
	f.drop = e.dropPolicy
	f.set = func(obj any) {
		if np, ok := obj.(*networkingv1.NetworkPolicy); ok {
			e.setPolicy(np)
		}
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { f.run(ctx) })
	select {
	case <-ctx.Done():
	case <-f.synced:
		e.mu.Lock()
		e.listed = true
		e.notify()
		e.mu.Unlock()
	}
}

// waitAllowed waits until the API answers and lets us list policies: at the
// very first start that takes a moment.
func (e *Enforcer) waitAllowed(ctx context.Context, client kubernetes.Interface) bool {
	retry := backoff.Sequence{Min: 25 * time.Millisecond, Max: 100 * time.Millisecond}
	begin := time.Now()
	for {
		if time.Since(begin) > 10*time.Second {
			retry.Max = 2 * time.Second // It is not the first start: the API is away.
		}
		_, err := client.NetworkingV1().NetworkPolicies(metav1.NamespaceAll).List(ctx, metav1.ListOptions{Limit: 1})
		if err == nil {
			return true
		}
		e.Logger.Debug("network policies cannot be listed yet", "error", err)
		if retry.Wait(ctx) != nil {
			return false
		}
	}
}

// feeds are what a session needs to know besides the policies.
func (e *Enforcer) feeds(s *session, client kubernetes.Interface) []*feed {
	tell := func(fn func()) {
		e.mu.Lock()
		defer e.mu.Unlock()
		fn()
		s.touch()
	}
	pods := newFeed(client.CoreV1().RESTClient(), "pods", "", &corev1.Pod{}, func(o *metav1.ListOptions) {
		o.FieldSelector = "status.phase!=Succeeded,status.phase!=Failed"
	})
	pods.drop = func(key plan.Key) { tell(func() { s.planner.DeletePod(key) }) }
	pods.set = func(obj any) {
		if pod, ok := obj.(*corev1.Pod); ok && !pod.Spec.HostNetwork {
			tell(func() { s.planner.SetPod(e.pod(pod)) })
		}
	}
	namespaces := newFeed(client.CoreV1().RESTClient(), "namespaces", "", &corev1.Namespace{}, func(*metav1.ListOptions) {})
	namespaces.drop = func(key plan.Key) { tell(func() { s.planner.SetNamespace(key.Name, nil) }) }
	namespaces.set = func(obj any) {
		if ns, ok := obj.(*corev1.Namespace); ok {
			l := labels.Set{}
			maps.Copy(l, ns.Labels)
			tell(func() { s.planner.SetNamespace(ns.Name, l) })
		}
	}
	return append([]*feed{pods, namespaces}, standInFeeds(s, client, tell)...)
}

// pod keeps what a plan needs.
func (e *Enforcer) pod(pod *corev1.Pod) *plan.Pod {
	p := &plan.Pod{
		Key: plan.Key{Namespace: pod.Namespace, Name: pod.Name}, UIDs: []string{string(pod.UID)}, Labels: pod.Labels,
		Local: pod.Spec.NodeName == e.NodeName, Created: pod.CreationTimestamp.Time,
	}
	// The sandbox of a static pod knows it by this, see the kubelet's pkg/kubelet/types.
	if hash := pod.Annotations["kubernetes.io/config.hash"]; hash != "" {
		p.UIDs = append(p.UIDs, hash)
	}
	for _, ip := range pod.Status.PodIPs {
		if a, err := netip.ParseAddr(ip.IP); err == nil {
			p.IPs = append(p.IPs, a.Unmap())
		}
	}
	containers := pod.Spec.Containers
	for _, c := range pod.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			containers = append(slices.Clip(containers), c)
		}
	}
	for _, c := range containers {
		for _, port := range c.Ports {
			if port.Name != "" {
				p.Ports = append(p.Ports, plan.Port{Name: port.Name, Protocol: protocol(&port.Protocol), Number: port.ContainerPort})
			}
		}
	}
	return p
}

func protocol(p *corev1.Protocol) string {
	if p == nil || *p == "" {
		return "tcp"
	}
	return strings.ToLower(string(*p))
}

func sysctl(name string) string { return filepath.Join(paths.Sysctl, name) }
