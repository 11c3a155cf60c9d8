package deploy

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/pkg/status"
)

// addOnKind is the kind that tracks one manifest file.
var addOnKind = schema.GroupVersionKind{Group: "skiff.dev", Version: "v1", Kind: "AddOn"}

const addOnCRD = "addons.skiff.dev"

// books are the AddOn objects.
type books struct {
	recorded map[string]bool // names of the AddOns in the cluster
}

// addOn is the part of an AddOn that is read back.
type addOn struct {
	Status struct {
		Objects []ref `json:"objects"`
	} `json:"status"`
}

// keepBooks prunes what left its file and writes the AddOns. The definition of
// their kind is applied here, after the manifests: the API server delays the
// first object of a new kind by two seconds (customresource_handler.go in
// k8s.io/apiextensions-apiserver), which must not delay what a cluster needs.
func (w *worker) keepBooks(ctx context.Context) error {
	if w.books == nil {
		if err := w.openBooks(ctx); err != nil {
			return err
		}
	}
	for _, name := range sortedKeys(w.states) {
		st := w.states[name]
		if st.src.Skip && st.src.Path != "" {
			continue
		}
		if err := w.keepBook(ctx, name, st); err != nil {
			return err
		}
	}
	return nil
}

// openBooks makes sure that the kind exists and reads what earlier runs applied.
func (w *worker) openBooks(ctx context.Context) error {
	if _, err := w.cluster.apply(ctx, addOnDefinition()); err != nil {
		return err
	}
	if err := w.cluster.waitEstablished(ctx, addOnCRD); err != nil {
		return err
	}
	client, err := w.cluster.client(&ref{APIVersion: addOnKind.GroupVersion().String(), Kind: addOnKind.Kind, Namespace: metav1.NamespaceSystem})
	if err != nil {
		return err
	}
	list, err := client.List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list AddOns: %w", err)
	}
	w.books = &books{recorded: map[string]bool{}}
	for _, item := range list.Items {
		b, err := item.MarshalJSON()
		if err != nil {
			return fmt.Errorf("read AddOn %s: %w", item.GetName(), err)
		}
		var a addOn
		if err := json.Unmarshal(b, &a); err != nil {
			return fmt.Errorf("read AddOn %s: %w", item.GetName(), err)
		}
		w.books.recorded[item.GetName()] = true
		w.state(item.GetName()).remember(a.Status.Objects)
	}
	return nil
}

// keepBook does it for one state.
func (w *worker) keepBook(ctx context.Context, name string, st *state) error {
	if st.gone() {
		return w.remove(ctx, name, st)
	}
	if st.parsed {
		left, err := w.prune(ctx, stale(st.before, st.objects))
		if err != nil {
			return err
		}
		st.before = left
	}
	u := st.addOn(name)
	b, err := u.MarshalJSON()
	if err != nil {
		return fmt.Errorf("make AddOn %s: %w", name, err)
	}
	if string(b) == st.written {
		return nil
	}
	if _, err := w.cluster.apply(ctx, u); err != nil {
		return err
	}
	w.books.recorded[name] = true
	st.written = string(b)
	if st.err != nil {
		w.event(ctx, name, st.err)
	}
	return nil
}

// remove deletes the objects of a file that is gone or disabled, and its AddOn.
func (w *worker) remove(ctx context.Context, name string, st *state) error {
	st.remember(st.objects)
	if _, err := w.prune(ctx, stale(st.before, nil)); err != nil {
		return err
	}
	if w.books.recorded[name] {
		r := ref{APIVersion: addOnKind.GroupVersion().String(), Kind: addOnKind.Kind, Namespace: metav1.NamespaceSystem, Name: name}
		client, err := w.cluster.client(&r)
		if err != nil {
			return err
		}
		if err := client.Delete(ctx, name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete AddOn %s: %w", name, err)
		}
		delete(w.books.recorded, name)
	}
	w.restores.forget(name)
	if st.told != "" {
		w.o.Notes.Clear(status.ManifestNote + name)
	}
	delete(w.states, name)
	return nil
}

// prune deletes refs, except those that another file has taken over. It returns
// what is left when an error stops it.
func (w *worker) prune(ctx context.Context, refs []ref) ([]ref, error) {
	for i, r := range refs {
		if w.wanted(r) {
			continue
		}
		if err := w.cluster.prune(ctx, r); err != nil {
			return refs[i:], err
		}
	}
	return nil, nil
}

// wanted reports whether some file has the object, or might have: while a file
// cannot be read, what it had may not be taken away.
func (w *worker) wanted(r ref) bool {
	for _, st := range w.states {
		if st.gone() {
			continue
		}
		if slices.ContainsFunc(st.objects, r.same) {
			return true
		}
		if (st.src.Skip || !st.parsed) && slices.ContainsFunc(st.before, r.same) {
			return true
		}
	}
	return false
}

// addOn renders the AddOn of a state.
func (st *state) addOn(name string) *unstructured.Unstructured {
	refs := slices.Clone(st.objects)
	refs = append(refs, stale(st.before, refs)...)
	objects := make([]any, 0, len(refs))
	for _, r := range refs {
		o := map[string]any{"apiVersion": r.APIVersion, "kind": r.Kind, "name": r.Name}
		if r.Namespace != "" {
			o["namespace"] = r.Namespace
		}
		objects = append(objects, o)
	}
	condition := map[string]any{"type": "Applied", "status": "True", "reason": "Applied", "message": ""}
	if st.err != nil {
		condition["status"], condition["reason"], condition["message"] = "False", reason(st), st.err.Error()
	}
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": addOnKind.GroupVersion().String(),
		"kind":       addOnKind.Kind,
		"metadata":   map[string]any{"name": name, "namespace": metav1.NamespaceSystem},
		"spec":       map[string]any{"source": st.src.Path, "checksum": st.src.Sum},
		"status":     map[string]any{"conditions": []any{condition}, "objects": objects},
	}}
}

func reason(st *state) string {
	if st.parsed && st.retry.IsZero() || !st.parsed {
		return "InvalidManifest"
	}
	return "ApplyFailed"
}

// event writes a warning on the AddOn; it is a courtesy, so an error is only noted.
func (w *worker) event(ctx context.Context, name string, problem error) {
	gvr := schema.GroupVersionResource{Version: "v1", Resource: "events"}
	st := w.states[name]
	now := w.now().UTC().Format(time.RFC3339)
	u := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Event",
		"metadata": map[string]any{"generateName": name + ".", "namespace": metav1.NamespaceSystem},
		"involvedObject": map[string]any{
			"apiVersion": addOnKind.GroupVersion().String(), "kind": addOnKind.Kind, "namespace": metav1.NamespaceSystem, "name": name,
		},
		"type": "Warning", "reason": reason(st), "message": cut(problem.Error(), 1000),
		"source": map[string]any{"component": "skiff-deploy"}, "firstTimestamp": now, "lastTimestamp": now, "count": int64(1),
	}}
	if _, err := w.cluster.dynamic.Resource(gvr).Namespace(metav1.NamespaceSystem).Create(ctx, u, metav1.CreateOptions{}); err != nil {
		w.o.Logger.Debug("write event", "addon", name, "error", err)
	}
}

// cut shortens s to at most n bytes, the limit of Event messages.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return s[:n] + "…"
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
