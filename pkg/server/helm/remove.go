package helm

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/kube"
	release "helm.sh/helm/v4/pkg/release/v1"
	releaseutil "helm.sh/helm/v4/pkg/release/v1/util"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"
)

// uninstall removes the release as Helm does.
func (a *act) uninstall(hooks bool) error {
	u := action.NewUninstall(a.cfg)
	u.IgnoreNotFound, u.DisableHooks = true, !hooks
	u.WaitStrategy, u.WaitOptions, u.Timeout = kube.HookOnlyStrategy, a.waiting(), a.plan.chart.timeout()
	_, err := u.Run(a.name)
	if errors.Is(err, context.Canceled) && a.ctx.Err() != nil {
		return a.ctx.Err()
	}
	return err
}

// clear removes a release that does not work, without hooks, to make room. If
// Helm cannot, what its record lists is deleted one by one.
func (a *act) clear(last *release.Release) error {
	err := a.uninstall(false)
	if err == nil || a.ctx.Err() != nil {
		return err
	}
	a.logger.Warn("Helm could not uninstall the release; deleting its objects one by one", "release", a.name, "error", err)
	return a.sweep(last)
}

// sweep deletes the objects in a release's record, then its records. Kinds that
// are gone are gone with their objects.
func (a *act) sweep(last *release.Release) error {
	client, err := dynamic.NewForConfig(a.getter.config)
	if err != nil {
		return fmt.Errorf("make dynamic client: %w", err)
	}
	var errs []error
	for _, doc := range releaseutil.SplitManifests(last.Manifest) {
		var u unstructured.Unstructured
		if yaml.Unmarshal([]byte(doc), &u.Object) != nil || u.GetKind() == "" || u.GetName() == "" {
			continue
		}
		if strings.EqualFold(u.GetAnnotations()[kube.ResourcePolicyAnno], kube.KeepPolicy) {
			continue
		}
		errs = append(errs, a.delete(client, &u))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	history, err := a.history()
	if err != nil {
		return err
	}
	for _, r := range history {
		if _, err := a.cfg.Releases.Delete(r.Name, r.Version); err != nil {
			return fmt.Errorf("delete the record of release %s: %w", a.name, err)
		}
	}
	return nil
}

// delete deletes one object of the release.
func (a *act) delete(client dynamic.Interface, u *unstructured.Unstructured) error {
	gvk := u.GroupVersionKind()
	m, err := a.getter.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if meta.IsNoMatchError(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find kind of %s %s: %w", u.GetKind(), u.GetName(), err)
	}
	var objects dynamic.ResourceInterface = client.Resource(m.Resource)
	if m.Scope.Name() == meta.RESTScopeNameNamespace {
		space := u.GetNamespace()
		if space == "" {
			space = a.space
		}
		objects = client.Resource(m.Resource).Namespace(space)
	}
	policy := metav1.DeletePropagationBackground
	err = objects.Delete(a.ctx, u.GetName(), metav1.DeleteOptions{PropagationPolicy: &policy})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete %s %s: %w", u.GetKind(), u.GetName(), err)
	}
	return nil
}

// patience is how often uninstalling with the chart's own hooks is tried before
// its objects are deleted without.
const patience = 2

// remove uninstalls the release of a HelmChart that is being deleted. It is a
// matter of a few attempts, never of waiting for ever: with hooks, then object
// by object.
func (a *act) remove(failed int) error {
	history, err := a.history()
	if err != nil {
		// Records that nobody can read hold nothing that could be uninstalled.
		if failed < patience {
			return err
		}
		a.logger.Warn("the records of the release cannot be read; its objects stay", "release", a.name, "error", err)
		return nil
	}
	if len(history) == 0 {
		return nil
	}
	if failed < patience {
		return a.uninstall(true)
	}
	return a.clear(history[len(history)-1])
}
