package flannel

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"skiff/pkg/kube/reconcile"
)

// Annotations by which nodes tell each other about themselves. They are
// flannel's names, which tools know.
const (
	annotationManaged  = "flannel.alpha.coreos.com/kube-subnet-manager"
	annotationType     = "flannel.alpha.coreos.com/backend-type"
	annotationData     = "flannel.alpha.coreos.com/backend-data"
	annotationDataV6   = "flannel.alpha.coreos.com/backend-v6-data"
	annotationPublic   = "flannel.alpha.coreos.com/public-ip"
	annotationPublicV6 = "flannel.alpha.coreos.com/public-ipv6"
)

func annotations() []string {
	return []string{annotationManaged, annotationType, annotationData, annotationDataV6, annotationPublic, annotationPublicV6}
}

// announceWithin bounds the time in which the API server answers.
const announceWithin = 10 * time.Second

// peer is what another node says of itself.
type peer struct {
	name    string
	backend string
	pods    []netip.Prefix
	v4, v6  end
}

// end is how a node is reached in one IP family.
type end struct {
	addr netip.Addr // not valid: not in this family
	data json.RawMessage
}

// at is the node's end in the family of the pods' range.
func (p peer) at(pods netip.Prefix) end {
	if pods.Addr().Is4() {
		return p.v4
	}
	return p.v6
}

// nodes follows the Node objects.
type nodes struct {
	client   kubernetes.Interface
	name     string         // of this node
	cluster  []netip.Prefix // where pods' addresses lie
	informer cache.SharedIndexInformer
	logger   *slog.Logger
}

// newNodes prepares the watch; changed is called for every change that matters.
func newNodes(client kubernetes.Interface, name string, cluster []netip.Prefix, changed func(), logger *slog.Logger) (*nodes, error) {
	n := &nodes{client: client, name: name, cluster: cluster, logger: logger}
	n.informer = informers.NewSharedInformerFactory(client, 0).Core().V1().Nodes().Informer()
	if err := n.informer.SetTransform(slim); err != nil {
		return nil, fmt.Errorf("watch nodes: %w", err)
	}
	if err := reconcile.OnChange(changed, func(before, after any) bool { return !sameNode(before, after) }, n.informer); err != nil {
		return nil, err
	}
	return n, nil
}

// slim keeps of a Node what is read here, so that a cluster's nodes cost little
// memory on each of them.
func slim(obj any) (any, error) {
	n, ok := obj.(*corev1.Node)
	if !ok {
		return obj, nil
	}
	small := &corev1.Node{}
	small.Name, small.ResourceVersion, small.UID, small.CreationTimestamp = n.Name, n.ResourceVersion, n.UID, n.CreationTimestamp
	small.Spec.PodCIDRs = n.Spec.PodCIDRs
	small.Annotations = map[string]string{}
	for _, key := range annotations() {
		if v, ok := n.Annotations[key]; ok {
			small.Annotations[key] = v
		}
	}
	return small, nil
}

func sameNode(before, after any) bool {
	a, ok1 := before.(*corev1.Node)
	b, ok2 := after.(*corev1.Node)
	if !ok1 || !ok2 || !slices.Equal(a.Spec.PodCIDRs, b.Spec.PodCIDRs) {
		return false
	}
	for _, key := range annotations() {
		if a.Annotations[key] != b.Annotations[key] {
			return false
		}
	}
	return true
}

// waitListed waits until it is known which nodes there are, and reports whether
// it is.
func (n *nodes) waitListed(ctx context.Context) bool {
	return cache.WaitForCacheSync(ctx.Done(), n.informer.HasSynced)
}

// peers are the other nodes that have said how they are reached, the oldest
// first: of two that say the same, the younger is wrong. ok is false as long as
// nobody has said which nodes there are.
func (n *nodes) peers() (all []peer, ok bool) {
	if !n.informer.HasSynced() {
		return nil, false
	}
	var list []*corev1.Node
	for _, obj := range n.informer.GetStore().List() {
		if node, ok := obj.(*corev1.Node); ok && node.Name != n.name {
			list = append(list, node)
		}
	}
	slices.SortFunc(list, func(a, b *corev1.Node) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	var taken []netip.Prefix
	for _, node := range list {
		p, err := n.read(node)
		if err == nil {
			err = overlap(p.pods, taken)
		}
		if err != nil {
			n.logger.Warn("a node's pods cannot be reached: what it says makes no sense", "node", node.Name, "error", err)
			continue
		}
		if len(p.pods) > 0 {
			taken = append(taken, p.pods...)
			all = append(all, p)
		}
	}
	return all, true
}

func overlap(pods, taken []netip.Prefix) error {
	for _, p := range pods {
		for _, t := range taken {
			if p.Overlaps(t) {
				return fmt.Errorf("its pod range %s overlaps that of an older node, %s", p, t)
			}
		}
	}
	return nil
}

// read turns a Node into a peer, which has no pods if the node has not said
// yet how it is reached.
func (n *nodes) read(node *corev1.Node) (peer, error) {
	p := peer{name: node.Name, backend: node.Annotations[annotationType]}
	if node.Annotations[annotationManaged] != "true" {
		return p, nil
	}
	for _, e := range []struct {
		to         *end
		addr, data string
	}{{&p.v4, annotationPublic, annotationData}, {&p.v6, annotationPublicV6, annotationDataV6}} {
		text, given := node.Annotations[e.addr]
		if !given {
			continue
		}
		addr, err := netip.ParseAddr(text)
		if err != nil || !addr.IsGlobalUnicast() || addr.Is4() != (e.to == &p.v4) {
			return p, fmt.Errorf("its annotation %s is %q, which is no address of a node", e.addr, text)
		}
		e.to.addr, e.to.data = addr, json.RawMessage(node.Annotations[e.data])
	}
	for _, s := range node.Spec.PodCIDRs {
		pods, err := netip.ParsePrefix(s)
		if err != nil || !within(n.cluster, pods) {
			return p, fmt.Errorf("its pod range %q does not lie in --cluster-cidr %v", s, n.cluster)
		}
		if p.at(pods).addr.IsValid() {
			p.pods = append(p.pods, pods.Masked())
		}
	}
	return p, nil
}

// within reports whether a range lies in one of others.
func within(ranges []netip.Prefix, p netip.Prefix) bool {
	return slices.ContainsFunc(ranges, func(r netip.Prefix) bool { return r.Bits() <= p.Bits() && r.Contains(p.Addr()) })
}

// announce has this node's annotations say how it is reached. What they say
// already is not written again.
func (n *nodes) announce(ctx context.Context, want map[string]*string) error {
	obj, found, err := n.informer.GetStore().GetByKey(n.name)
	if err != nil || !found {
		return err // The Node comes, and with it the next call.
	}
	node, ok := obj.(*corev1.Node)
	if !ok {
		return fmt.Errorf("announce this node: got a %T for it", obj)
	}
	change := map[string]*string{}
	for key, value := range want {
		if have, ok := node.Annotations[key]; ok != (value != nil) || value != nil && have != *value {
			change[key] = value
		}
	}
	if len(change) == 0 {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": change}})
	if err != nil {
		return fmt.Errorf("announce this node: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, announceWithin)
	defer cancel()
	if _, err := n.client.CoreV1().Nodes().Patch(ctx, n.name, types.MergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil {
		return fmt.Errorf("announce this node: %w", err)
	}
	return nil
}
