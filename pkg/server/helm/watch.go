package helm

import (
	"context"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/tools/cache"
)

// watches tell the worker which charts to look at. Only metadata is watched: a
// HelmChart may carry its whole archive.
type watches struct {
	ctx    context.Context //nolint:containedctx // The life of all watches; they are started one by one.
	client metadata.Interface
	wg     *sync.WaitGroup
	notify func(chart types.NamespacedName, needed bool) // needed: what changed is something that it refers to

	mu    sync.Mutex
	needs map[need]map[types.NamespacedName]bool // guarded by mu: which charts need it
	stop  map[need]context.CancelFunc            // guarded by mu
}

// need is an object that a chart refers to.
type need struct {
	resource schema.GroupVersionResource
	name     types.NamespacedName
}

func newWatches(ctx context.Context, client metadata.Interface, wg *sync.WaitGroup, notify func(types.NamespacedName, bool)) *watches {
	return &watches{
		ctx: ctx, client: client, wg: wg, notify: notify,
		needs: make(map[need]map[types.NamespacedName]bool), stop: make(map[need]context.CancelFunc),
	}
}

// all watches every object of a resource; its name is that of the chart.
func (w *watches) all(ctx context.Context, r schema.GroupVersionResource) error {
	return w.run(ctx, r, metav1.NamespaceAll, nil, func(n types.NamespacedName, _ bool) { w.notify(n, false) })
}

// run watches objects until ctx ends.
func (w *watches) run(ctx context.Context, r schema.GroupVersionResource, namespace string, tweak metadatainformer.TweakListOptionsFunc, seen func(_ types.NamespacedName, initial bool)) error {
	i := metadatainformer.NewFilteredMetadataInformer(w.client, r, namespace, 0, cache.Indexers{}, tweak).Informer()
	if err := i.SetTransform(trim); err != nil {
		return err
	}
	tell := func(obj any, initial bool) {
		if d, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = d.Obj
		}
		if m, ok := obj.(*metav1.PartialObjectMetadata); ok {
			seen(types.NamespacedName{Namespace: m.Namespace, Name: m.Name}, initial)
		}
	}
	_, err := i.AddEventHandler(cache.ResourceEventHandlerDetailedFuncs{
		AddFunc:    tell,
		DeleteFunc: func(obj any) { tell(obj, false) },
		UpdateFunc: func(before, after any) {
			if changed(before, after) {
				tell(after, false)
			}
		},
	})
	if err != nil {
		return err
	}
	w.wg.Go(func() { i.RunWithContext(ctx) })
	return nil
}

// changed leaves out updates of the status, which are our own.
func changed(before, after any) bool {
	a, ok1 := before.(*metav1.PartialObjectMetadata)
	b, ok2 := after.(*metav1.PartialObjectMetadata)
	if !ok1 || !ok2 || a.ResourceVersion == b.ResourceVersion {
		return false
	}
	if b.Generation == 0 { // Secrets and ConfigMaps have none
		return true
	}
	return a.Generation != b.Generation || (a.DeletionTimestamp == nil) != (b.DeletionTimestamp == nil)
}

// trim drops what nobody here looks at.
func trim(obj any) (any, error) {
	if m, ok := obj.(*metav1.PartialObjectMetadata); ok {
		m.ManagedFields, m.Annotations, m.Labels = nil, nil, nil
	}
	return obj, nil
}

// want makes refs the objects that the chart needs: a watch of the one object
// each, never of all Secrets.
func (w *watches) want(chart types.NamespacedName, refs []need) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	wanted := make(map[need]bool, len(refs))
	for _, r := range refs {
		wanted[r] = true
		if w.needs[r] == nil {
			if err := w.start(r); err != nil {
				return err
			}
		}
		w.needs[r][chart] = true
	}
	for r, by := range w.needs {
		if by[chart] && !wanted[r] {
			delete(by, chart)
			if len(by) == 0 {
				w.stop[r]()
				delete(w.needs, r)
				delete(w.stop, r)
			}
		}
	}
	return nil
}

// start watches one object. The caller holds mu.
func (w *watches) start(r need) error {
	if r.resource == staticFiles {
		w.needs[r], w.stop[r] = make(map[types.NamespacedName]bool), func() {}
		return nil
	}
	ctx, cancel := context.WithCancel(w.ctx)
	one := func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector("metadata.name", r.name.Name).String()
	}
	if err := w.run(ctx, r.resource, r.name.Namespace, one, func(_ types.NamespacedName, initial bool) {
		if !initial { // The chart has just looked at it.
			w.tell(r)
		}
	}); err != nil {
		cancel()
		return err
	}
	w.needs[r], w.stop[r] = make(map[types.NamespacedName]bool), cancel
	return nil
}

// tell has the charts that need the object looked at.
func (w *watches) tell(r need) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.needs[r] {
		w.notify(c, true)
	}
}

// tellFiles does so for those whose archive is a file.
func (w *watches) tellFiles() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for r, by := range w.needs {
		if r.resource == staticFiles {
			for c := range by {
				w.notify(c, true)
			}
		}
	}
}
