package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"

	"skiff/internal/backoff"
	"skiff/pkg/component"
	"skiff/pkg/join"
)

// nodeWatch follows this node's Node object, by the kubelet's own identity,
// which may always read it. It is ready when the Node is.
type nodeWatch struct {
	name       string
	kubeconfig string
	external   []netip.Addr // to be told to the server
	logger     *slog.Logger
	// offline reports whether there is nobody to whom the node's state could be
	// reported; it may be nil.
	offline func() bool

	start time.Time // of this process' node: what was reported before does not count

	mu      sync.Mutex
	node    *corev1.Node  // nil until seen, and when it was deleted; guarded by mu
	seen    bool          // guarded by mu
	changed chan struct{} // closed and replaced at every change; guarded by mu
}

var (
	_ component.Component = (*nodeWatch)(nil)
	_ component.Readier   = (*nodeWatch)(nil)
)

// Name implements component.Component.
func (w *nodeWatch) Name() string { return "node" }

// Run implements component.Component.
func (w *nodeWatch) Run(ctx context.Context) error {
	cfg, err := clientcmd.BuildConfigFromFlags("", w.kubeconfig)
	if err != nil {
		return fmt.Errorf("make client to watch the node: %w", err)
	}
	cfg.ContentType = "application/vnd.kubernetes.protobuf"
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return fmt.Errorf("make client to watch the node: %w", err)
	}
	source := cache.NewListWatchFromClient(client.CoreV1().RESTClient(), "nodes", "", fields.OneTermEqualSelector("metadata.name", w.name))
	_, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: source,
		ObjectType:    &corev1.Node{},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    w.set,
			UpdateFunc: func(_, now any) { w.set(now) },
			DeleteFunc: func(any) { w.set(nil) },
		},
	})
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { w.tellExternal(ctx, client) })
	informer.RunWithContext(ctx)
	return nil
}

// tellExternal keeps the Node saying what --node-external-ip says.
func (w *nodeWatch) tellExternal(ctx context.Context, client kubernetes.Interface) {
	texts := make([]string, len(w.external))
	for i, a := range w.external {
		texts[i] = a.String()
	}
	want := strings.Join(texts, ",")
	retry := backoff.Sequence{Min: time.Second, Max: time.Minute}
	for {
		if w.wait(ctx, func(n *corev1.Node) bool { return n.Annotations[join.ExternalIPAnnotation] != want }) != nil {
			return
		}
		var value any
		if want != "" {
			value = want
		}
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]any{join.ExternalIPAnnotation: value}}})
		if err == nil {
			_, err = client.CoreV1().Nodes().Patch(ctx, w.name, types.MergePatchType, patch, metav1.PatchOptions{})
		}
		if err != nil && ctx.Err() == nil {
			w.logger.Warn("the server does not know yet of --node-external-ip; trying again", "error", err)
		}
		// Also after a success: until the watch shows it.
		if retry.Wait(ctx) != nil {
			return
		}
	}
}

func (w *nodeWatch) set(obj any) {
	n, _ := obj.(*corev1.Node)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.node, w.seen = n, w.seen || n != nil
	if w.changed != nil {
		close(w.changed)
	}
	w.changed = nil
}

// get returns the Node as last seen, and a channel that is closed when there
// is a newer one.
func (w *nodeWatch) get() (*corev1.Node, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.changed == nil {
		w.changed = make(chan struct{})
	}
	return w.node, w.changed
}

// wait returns when there is a Node that ok accepts.
func (w *nodeWatch) wait(ctx context.Context, ok func(*corev1.Node) bool) error {
	for {
		n, changed := w.get()
		if n != nil && ok(n) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// waitAddress waits until the Node has an address.
func (w *nodeWatch) waitAddress(ctx context.Context) error {
	return w.wait(ctx, func(n *corev1.Node) bool {
		for _, a := range n.Status.Addresses {
			if a.Type == corev1.NodeInternalIP {
				return true
			}
		}
		return false
	})
}

// waitPodCIDR waits until the Node has its range of pod addresses.
func (w *nodeWatch) waitPodCIDR(ctx context.Context) ([]netip.Prefix, error) {
	var pods []netip.Prefix
	err := w.wait(ctx, func(n *corev1.Node) bool {
		pods = nil
		for _, s := range n.Spec.PodCIDRs {
			p, err := netip.ParsePrefix(s)
			if err != nil {
				w.logger.Error("the node's pod range cannot be read", "range", s, "error", err)
				return false
			}
			pods = append(pods, p)
		}
		return len(pods) > 0
	})
	return pods, err
}

// Ready implements component.Readier. The Node's own condition says why it is
// not ready.
func (w *nodeWatch) Ready(context.Context) error {
	n, _ := w.get()
	if n == nil {
		return w.missing()
	}
	if w.offline != nil && w.offline() {
		return nil // The kubelet, the runtime and the network speak for themselves.
	}
	for _, c := range n.Status.Conditions {
		if c.Type != corev1.NodeReady {
			continue
		}
		// Times in the API are whole seconds.
		if c.LastHeartbeatTime.Time.Before(w.start.Truncate(time.Second)) {
			return errors.New("the kubelet has not reported the node's state since the start")
		}
		if c.Status == corev1.ConditionTrue {
			return w.initialized(n)
		}
		return fmt.Errorf("node %s is not ready: %s", w.name, c.Message)
	}
	return errors.New("the kubelet has not reported the node's state")
}

// missing says why there is no Node. The kubelet registers once.
func (w *nodeWatch) missing() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.seen {
		return fmt.Errorf("node %s was deleted from the cluster; restart skiff here and it registers again, or uninstall it", w.name)
	}
	return fmt.Errorf("node %s is not registered with the API server", w.name)
}

// uninitialized is the taint that the kubelet of a node with an external cloud
// provider registers with, and that keeps pods away.
const uninitialized = "node.cloudprovider.kubernetes.io/uninitialized"

func (w *nodeWatch) initialized(n *corev1.Node) error {
	for _, t := range n.Spec.Taints {
		// The controllers take the one that evicts away within five seconds, and
		// pods tolerate it for longer.
		if t.Key == uninitialized || t.Key == corev1.TaintNodeNotReady && t.Effect != corev1.TaintEffectNoExecute {
			return fmt.Errorf("node %s still has the taint %s", w.name, t.Key)
		}
	}
	return nil
}
