package deploy

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
)

// fieldManager owns the fields that come from manifests.
const fieldManager = "skiff"

// annotationPrune with the value "disabled" keeps an object in the cluster when
// it leaves its file.
const annotationPrune = "deploy.skiff.dev/prune"

// cluster applies and deletes single objects.
type cluster struct {
	dynamic dynamic.Interface
	mapper  *restmapper.DeferredDiscoveryRESTMapper
	logger  *slog.Logger
}

func newCluster(config *rest.Config, logger *slog.Logger) (*cluster, error) {
	config = rest.CopyConfig(config)
	config.QPS, config.Burst = 50, 100
	config.UserAgent = "skiff-deploy"
	config.ContentType, config.AcceptContentTypes = "", ""
	dyn, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	disco, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return nil, err
	}
	return &cluster{dynamic: dyn, mapper: restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(disco)), logger: logger}, nil
}

// known spares discovery, which at first start would come before anything else,
// for the kinds that bundled manifests have.
var known = map[schema.GroupVersionKind]struct {
	resource   string
	namespaced bool
}{
	{Version: "v1", Kind: "Namespace"}:                                               {"namespaces", false},
	{Version: "v1", Kind: "Service"}:                                                 {"services", true},
	{Version: "v1", Kind: "ConfigMap"}:                                               {"configmaps", true},
	{Version: "v1", Kind: "ServiceAccount"}:                                          {"serviceaccounts", true},
	{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "ClusterRole"}:         {"clusterroles", false},
	{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "ClusterRoleBinding"}:  {"clusterrolebindings", false},
	{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "Role"}:                {"roles", true},
	{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "RoleBinding"}:         {"rolebindings", true},
	{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"}: {"customresourcedefinitions", false},
	addOnKind: {"addons", true},
}

// client returns the client for an object, and its place: a namespaced object
// without a namespace belongs to "default".
func (c *cluster) client(r *ref) (dynamic.ResourceInterface, error) {
	gvk := r.gvk()
	var gvr schema.GroupVersionResource
	var namespaced bool
	if k, ok := known[gvk]; ok {
		gvr, namespaced = gvk.GroupVersion().WithResource(k.resource), k.namespaced
	} else {
		m, err := c.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
		if meta.IsNoMatchError(err) {
			c.mapper.Reset()
			m, err = c.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
		}
		if err != nil {
			return nil, err
		}
		gvr, namespaced = m.Resource, m.Scope.Name() == meta.RESTScopeNameNamespace
	}
	if !namespaced {
		r.Namespace = ""
		return c.dynamic.Resource(gvr), nil
	}
	if r.Namespace == "" {
		r.Namespace = metav1.NamespaceDefault
	}
	return c.dynamic.Resource(gvr).Namespace(r.Namespace), nil
}

// apply writes one object by server-side apply and returns where it is.
func (c *cluster) apply(ctx context.Context, u *unstructured.Unstructured) (ref, error) {
	u = u.DeepCopy()
	r := refOf(u)
	client, err := c.client(&r)
	if err != nil {
		r.loose = true
		return r, fmt.Errorf("find kind of %s: %w", r, err)
	}
	u.SetNamespace(r.Namespace)
	u.SetManagedFields(nil)
	u.SetResourceVersion("")
	why, err := yields(ctx, client, u)
	if err != nil {
		return r, fmt.Errorf("apply %s: %w", r, err)
	}
	if why != "" {
		c.logger.Info("object is left as it is", "object", r.String(), "reason", why)
		return r, nil
	}
	if _, err := client.Apply(ctx, r.Name, u, metav1.ApplyOptions{FieldManager: fieldManager, Force: true}); err != nil {
		return r, fmt.Errorf("apply %s: %w", r, err)
	}
	return r, nil
}

// prune deletes an object that left its file, unless it says otherwise or is no
// longer ours. That it is gone already is no error.
func (c *cluster) prune(ctx context.Context, r ref) error {
	client, err := c.client(&r)
	if meta.IsNoMatchError(err) {
		return nil // Its kind is gone, and the object with it.
	}
	if err != nil {
		return fmt.Errorf("find kind of %s: %w", r, err)
	}
	live, err := client.Get(ctx, r.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("get %s: %w", r, err)
	}
	why := keeps(live)
	if why == "" {
		if why, err = c.used(ctx, live); err != nil {
			return err
		}
	}
	if why != "" {
		c.logger.Info("object left its manifest and stays", "object", r.String(), "reason", why)
		return nil
	}
	uid := live.GetUID()
	policy := metav1.DeletePropagationBackground
	err = client.Delete(ctx, r.Name, metav1.DeleteOptions{PropagationPolicy: &policy, Preconditions: &metav1.Preconditions{UID: &uid}})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete %s: %w", r, err)
	}
	c.logger.Info("object left its manifest and was deleted", "object", r.String())
	return nil
}

