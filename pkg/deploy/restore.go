package deploy

import (
	"context"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/cache"
)

// annotationRestore with the value "true" makes the manifest that has the
// object apply again when somebody deletes it.
const annotationRestore = "deploy.skiff.dev/restore"

// restores watches the objects that must not stay deleted.
type restores struct {
	start func(source string, r ref) context.CancelFunc

	mu      sync.Mutex
	watched map[string]map[ref]context.CancelFunc // guarded by mu; by source
	missing map[string]bool                       // guarded by mu; sources to apply again
}

// newRestores starts watches below ctx; wg waits for them.
func newRestores(ctx context.Context, c *cluster, wg *sync.WaitGroup, kick func()) *restores {
	rs := &restores{watched: map[string]map[ref]context.CancelFunc{}, missing: map[string]bool{}}
	rs.start = func(source string, r ref) context.CancelFunc {
		client, err := c.client(&r)
		if err != nil {
			return func() {} // It has just been applied by the same client.
		}
		ctx, cancel := context.WithCancel(ctx)
		informer := cache.NewSharedIndexInformer(one(client, r.Name), &unstructured.Unstructured{}, 0, cache.Indexers{})
		// The error is for informers that have stopped; this one has not started.
		_, _ = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{DeleteFunc: func(any) {
			rs.mu.Lock()
			rs.missing[source] = true
			rs.mu.Unlock()
			kick()
		}})
		wg.Go(func() { informer.RunWithContext(ctx) })
		return cancel
	}
	return rs
}

// one lists and watches a single object.
func one(client dynamic.ResourceInterface, name string) cache.ListerWatcher {
	only := fields.OneTermEqualSelector("metadata.name", name).String()
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = only
			return client.List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = only
			return client.Watch(ctx, o)
		},
	}
}

// watch begins to watch an applied object that asks for it.
func (rs *restores) watch(t task, r ref) {
	if t.object.GetAnnotations()[annotationRestore] != "true" {
		return
	}
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rs.watched[t.source] == nil {
		rs.watched[t.source] = map[ref]context.CancelFunc{}
	}
	if rs.watched[t.source][r] == nil {
		rs.watched[t.source][r] = rs.start(t.source, r)
	}
}

// take reports, once, that an object of the source was deleted.
func (rs *restores) take(source string) bool {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	m := rs.missing[source]
	delete(rs.missing, source)
	return m
}

// forget ends the watches of a source.
func (rs *restores) forget(source string) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for _, cancel := range rs.watched[source] {
		cancel()
	}
	delete(rs.watched, source)
	delete(rs.missing, source)
}
