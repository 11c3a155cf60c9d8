package helm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"helm.sh/helm/v4/pkg/release/common"
	release "helm.sh/helm/v4/pkg/release/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// sync brings one chart to what its objects say and returns when to come again;
// zero means not before something changes. An error is the API's.
func (w *worker) sync(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	u, err := w.dynamic.Resource(charts).Namespace(key.Namespace).Get(ctx, key.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		w.forget(key)
		return 0, w.watches.want(key, nil)
	}
	if err != nil {
		return 0, fmt.Errorf("get HelmChart: %w", err)
	}
	c := &helmChart{}
	if err := decode(u, c); err != nil {
		return 0, err
	}
	if c.DeletionTimestamp != nil {
		return w.remove(ctx, key, c)
	}
	if !slices.Contains(c.Finalizers, finalizer) {
		if err := w.setFinalizers(ctx, c, append(slices.Clone(c.Finalizers), finalizer)); err != nil {
			return 0, err
		}
	}
	p, err := w.plan(ctx, c)
	p.ignored = ignored(u)
	if err := errors.Join(w.watches.want(key, p.needs), w.noteIgnored(ctx, p)); err != nil {
		return 0, err
	}
	if err != nil {
		return w.failed(ctx, key, p, err)
	}
	return w.install(ctx, key, p)
}

// install installs or upgrades if the release is another than planned.
func (w *worker) install(ctx context.Context, key types.NamespacedName, p *plan) (time.Duration, error) {
	now, err := w.deployed(ctx, p.chart.releaseNamespace(), key.Name)
	if err != nil {
		return 0, err
	}
	if err := w.claim(ctx, key, p, now); err != nil {
		return w.failed(ctx, key, p, err)
	}
	if now.hash == p.hash {
		w.forget(key)
		if done := p.chart.Status; done.Revision == now.revision && done.FailedHash == "" && meta.IsStatusConditionTrue(done.Conditions, conditionReady) {
			return 0, nil
		}
		return 0, w.ready(ctx, p, now.revision, nil)
	}
	if p.chart.Status.FailedHash == p.hash && p.chart.Spec.FailurePolicy == policyAbort {
		return 0, nil // Until a person changes something.
	}
	if pause := w.hold(key, p); pause > 0 {
		return pause, nil
	}
	if err := w.progress(ctx, p, now.revision > 0); err != nil {
		return 0, err
	}
	r, err := w.act(ctx, key, p)
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	if err != nil {
		return w.failed(ctx, key, p, err)
	}
	w.forget(key)
	return 0, w.ready(ctx, p, r.Version, r)
}

// act has Helm do it.
func (w *worker) act(ctx context.Context, key types.NamespacedName, p *plan) (*release.Release, error) {
	defer w.acting()()
	c, err := w.load(ctx, p)
	if err != nil {
		return nil, err
	}
	a, err := w.newAct(ctx, key, p, p.chart.releaseNamespace())
	if err != nil {
		return nil, err
	}
	return a.run(c)
}

func (w *worker) newAct(ctx context.Context, key types.NamespacedName, p *plan, space string) (*act, error) {
	logger := w.logger(key)
	cfg, g, err := w.configuration(space, logger)
	if err != nil {
		return nil, err
	}
	return &act{ctx: ctx, cfg: cfg, getter: g, plan: p, name: key.Name, space: space, logger: logger}, nil
}

// state is what a release's records say without being read.
type state struct {
	revision int
	hash     string // of the plan; empty if the last revision is not deployed
	owner    string // namespace of its HelmChart
	worked   bool   // at some time
}

// deployed asks for the records' labels only: each may be a megabyte.
func (w *worker) deployed(ctx context.Context, namespace, name string) (state, error) {
	selector := labels.Set{"owner": "helm", "name": name}.String()
	list, err := w.meta.Resource(secrets).Namespace(namespace).List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return state{}, fmt.Errorf("list the records of release %s: %w", name, err)
	}
	var s state
	for _, item := range list.Items {
		status := common.Status(item.Labels["status"])
		s.worked = s.worked || status == common.StatusDeployed || status == common.StatusSuperseded
		revision, err := strconv.Atoi(item.Labels["version"])
		if err != nil || revision < s.revision {
			continue
		}
		s = state{revision: revision, owner: item.Labels[ownerLabel], worked: s.worked}
		if status == common.StatusDeployed {
			s.hash = item.Labels[hashLabel]
		}
	}
	return s, nil
}

// failed reports a failure and says when to try again.
func (w *worker) failed(ctx context.Context, key types.NamespacedName, p *plan, err error) (time.Duration, error) {
	if ctx.Err() != nil || apiTrouble(err) {
		return 0, err
	}
	problem := explain(err, p.chart.releaseNamespace())
	n, pause := w.failure(key, p, problem.refused)
	again := fmt.Sprintf("tried again with growing pauses, now %s", pause)
	switch {
	case p.chart.Spec.FailurePolicy == policyAbort:
		pause, again = 0, "not tried again before something changes (failurePolicy: abort)"
	case n > p.chart.backOffLimit():
		pause, again = 0, fmt.Sprintf("not tried again before something changes: it failed %d times (backOffLimit)", n)
	}
	w.logger(key).Warn("chart does not work", "reason", problem.reason, "error", err, "attempts", n, "again", pause)
	return pause, w.broken(ctx, p, problem, err, again)
}

// remove uninstalls and lets the object go.
func (w *worker) remove(ctx context.Context, key types.NamespacedName, c *helmChart) (time.Duration, error) {
	if !slices.Contains(c.Finalizers, finalizer) {
		return 0, nil
	}
	p := &plan{chart: c, hash: "remove"}
	if pause := w.hold(key, p); pause > 0 {
		return pause, nil
	}
	err := w.removeRelease(ctx, key, p)
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	if err != nil && !apiTrouble(err) {
		n, pause := w.failure(key, p, false)
		if n <= patience {
			pause = minPause // The next attempts do without what may be in the way.
		}
		problem := explain(err, c.releaseNamespace())
		w.logger(key).Warn("chart could not be uninstalled, trying again", "error", err)
		return pause, w.broken(ctx, p, problem, err, "uninstalling is tried again; after some attempts without the chart's hooks")
	}
	if err != nil {
		return 0, err
	}
	w.forget(key)
	w.event(ctx, c, "Normal", "Uninstalled", fmt.Sprintf("release %s in namespace %s is uninstalled", c.Name, w.space(c)))
	left := slices.DeleteFunc(slices.Clone(c.Finalizers), func(f string) bool { return f == finalizer })
	return 0, w.setFinalizers(ctx, c, left)
}

// space is where the release was last; the specification may have changed since.
func (w *worker) space(c *helmChart) string {
	if c.Status.Namespace != "" {
		return c.Status.Namespace
	}
	return c.releaseNamespace()
}

func (w *worker) removeRelease(ctx context.Context, key types.NamespacedName, p *plan) error {
	now, err := w.deployed(ctx, w.space(p.chart), key.Name)
	if err != nil || now.revision == 0 || now.foreign(key) {
		return err
	}
	defer w.acting()()
	a, err := w.newAct(ctx, key, p, w.space(p.chart))
	if err != nil {
		return err
	}
	return a.remove(w.failures(key))
}