// keeps says why an object must not be pruned, or "".
func keeps(u *unstructured.Unstructured) string {
	if v := u.GetAnnotations()[annotationPrune]; strings.EqualFold(v, "disabled") || strings.EqualFold(v, "false") {
		return "annotation " + annotationPrune
	}
	if managed(u) {
		return ""
	}
	return "it is managed by somebody else now"
}

// used says that a definition has objects, which would go with it, if its
// annotation wants it to be kept then.
func (c *cluster) used(ctx context.Context, u *unstructured.Unstructured) (string, error) {
	if !strings.EqualFold(u.GetAnnotations()[annotationPrune], "unused") || u.GroupVersionKind().GroupKind() != crdKind || !established(u) {
		return "", nil
	}
	group, _, _ := unstructured.NestedString(u.Object, "spec", "group")
	plural, _, _ := unstructured.NestedString(u.Object, "spec", "names", "plural")
	versions, _, _ := unstructured.NestedSlice(u.Object, "spec", "versions")
	for _, v := range versions {
		version, _ := v.(map[string]any)
		if served, _ := version["served"].(bool); !served {
			continue
		}
		gvr := schema.GroupVersionResource{Group: group, Version: fmt.Sprint(version["name"]), Resource: plural}
		list, err := c.dynamic.Resource(gvr).List(ctx, metav1.ListOptions{Limit: 1})
		if err != nil {
			return "", fmt.Errorf("look for objects of %s: %w", u.GetName(), err)
		}
		if len(list.Items) > 0 {
			return "there are objects of this kind", nil
		}
		break
	}
	return "", nil
}

// establishedWait bounds the wait for one CustomResourceDefinition.
const establishedWait = 30 * time.Second

// waitEstablished waits until the named CustomResourceDefinition is served.
func (c *cluster) waitEstablished(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, establishedWait)
	defer cancel()
	client := c.dynamic.Resource(schema.GroupVersionResource{Group: crdKind.Group, Version: "v1", Resource: "customresourcedefinitions"})
	w, err := client.Watch(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", name).String()})
	if err != nil {
		return fmt.Errorf("watch CustomResourceDefinition %s: %w", name, err)
	}
	defer w.Stop()
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for CustomResourceDefinition %s to be established: %w", name, ctx.Err())
		case ev, ok := <-w.ResultChan():
			if !ok {
				return fmt.Errorf("wait for CustomResourceDefinition %s: the watch ended", name)
			}
			if u, ok := ev.Object.(*unstructured.Unstructured); ok && established(u) {
				return nil
			}
		}
	}
}

func established(u *unstructured.Unstructured) bool {
	conditions, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	for _, c := range conditions {
		if m, ok := c.(map[string]any); ok && m["type"] == "Established" && m["status"] == "True" {
			return true
		}
	}
	return false
}

// ensureNamespace makes the namespace when the API server has not yet.
func (c *cluster) ensureNamespace(ctx context.Context, name string) error {
	u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": name}}}
	_, err := c.dynamic.Resource(schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}).Create(ctx, u, metav1.CreateOptions{FieldManager: fieldManager})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("make namespace %s: %w", name, err)
	}
	return nil
}
