package demand

import (
	"context"
	"fmt"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"
)

// counter knows the objects that match, by nothing but their name.
type counter struct {
	match func(*metav1.PartialObjectMetadata) bool

	mu      sync.Mutex
	present map[schema.GroupVersionResource]map[types.NamespacedName]struct{} // guarded by mu
	total   int                                                               // guarded by mu
	changed chan struct{}                                                     // guarded by mu; closed and replaced when total becomes or leaves 0
}

func newCounter(match func(*metav1.PartialObjectMetadata) bool) *counter {
	if match == nil {
		match = func(*metav1.PartialObjectMetadata) bool { return true }
	}
	return &counter{
		match:   match,
		present: make(map[schema.GroupVersionResource]map[types.NamespacedName]struct{}),
		changed: make(chan struct{}),
	}
}

// set notes whether an object counts.
func (c *counter) set(r schema.GroupVersionResource, name types.NamespacedName, counts bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, had := c.present[r][name]
	switch {
	case counts && !had:
		if c.present[r] == nil {
			c.present[r] = make(map[types.NamespacedName]struct{})
		}
		c.present[r][name] = struct{}{}
		c.add(1)
	case !counts && had:
		delete(c.present[r], name)
		c.add(-1)
	}
}

// replace makes names the objects of r that count.
func (c *counter) replace(r schema.GroupVersionResource, names map[types.NamespacedName]struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := len(names) - len(c.present[r])
	c.present[r] = names
	c.add(n)
}

// add changes the total. The caller holds mu.
func (c *counter) add(n int) {
	before := c.total
	c.total += n
	if (before == 0) != (c.total == 0) {
		close(c.changed)
		c.changed = make(chan struct{})
	}
}

// wait returns true once there is demand, or once there is none, and false if
// ctx ended first.
func (c *counter) wait(ctx context.Context, demand bool) bool {
	for {
		c.mu.Lock()
		now, changed := c.total > 0, c.changed
		c.mu.Unlock()
		if ctx.Err() != nil {
			return false
		}
		if now == demand {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// waitIdle returns when there has been no demand for the given time, or when
// ctx ends.
func (c *counter) waitIdle(ctx context.Context, linger time.Duration) {
	for c.wait(ctx, false) {
		if linger <= 0 {
			return
		}
		again, cancel := context.WithTimeout(ctx, linger)
		back := c.wait(again, true)
		cancel()
		if !back {
			return
		}
	}
}

// source is the store of one resource's reflector. It keeps names only.
type source struct {
	*counter
	resource schema.GroupVersionResource
}

var _ cache.ReflectorStore = source{}

func (c *counter) source(r schema.GroupVersionResource) source { return source{c, r} }

// reflect keeps the store as the API has it, until ctx ends.
func reflect(ctx context.Context, client metadata.ResourceInterface, r schema.GroupVersionResource, s source) {
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return client.List(ctx, o) },
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return client.Watch(ctx, o)
		},
	}
	cache.NewReflectorWithOptions(lw, &metav1.PartialObjectMetadata{}, s, cache.ReflectorOptions{
		Name: "demand for " + r.String(), TypeDescription: r.String(),
	}).RunWithContext(ctx)
}

func (s source) note(obj any, gone bool) error {
	m, ok := obj.(*metav1.PartialObjectMetadata)
	if !ok {
		return fmt.Errorf("watch %s: got %T, want metadata", s.resource, obj)
	}
	s.set(s.resource, types.NamespacedName{Namespace: m.Namespace, Name: m.Name}, !gone && s.match(m))
	return nil
}

// Add implements cache.ReflectorStore.
func (s source) Add(obj any) error { return s.note(obj, false) }

// Update implements cache.ReflectorStore.
func (s source) Update(obj any) error { return s.note(obj, false) }

// Delete implements cache.ReflectorStore.
func (s source) Delete(obj any) error { return s.note(obj, true) }

// Replace implements cache.ReflectorStore.
func (s source) Replace(list []any, _ string) error {
	names := make(map[types.NamespacedName]struct{}, len(list))
	for _, obj := range list {
		m, ok := obj.(*metav1.PartialObjectMetadata)
		if !ok {
			return fmt.Errorf("list %s: got %T, want metadata", s.resource, obj)
		}
		if s.match(m) {
			names[types.NamespacedName{Namespace: m.Namespace, Name: m.Name}] = struct{}{}
		}
	}
	s.replace(s.resource, names)
	return nil
}

// Resync implements cache.ReflectorStore; there is nothing to do.
func (s source) Resync() error { return nil }
