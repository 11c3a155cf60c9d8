// Package cloud does for nodes what a cloud provider would: it gives a new
// node its addresses and provider ID and takes away the taint that keeps pods
// off until then. It must not know how nodes are run. Start reading at
// Controller.Run; plan.go decides what a node lacks.
package cloud

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"skiff/pkg/component"
)

const name = "node-controller"

// Options is what New needs.
type Options struct {
	// Loopback is the API server's configuration for its own clients; it is
	// called when Run starts.
	Loopback func() *rest.Config
	// OwnNode is the name of the node in the same process, which is labelled
	// as control plane; empty if there is none.
	OwnNode string
	// Removed is called, again until it succeeds, after a Node was deleted.
	Removed func(ctx context.Context, node string) error
	Logger  *slog.Logger
}

// Controller initialises nodes and keeps their addresses.
type Controller struct {
	Options

	synced atomic.Bool
}

var (
	_ component.Component = (*Controller)(nil)
	_ component.Readier   = (*Controller)(nil)
)

// New returns the component.
func New(o Options) *Controller { return &Controller{Options: o} }

// Name implements component.Component.
func (c *Controller) Name() string { return name }

// Ready implements component.Readier.
func (c *Controller) Ready(context.Context) error {
	if !c.synced.Load() {
		return errors.New("waiting for the list of nodes")
	}
	return nil
}

// worker is one run of the controller.
type worker struct {
	client kubernetes.Interface
	nodes  corelisters.NodeLister
	queue  workqueue.TypedRateLimitingInterface[string]
	own    string
	// removed is Options.Removed.
	removed func(ctx context.Context, node string) error
	logger  *slog.Logger
}

// Run implements component.Component.
func (c *Controller) Run(ctx context.Context) error {
	cfg := c.Loopback()
	if cfg == nil {
		return errors.New("start " + name + ": kube-apiserver has not been built yet")
	}
	client, err := kubernetes.NewForConfig(rest.AddUserAgent(cfg, name))
	if err != nil {
		return fmt.Errorf("make client of %s: %w", name, err)
	}
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(trim))
	// Shutdown waits for the informer's goroutines; ctx stops them.
	defer factory.Shutdown()
	informer := factory.Core().V1().Nodes()
	w := &worker{
		client: client,
		nodes:  informer.Lister(),
		queue:  workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[string]()),
		own:    c.OwnNode,
		logger: c.Logger,

		removed: c.Removed,
	}
	add := func(obj any) {
		if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = gone.Obj
		}
		if n, ok := obj.(*corev1.Node); ok {
			w.queue.Add(n.Name)
		}
	}
	handler, err := informer.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    add,
		UpdateFunc: func(_, obj any) { add(obj) },
		DeleteFunc: add,
	})
	if err != nil {
		return fmt.Errorf("watch nodes: %w", err)
	}
	stop := context.AfterFunc(ctx, w.queue.ShutDown)
	defer stop()
	factory.StartWithContext(ctx)
	if cache.WaitForCacheSync(ctx.Done(), handler.HasSynced) {
		c.synced.Store(true)
	}
	for w.next(ctx) {
	}
	c.synced.Store(false)
	return nil
}

// next handles one node; it returns false when the queue is shut down.
func (w *worker) next(ctx context.Context) bool {
	name, quit := w.queue.Get()
	if quit {
		return false
	}
	defer w.queue.Done(name)
	switch err := w.sync(ctx, name); {
	case err == nil:
		w.queue.Forget(name)
	case ctx.Err() != nil:
	default:
		if !apierrors.IsConflict(err) {
			w.logger.Warn("node could not be initialised, trying again", "node", name, "error", err)
		}
		w.queue.AddRateLimited(name)
	}
	return true
}

// sync brings one node up to date. The addresses come first: once the taint is
// gone, pods may want to know them.
func (w *worker) sync(ctx context.Context, name string) error {
	node, err := w.nodes.Get(name)
	if apierrors.IsNotFound(err) {
		return w.removed(ctx, name)
	}
	if err != nil {
		return fmt.Errorf("read node: %w", err)
	}
	p, err := planFor(node, w.own)
	if err != nil {
		return err
	}
	if p.status != nil {
		if _, err := w.client.CoreV1().Nodes().Patch(ctx, name, types.MergePatchType, p.status, metav1.PatchOptions{}, "status"); err != nil {
			return fmt.Errorf("set addresses: %w", err)
		}
		w.logger.Info("node has new addresses", "node", name, "addresses", p.addresses)
	}
	if p.spec != nil {
		if _, err := w.client.CoreV1().Nodes().Patch(ctx, name, types.MergePatchType, p.spec, metav1.PatchOptions{}); err != nil {
			return fmt.Errorf("set provider ID and role, remove taint: %w", err)
		}
		w.logger.Info("node is initialised", "node", name)
	}
	return nil
}

// trim drops what the controller never looks at, above all the image list.
func trim(obj any) (any, error) {
	if n, ok := obj.(*corev1.Node); ok {
		n.ManagedFields = nil
		n.Status.Images = nil
		n.Status.Conditions = nil
		n.Status.Capacity = nil
		n.Status.Allocatable = nil
		n.Status.NodeInfo = corev1.NodeSystemInfo{}
	}
	return obj, nil
}
