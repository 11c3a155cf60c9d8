package helm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"helm.sh/helm/v4/pkg/action"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/kube"
	rel "helm.sh/helm/v4/pkg/release"
	"helm.sh/helm/v4/pkg/release/common"
	release "helm.sh/helm/v4/pkg/release/v1"
	"helm.sh/helm/v4/pkg/storage/driver"
)

// maxHistory is how many revisions of a release are kept, as Helm's command line
// does.
const maxHistory = 10

// hashLabel is on the record of a release: the plan that it was made of.
const hashLabel = "helm.skiff.dev/plan"

// act is what one call of Helm needs.
type act struct {
	ctx    context.Context //nolint:containedctx // It lives as long as one call.
	cfg    *action.Configuration
	getter *getter
	plan   *plan
	name   string
	space  string // the release's namespace
	logger *slog.Logger
}

// history returns the revisions, oldest first; none is no error.
func (a *act) history() ([]*release.Release, error) {
	list, err := a.cfg.Releases.History(a.name)
	if errors.Is(err, driver.ErrReleaseNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the records of release %s: %w", a.name, err)
	}
	out := make([]*release.Release, len(list))
	for _, r := range list {
		v1, err := asV1(r)
		if err != nil {
			return nil, err
		}
		at := 0 // They come in no order; there are ten at most.
		for _, o := range out {
			if o != nil && o.Version < v1.Version {
				at++
			}
		}
		copy(out[at+1:], out[at:])
		out[at] = v1
	}
	return out, nil
}

func asV1(r rel.Releaser) (*release.Release, error) {
	switch r := r.(type) {
	case *release.Release:
		return r, nil
	case release.Release:
		return &r, nil
	}
	return nil, fmt.Errorf("release has the unknown format %T", r)
}

// worked returns the newest revision that was deployed, or nil.
func worked(history []*release.Release) *release.Release {
	for _, r := range slices.Backward(history) {
		if s := r.Info.Status; s == common.StatusDeployed || s == common.StatusSuperseded {
			return r
		}
	}
	return nil
}

// run brings the release to what the plan says.
func (a *act) run(c *chart.Chart) (*release.Release, error) {
	history, err := a.history()
	if err != nil {
		return nil, err
	}
	if len(history) == 0 {
		return a.install(c)
	}
	last := history[len(history)-1]
	if err := a.heal(last); err != nil {
		return nil, err
	}
	policy := a.plan.chart.Spec.FailurePolicy
	switch {
	case last.Info.Status == common.StatusUninstalling || last.Info.Status == common.StatusUninstalled,
		worked(history) == nil && (policy == "" || policy == policyReinstall):
		// There is nothing that works to be kept.
		if err := a.clear(last); err != nil {
			return nil, err
		}
		return a.install(c)
	}
	return a.upgrade(c)
}

// heal gives a release up that was in the middle of something when its process
// ended: Helm itself refuses to touch it for ever.
func (a *act) heal(last *release.Release) error {
	if !last.Info.Status.IsPending() {
		return nil
	}
	a.logger.Info("release was left in the middle of something; going on from there", "release", a.name, "revision", last.Version, "status", last.Info.Status)
	last.SetStatus(common.StatusFailed, fmt.Sprintf("interrupted while it was %s", last.Info.Status))
	if err := a.cfg.Releases.Update(last); err != nil {
		return fmt.Errorf("mark release %s as interrupted: %w", a.name, err)
	}
	return nil
}

// labels are those of the release's record.
func (a *act) labels() map[string]string {
	return map[string]string{hashLabel: a.plan.hash, ownerLabel: a.plan.chart.Namespace}
}

// waiting ends Helm's waiting for hooks together with ctx.
func (a *act) waiting() []kube.WaitOption { return []kube.WaitOption{kube.WithWaitContext(a.ctx)} }

func (a *act) install(c *chart.Chart) (*release.Release, error) {
	s := &a.plan.chart.Spec
	i := action.NewInstall(a.cfg)
	i.ReleaseName, i.Namespace, i.CreateNamespace = a.name, a.space, s.CreateNamespace
	i.WaitStrategy, i.WaitOptions, i.Timeout = kube.HookOnlyStrategy, a.waiting(), a.plan.chart.timeout()
	i.TakeOwnership, i.Labels = s.TakeOwnership, a.labels()
	i.ServerSideApply = s.ServerSide != "false"
	i.ForceConflicts = s.ForceConflicts != nil && *s.ForceConflicts && i.ServerSideApply
	r, err := i.Run(c, a.plan.values)
	if err != nil {
		return nil, err
	}
	return asV1(r)
}

func (a *act) upgrade(c *chart.Chart) (*release.Release, error) {
	s := &a.plan.chart.Spec
	u := action.NewUpgrade(a.cfg)
	u.Namespace, u.MaxHistory = a.space, maxHistory
	u.WaitStrategy, u.WaitOptions, u.Timeout = kube.HookOnlyStrategy, a.waiting(), a.plan.chart.timeout()
	u.TakeOwnership, u.Labels = s.TakeOwnership, a.labels()
	// The values are the plan's, also when they have become none.
	u.ResetValues = true
	if s.ServerSide != "" {
		u.ServerSideApply = s.ServerSide
	}
	u.ForceConflicts = s.ForceConflicts != nil && *s.ForceConflicts && s.ServerSide != "false"
	r, err := u.Run(a.name, c, a.plan.values)
	if err == nil {
		return asV1(r)
	}
	return a.failed(c, err)
}

// failed does what the policy says about an upgrade that failed.
func (a *act) failed(c *chart.Chart, cause error) (*release.Release, error) {
	history, err := a.history()
	if err != nil || len(history) == 0 {
		return nil, errors.Join(cause, err)
	}
	last, policy := history[len(history)-1], a.plan.chart.Spec.FailurePolicy
	if a.ctx.Err() != nil || policy == policyAbort || last.Info.Status != common.StatusFailed {
		return nil, cause // Or it failed before anything was changed.
	}
	if policy == policyReinstall {
		a.logger.Warn("upgrade failed, uninstalling the chart to install it anew", "release", a.name, "error", cause)
		if err := a.clear(last); err != nil {
			return nil, errors.Join(cause, err)
		}
		return a.install(c)
	}
	good := worked(history)
	if good == nil {
		return nil, cause
	}
	if err := a.rollback(good.Version); err != nil {
		return nil, fmt.Errorf("%w; going back to revision %d did not work either: %w", cause, good.Version, err)
	}
	return nil, &rolledBack{cause, good.Version}
}

// rolledBack says that what was there before the error is there again.
type rolledBack struct {
	error
	revision int
}

// Unwrap lets errors.As see the cause.
func (r *rolledBack) Unwrap() error { return r.error }

func (a *act) rollback(revision int) error {
	s := &a.plan.chart.Spec
	r := action.NewRollback(a.cfg)
	r.Version, r.MaxHistory = revision, maxHistory
	r.WaitStrategy, r.WaitOptions, r.Timeout = kube.HookOnlyStrategy, a.waiting(), a.plan.chart.timeout()
	r.ForceConflicts = s.ForceConflicts != nil && *s.ForceConflicts && s.ServerSide != "false"
	return r.Run(a.name)
}
