package ingress

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// refs watches single objects, those that routes refer to: a cluster has many
// more Secrets than certificates.
type refs struct {
	ctx     context.Context //nolint:containedctx // Of the run; its end ends all watches.
	client  kubernetes.Interface
	changed func()
	running sync.WaitGroup
	byKey   map[refKey]*ref
}

type refKey struct{ resource, namespace, name string }

// ref is one object. It is a cache.ReflectorStore.
type ref struct {
	stop    context.CancelFunc
	used    bool
	changed func()
	known   chan struct{} // closed when it is known whether the object exists

	mu     sync.Mutex
	object runtime.Object // guarded by mu; nil if there is none
}

var _ cache.ReflectorStore = (*ref)(nil)

func newRefs(ctx context.Context, client kubernetes.Interface, changed func()) *refs {
	return &refs{ctx: ctx, client: client, changed: changed, byKey: make(map[refKey]*ref)}
}

// secret is catalog.Lookup's.
func (r *refs) secret(namespace, name string) *corev1.Secret {
	s, _ := r.get(refKey{"secrets", namespace, name}, &corev1.Secret{}).(*corev1.Secret)
	return s
}

// configMap is catalog.Lookup's.
func (r *refs) configMap(namespace, name string) *corev1.ConfigMap {
	c, _ := r.get(refKey{"configmaps", namespace, name}, &corev1.ConfigMap{}).(*corev1.ConfigMap)
	return c
}

// get returns what is known of an object and watches it from now on.
func (r *refs) get(key refKey, kind runtime.Object) runtime.Object {
	one, ok := r.byKey[key]
	if !ok {
		ctx, stop := context.WithCancel(r.ctx)
		one = &ref{stop: stop, changed: r.changed, known: make(chan struct{})}
		r.byKey[key] = one
		lw := cache.NewListWatchFromClient(r.client.CoreV1().RESTClient(), key.resource, key.namespace, fields.OneTermEqualSelector("metadata.name", key.name))
		reflector := cache.NewReflectorWithOptions(lw, kind, one, cache.ReflectorOptions{Name: "ingress " + key.resource + " " + key.namespace + "/" + key.name})
		r.running.Go(func() { reflector.RunWithContext(ctx) })
	}
	one.used = true
	one.mu.Lock()
	defer one.mu.Unlock()
	return one.object
}

// begin starts a round of lookups.
func (r *refs) begin() {
	for _, one := range r.byKey {
		one.used = false
	}
}

// end stops watching what the round has not asked for.
func (r *refs) end() {
	for key, one := range r.byKey {
		if !one.used {
			one.stop()
			delete(r.byKey, key)
		}
	}
}

// wait waits until all is known, but no longer than patience. It reports whether
// something was not, so that the round has to be done again.
func (r *refs) wait(ctx context.Context, patience time.Duration) (again bool) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for _, one := range r.byKey {
		select {
		case <-one.known:
			continue
		default:
		}
		select {
		case <-one.known:
			again = true
		case <-ctx.Done():
			return false
		}
	}
	return again
}

// close waits for all watches to end; the context must have ended.
func (r *refs) close() { r.running.Wait() }

func (o *ref) set(object any) error {
	var to runtime.Object
	if object != nil {
		found, ok := object.(runtime.Object)
		if !ok {
			return fmt.Errorf("watch one object: got a %T", object)
		}
		if m, err := meta.Accessor(found); err == nil {
			m.SetManagedFields(nil)
		}
		to = found
	}
	o.mu.Lock()
	o.object = to
	o.mu.Unlock()
	select {
	case <-o.known:
		o.changed()
	default:
		close(o.known)
	}
	return nil
}

// Add implements cache.ReflectorStore.
func (o *ref) Add(object any) error { return o.set(object) }

// Update implements cache.ReflectorStore.
func (o *ref) Update(object any) error { return o.set(object) }

// Delete implements cache.ReflectorStore.
func (o *ref) Delete(any) error { return o.set(nil) }

// Replace implements cache.ReflectorStore.
func (o *ref) Replace(objects []any, _ string) error {
	if len(objects) == 0 {
		return o.set(nil)
	}
	return o.set(objects[0])
}

// Resync implements cache.ReflectorStore.
func (o *ref) Resync() error { return nil }
