package helm

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// ownerLabel is on the record of a release: the namespace of its HelmChart,
// whose name is that of the release.
const ownerLabel = "helm.skiff.dev/chart-namespace"

// foreign reports whether the release is that of another HelmChart. One that
// has no owner was made by a person with Helm, and is adopted.
func (s state) foreign(key types.NamespacedName) bool {
	return s.owner != "" && s.owner != key.Namespace
}

// claim sees to it that a release has one HelmChart and a HelmChart one release.
// now is what is in the release's namespace.
func (w *worker) claim(ctx context.Context, key types.NamespacedName, p *plan, now state) error {
	if now.foreign(key) {
		_, err := w.meta.Resource(charts).Namespace(now.owner).Get(ctx, key.Name, metav1.GetOptions{})
		if err == nil {
			return badSpec("release %s in namespace %s is that of HelmChart %s/%s; give one of the two another name or spec.targetNamespace",
				key.Name, p.chart.releaseNamespace(), now.owner, key.Name)
		}
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("get HelmChart %s/%s: %w", now.owner, key.Name, err)
		}
	}
	return w.leave(ctx, key, p)
}

// leave clears a release away that never worked and is not where the chart
// belongs now. One that works is not moved: its data would stay behind.
func (w *worker) leave(ctx context.Context, key types.NamespacedName, p *plan) error {
	before := p.chart.Status.Namespace
	if before == "" || before == p.chart.releaseNamespace() {
		return nil
	}
	s, err := w.deployed(ctx, before, key.Name)
	if err != nil || s.revision == 0 || s.foreign(key) {
		return err
	}
	if s.worked {
		return badSpec("the release is in namespace %s and cannot move to %s; set spec.targetNamespace back, or delete the HelmChart, which uninstalls it, and make it again",
			before, p.chart.releaseNamespace())
	}
	defer w.acting()()
	a, err := w.newAct(ctx, key, p, before)
	if err != nil {
		return err
	}
	history, err := a.history()
	if err != nil || len(history) == 0 {
		return err
	}
	return a.clear(history[len(history)-1])
}
