// Package runtimeclass makes a RuntimeClass for every container runtime that a
// node reports besides its default, and labels the nodes that have it, so that
// pods which ask for it go nowhere else. It must not know how nodes find
// runtimes. Start reading at Controller.Run; plan.go decides what is missing.
package runtimeclass

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"skiff/internal/signal"
	"skiff/pkg/component"
	"skiff/pkg/kube/reconcile"
)

const (
	name = "runtime-classes"
	// retry is when a write that has failed is tried again.
	retry = time.Second
)

// Options is what New needs.
type Options struct {
	// Loopback is the API server's configuration for its own clients; it is
	// called when Run starts.
	Loopback func() *rest.Config
	Logger   *slog.Logger
}

// Controller is the component.
type Controller struct{ Options }

var _ component.Component = (*Controller)(nil)

// New returns the component.
func New(o Options) *Controller { return &Controller{Options: o} }

// Name implements component.Component.
func (c *Controller) Name() string { return name }

// Run implements component.Component. All nodes together decide which classes
// there are.
func (c *Controller) Run(ctx context.Context) error {
	client, err := kubernetes.NewForConfig(rest.AddUserAgent(c.Loopback(), name))
	if err != nil {
		return fmt.Errorf("make client of %s: %w", name, err)
	}
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(trim))
	defer factory.Shutdown() // Waits for the informer's goroutines; ctx stops them.
	nodes, changed := factory.Core().V1().Nodes(), signal.New()
	if err := reconcile.OnChange(changed.Send, differ, nodes.Informer()); err != nil {
		return err
	}
	factory.StartWithContext(ctx)
	if !cache.WaitForCacheSync(ctx.Done(), nodes.Informer().HasSynced) {
		return nil
	}
	reconcile.Loop{
		Changed: changed, Retry: retry, Failed: "runtime classes are not up to date", Logger: c.Logger,
		Sync: func(ctx context.Context) (time.Duration, error) { return 0, c.sync(ctx, client, nodes.Lister()) },
	}.Run(ctx)
	return nil
}

// sync labels nodes before it makes classes, so that a pod of a new class finds
// its node. A class that somebody else has made is left alone.
func (c *Controller) sync(ctx context.Context, client kubernetes.Interface, lister corelisters.NodeLister) error {
	nodes, err := lister.List(labels.Everything())
	if err != nil {
		return fmt.Errorf("list nodes: %w", err)
	}
	var errs []error
	for _, n := range nodes {
		patch, err := labelPatch(n)
		if err != nil || patch == nil {
			errs = append(errs, err)
			continue
		}
		if _, err := client.CoreV1().Nodes().Patch(ctx, n.Name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("label node %s with its runtimes: %w", n.Name, err))
		}
	}
	classes, err := client.NodeV1().RuntimeClasses().List(ctx, metav1.ListOptions{})
	if err != nil {
		return errors.Join(append(errs, fmt.Errorf("list runtime classes: %w", err))...)
	}
	add, remove := plan(nodes, classes.Items)
	for _, class := range add {
		_, err := client.NodeV1().RuntimeClasses().Create(ctx, class, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			errs = append(errs, fmt.Errorf("make runtime class %s: %w", class.Name, err))
			continue
		}
		c.Logger.Info("runtime class made", "name", class.Name)
	}
	errs = append(errs, removeAll(ctx, client, remove))
	return errors.Join(errs...)
}

// Clear removes the classes that Run has made, also in an earlier process.
// Labels of nodes stay; they do no harm.
func Clear(ctx context.Context, client kubernetes.Interface) error {
	classes, err := client.NodeV1().RuntimeClasses().List(ctx, metav1.ListOptions{LabelSelector: managed})
	if err != nil {
		return fmt.Errorf("list runtime classes: %w", err)
	}
	_, remove := plan(nil, classes.Items)
	return removeAll(ctx, client, remove)
}

func removeAll(ctx context.Context, client kubernetes.Interface, names []string) error {
	var errs []error
	for _, name := range names {
		if err := client.NodeV1().RuntimeClasses().Delete(ctx, name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("remove runtime class %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// trim keeps the name, the labels of ours and the runtimes.
func trim(obj any) (any, error) {
	n, ok := obj.(*corev1.Node)
	if !ok {
		return obj, nil
	}
	out := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.Name, UID: n.UID, ResourceVersion: n.ResourceVersion, Labels: ours(n.Labels)}}
	out.Status.RuntimeHandlers = n.Status.RuntimeHandlers
	return out, nil
}
