// Package volumes says on the claims of local-path volumes when the node that
// has their data is away: the node itself cannot, and to the scheduler it is
// only one node of several that does not fit. It must not change anything.
// Start reading at Controller.Run; watcher.look decides.
package volumes

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"skiff/internal/signal"
	"skiff/pkg/component"
	"skiff/pkg/kube/demand"
	"skiff/pkg/kube/events"
	"skiff/pkg/kube/reconcile"
)

const (
	name = "local-volumes"
	// As pkg/agent/storage writes them on volumes.
	provisioner       = "skiff.dev/local-path"
	provisionedByNote = "pv.kubernetes.io/provisioned-by"
	nodeLabel         = "storage.skiff.dev/node"

	// patience is how long a node may be away before its volumes are missed: a
	// restart is nothing to report.
	patience = time.Minute
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
func New(o Options) *Controller { return &Controller{o} }

// Name implements component.Component.
func (c *Controller) Name() string { return name }

// Run implements component.Component.
func (c *Controller) Run(ctx context.Context) error {
	cfg := c.Loopback()
	if cfg == nil {
		return errors.New("start " + name + ": kube-apiserver has not been built yet")
	}
	cfg = rest.AddUserAgent(cfg, name)
	return demand.While(ctx, demand.Options{
		Config:    cfg,
		Resources: []schema.GroupVersionResource{corev1.SchemeGroupVersion.WithResource("persistentvolumes")},
		Match: func(m *metav1.PartialObjectMetadata) bool {
			return m.Annotations[provisionedByNote] == provisioner && m.Labels[nodeLabel] != ""
		},
		Linger: patience,
		Logger: c.Logger,
	}, func(ctx context.Context) error { return c.serve(ctx, cfg) })
}

// serve watches until ctx ends.
func (c *Controller) serve(ctx context.Context, cfg *rest.Config) error {
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return fmt.Errorf("make client of %s: %w", name, err)
	}
	recorder, stop := events.NewRecorder(ctx, client, provisioner, "")
	defer stop()
	return newWatcher(client, recorder, c.Logger).run(ctx)
}

// watcher is the controller while there are volumes.
type watcher struct {
	events         record.EventRecorder
	logger         *slog.Logger
	client         kubernetes.Interface
	nodes, volumes cache.SharedIndexInformer
	changed        signal.Signal
	// away are the nodes with volumes that are not ready.
	away map[string]*absence
}

// absence is a node's.
type absence struct {
	since time.Time // when it was seen first
	told  bool
}

func newWatcher(client kubernetes.Interface, events record.EventRecorder, logger *slog.Logger) *watcher {
	return &watcher{client: client, events: events, logger: logger, changed: signal.New(), away: map[string]*absence{}}
}

func (w *watcher) run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	nodes := informers.NewSharedInformerFactoryWithOptions(w.client, 0, informers.WithTransform(trim))
	volumes := informers.NewSharedInformerFactoryWithOptions(w.client, 0, informers.WithTransform(trim),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = nodeLabel }))
	defer nodes.Shutdown()
	defer volumes.Shutdown()
	defer stop()
	w.nodes, w.volumes = nodes.Core().V1().Nodes().Informer(), volumes.Core().V1().PersistentVolumes().Informer()
	if err := reconcile.OnChange(w.changed.Send, nil, w.nodes, w.volumes); err != nil {
		return err
	}
	nodes.StartWithContext(ctx)
	volumes.StartWithContext(ctx)
	if !cache.WaitForCacheSync(ctx.Done(), w.nodes.HasSynced, w.volumes.HasSynced) {
		return nil
	}
	reconcile.Loop{
		Changed: w.changed, Logger: w.logger,
		Sync: func(context.Context) (time.Duration, error) { return w.look(time.Now()), nil },
	}.Run(ctx)
	return nil
}

// trim keeps what look needs.
func trim(obj any) (any, error) {
	meta := func(o metav1.Object) metav1.ObjectMeta {
		return metav1.ObjectMeta{Name: o.GetName(), UID: o.GetUID(), ResourceVersion: o.GetResourceVersion()}
	}
	switch o := obj.(type) {
	case *corev1.Node:
		n := &corev1.Node{ObjectMeta: meta(o)}
		for _, c := range o.Status.Conditions {
			if c.Type == corev1.NodeReady {
				n.Status.Conditions = []corev1.NodeCondition{{Type: c.Type, Status: c.Status}}
			}
		}
		return n, nil
	case *corev1.PersistentVolume:
		v := &corev1.PersistentVolume{ObjectMeta: meta(o)}
		v.Labels = map[string]string{nodeLabel: o.Labels[nodeLabel]}
		v.Spec.ClaimRef, v.Spec.Local, v.Status.Phase = o.Spec.ClaimRef, o.Spec.Local, o.Status.Phase
		return v, nil
	}
	return obj, nil
}

// look tells the claims of nodes that have been away for long, and of those
// that have come back. It returns after what time to look again, or 0.
func (w *watcher) look(now time.Time) (again time.Duration) {
	byNode := map[string][]*corev1.PersistentVolume{}
	for _, obj := range w.volumes.GetStore().List() {
		if v, ok := obj.(*corev1.PersistentVolume); ok && v.Status.Phase == corev1.VolumeBound && v.Spec.ClaimRef != nil && v.Spec.Local != nil {
			byNode[v.Labels[nodeLabel]] = append(byNode[v.Labels[nodeLabel]], v)
		}
	}
	for node := range w.away {
		if len(byNode[node]) == 0 {
			delete(w.away, node)
		}
	}
	for node, volumes := range byNode {
		why, a := w.missing(node), w.away[node]
		switch {
		case why == "" && a != nil:
			delete(w.away, node)
			if a.told {
				w.tell(volumes, corev1.EventTypeNormal, "VolumeNodeBack", "node "+node+", which has the data, is back")
			}
		case why != "" && a == nil:
			w.away[node] = &absence{since: now}
			again = sooner(again, patience)
		case why != "" && !a.told:
			if left := patience - now.Sub(a.since); left > 0 {
				again = sooner(again, left)
				continue
			}
			a.told = true
			w.logger.Warn("a node with local volumes is away", "node", node, "reason", why, "volumes", len(volumes))
			w.tell(volumes, corev1.EventTypeWarning, "VolumeNodeAway", "the data is on node "+node+", which "+why+"; pods that use it wait until the node is back")
		}
	}
	return again
}

func sooner(a, b time.Duration) time.Duration {
	if a == 0 {
		return b
	}
	return min(a, b)
}

// missing says why a node's volumes cannot be used, or nothing.
func (w *watcher) missing(node string) string {
	obj, ok, err := w.nodes.GetStore().GetByKey(node)
	if err != nil || !ok {
		return "is not in the cluster any more"
	}
	if n, ok := obj.(*corev1.Node); ok && len(n.Status.Conditions) > 0 && n.Status.Conditions[0].Status == corev1.ConditionTrue {
		return ""
	}
	return "is not ready"
}

func (w *watcher) tell(volumes []*corev1.PersistentVolume, kind, reason, message string) {
	for _, v := range volumes {
		w.events.Eventf(v.Spec.ClaimRef, kind, reason, "%s (volume %s, directory %s)", message, v.Name, v.Spec.Local.Path)
	}
}
