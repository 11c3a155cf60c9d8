package gateway

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// store has the objects of one resource. They must not be changed.
type store[T metav1.Object] struct {
	changed func()

	mu      sync.Mutex
	objects map[types.NamespacedName]T // guarded by mu
	listed  bool                       // guarded by mu
}

func newStore[T metav1.Object](changed func()) *store[T] {
	return &store[T]{changed: changed, objects: make(map[types.NamespacedName]T)}
}

// known reports whether the resource has been listed, or is not there at all.
func (s *store[T]) known() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.listed
}

// all returns the objects in the order of precedence of the Gateway API: the
// oldest first, then by namespace and name.
func (s *store[T]) all() []T {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.SortedFunc(maps.Values(s.objects), precedence[T])
}

func precedence[T metav1.Object](a, b T) int {
	return cmp.Or(
		a.GetCreationTimestamp().Compare(b.GetCreationTimestamp().Time),
		cmp.Compare(a.GetNamespace(), b.GetNamespace()),
		cmp.Compare(a.GetName(), b.GetName()),
	)
}

func key(o metav1.Object) types.NamespacedName {
	return types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}
}

// Add implements cache.ReflectorStore.
func (s *store[T]) Add(obj any) error { return s.Update(obj) }

// Update implements cache.ReflectorStore. A change of the status alone is no
// change for a translation: most of them are our own.
func (s *store[T]) Update(obj any) error {
	o, ok := obj.(T)
	if !ok {
		return fmt.Errorf("keep object: got %T, want %T", obj, *new(T))
	}
	o.SetManagedFields(nil)
	s.mu.Lock()
	old, had := s.objects[key(o)]
	s.objects[key(o)] = o
	s.mu.Unlock()
	if !had || old.GetUID() != o.GetUID() || old.GetGeneration() != o.GetGeneration() || !equality.Semantic.DeepEqual(old.GetLabels(), o.GetLabels()) {
		s.changed()
	}
	return nil
}

// Delete implements cache.ReflectorStore.
func (s *store[T]) Delete(obj any) error {
	o, ok := obj.(T)
	if !ok {
		return fmt.Errorf("forget object: got %T, want %T", obj, *new(T))
	}
	s.mu.Lock()
	delete(s.objects, key(o))
	s.mu.Unlock()
	s.changed()
	return nil
}

// Replace implements cache.ReflectorStore.
func (s *store[T]) Replace(list []any, _ string) error {
	objects := make(map[types.NamespacedName]T, len(list))
	for _, obj := range list {
		o, ok := obj.(T)
		if !ok {
			return fmt.Errorf("keep objects: got %T, want %T", obj, *new(T))
		}
		o.SetManagedFields(nil)
		objects[key(o)] = o
	}
	s.replace(objects)
	return nil
}

func (s *store[T]) replace(objects map[types.NamespacedName]T) {
	s.mu.Lock()
	news := !s.listed || len(objects) > 0 || len(s.objects) > 0
	s.objects, s.listed = objects, true
	s.mu.Unlock()
	if news {
		s.changed()
	}
}

// Resync implements cache.ReflectorStore; there is nothing to do.
func (s *store[T]) Resync() error { return nil }

type lister[L runtime.Object] interface {
	List(context.Context, metav1.ListOptions) (L, error)
	Watch(context.Context, metav1.ListOptions) (watch.Interface, error)
}

// follow keeps the store as the API has it, in a goroutine of wg, until ctx
// ends. The reflector looks for a resource that is not there about twice a
// minute.
func follow[T metav1.Object, L runtime.Object](ctx context.Context, wg *sync.WaitGroup, client lister[L], s *store[T], example T) {
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			list, err := client.List(ctx, o)
			if apierrors.IsNotFound(err) {
				s.replace(make(map[types.NamespacedName]T))
			}
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) { return client.Watch(ctx, o) },
	}
	name := fmt.Sprintf("%T", example)
	r := cache.NewReflectorWithOptions(lw, example, s, cache.ReflectorOptions{Name: "gateway " + name, TypeDescription: name})
	wg.Go(func() { r.RunWithContext(ctx) })
}
