package dns

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/cache"

	"skiff/pkg/kube/reconcile"
)

// The ConfigMaps that configure cluster DNS, as K3s has them.
const (
	mainConfigMap   = "coredns"
	customConfigMap = "coredns-custom"
	keyCorefile     = "Corefile"
	keyNodeHosts    = "NodeHosts"
)

// input is all that the API says about the configuration of the name server.
type input struct {
	Corefile  string            // "" means the default
	NodeHosts string            // lines of hosts(5)
	Custom    map[string]string // files of coredns-custom
}

// inputs keeps an input up to date.
type inputs struct {
	main, custom, nodes cache.SharedIndexInformer
}

// newInputs prepares the watches; changed is called after every change that matters.
func newInputs(c *client, changed func()) *inputs {
	in := &inputs{
		main:   c.watchOne("configmaps", mainConfigMap, &corev1.ConfigMap{}),
		custom: c.watchOne("configmaps", customConfigMap, &corev1.ConfigMap{}),
		nodes:  c.watchNodes(),
	}
	// The error is for informers that have stopped; these have not started.
	_ = reconcile.OnChange(changed, func(o, n any) bool { return digest(o) != digest(n) }, in.all()...)
	return in
}

func (in *inputs) all() []cache.SharedIndexInformer {
	return []cache.SharedIndexInformer{in.main, in.custom, in.nodes}
}

// run watches until ctx ends.
func (in *inputs) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, i := range in.all() {
		wg.Go(func() { i.RunWithContext(ctx) })
	}
}

// waitSynced waits until everything has been listed once or ctx ends.
func (in *inputs) waitSynced(ctx context.Context) {
	cache.WaitForCacheSync(ctx.Done(), in.main.HasSynced, in.custom.HasSynced, in.nodes.HasSynced)
}

// snapshot returns the present input.
func (in *inputs) snapshot() input {
	var out input
	for _, o := range in.main.GetStore().List() {
		out.Corefile = o.(*corev1.ConfigMap).Data[keyCorefile]
		out.NodeHosts = o.(*corev1.ConfigMap).Data[keyNodeHosts]
	}
	for _, o := range in.custom.GetStore().List() {
		out.Custom = maps.Clone(o.(*corev1.ConfigMap).Data)
	}
	var nodes []*corev1.Node
	for _, o := range in.nodes.GetStore().List() {
		nodes = append(nodes, o.(*corev1.Node))
	}
	out.NodeHosts = nodeHosts(out.NodeHosts, nodes)
	return out
}

// nodeHosts adds a line for every node to those the user wrote; the user's come
// first.
func nodeHosts(written string, nodes []*corev1.Node) string {
	var b strings.Builder
	if written = strings.TrimSpace(written); written != "" {
		b.WriteString(written + "\n")
	}
	slices.SortFunc(nodes, func(x, y *corev1.Node) int { return strings.Compare(x.Name, y.Name) })
	for _, n := range nodes {
		names := []string{n.Name}
		for _, a := range n.Status.Addresses {
			if a.Type == corev1.NodeHostName && !slices.Contains(names, a.Address) {
				names = append(names, a.Address)
			}
		}
		for _, a := range n.Status.Addresses {
			if a.Type == corev1.NodeInternalIP {
				b.WriteString(a.Address + " " + strings.Join(names, " ") + "\n")
			}
		}
	}
	return b.String()
}

// digest is what of an object matters to the name server.
func digest(o any) string {
	switch o := o.(type) {
	case *corev1.ConfigMap:
		return o.ResourceVersion
	case *corev1.Node:
		return nodeHosts("", []*corev1.Node{o})
	}
	return ""
}

// watchOne makes an informer for one object of kube-system.
func (c *client) watchOne(resource, name string, o runtime.Object) cache.SharedIndexInformer {
	lw := cache.NewListWatchFromClient(c.CoreV1().RESTClient(), resource, metav1.NamespaceSystem, fields.OneTermEqualSelector("metadata.name", name))
	return cache.NewSharedIndexInformer(lw, o, 0, cache.Indexers{})
}

// watchNodes makes an informer that keeps nothing but names and addresses.
func (c *client) watchNodes() cache.SharedIndexInformer {
	lw := cache.NewListWatchFromClient(c.CoreV1().RESTClient(), "nodes", metav1.NamespaceAll, fields.Everything())
	i := cache.NewSharedIndexInformer(lw, &corev1.Node{}, 0, cache.Indexers{})
	// The error is for informers that have started; this one has not.
	_ = i.SetTransform(func(o any) (any, error) {
		n, ok := o.(*corev1.Node)
		if !ok {
			return o, nil
		}
		return &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: n.Name, UID: n.UID, ResourceVersion: n.ResourceVersion},
			Status:     corev1.NodeStatus{Addresses: n.Status.Addresses},
		}, nil
	})
	return i
}
