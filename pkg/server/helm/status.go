package helm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"

	release "helm.sh/helm/v4/pkg/release/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// The conditions of a HelmChart.
const (
	conditionReady  = "Ready"         // the release is as the object says
	conditionFailed = "Failed"        // the last attempt did not work
	conditionIgnore = "FieldsIgnored" // some fields have no effect in skiff
)

// maxMessage is the limit of an Event's message.
const maxMessage = 1000

// ready notes that the release is as planned. r is nil if it was so before.
func (w *worker) ready(ctx context.Context, p *plan, revision int, r *release.Release) error {
	s := p.status()
	s.FailedHash, s.Revision, s.Namespace = "", revision, p.chart.releaseNamespace()
	said := fmt.Sprintf("release %s, revision %d, is in namespace %s", p.chart.Name, revision, s.Namespace)
	reason := "Installed"
	if r != nil {
		s.Chart, s.Version = r.Chart.Metadata.Name, r.Chart.Metadata.Version
		said = fmt.Sprintf("%s; Helm says: %s", said, r.Info.Description)
	}
	if revision > 1 {
		reason = "Upgraded"
	}
	p.condition(&s, conditionReady, metav1.ConditionTrue, reason, said)
	p.condition(&s, conditionFailed, metav1.ConditionFalse, reason, "")
	if err := w.setStatus(ctx, p, s); err != nil {
		return err
	}
	if r != nil {
		w.logger(types.NamespacedName{Namespace: p.chart.Namespace, Name: p.chart.Name}).Info("chart works now", "done", strings.ToLower(reason), "chartVersion", s.Version, "revision", revision)
		w.event(ctx, p.chart, corev1.EventTypeNormal, reason, fmt.Sprintf("%s %s: %s", s.Chart, s.Version, said))
	}
	return nil
}

// progress notes that Helm is at work. A chart that failed before keeps saying
// why until it works.
func (w *worker) progress(ctx context.Context, p *plan, exists bool) error {
	if meta.IsStatusConditionTrue(p.chart.Status.Conditions, conditionFailed) {
		return nil
	}
	s := p.status()
	reason, said := "Installing", "Helm is installing the chart"
	if exists {
		reason, said = "Upgrading", "Helm is upgrading the chart"
	}
	s.Namespace = p.chart.releaseNamespace()
	p.condition(&s, conditionReady, metav1.ConditionFalse, reason, said)
	return w.setStatus(ctx, p, s)
}

// broken notes a failure: once, however often it is repeated.
func (w *worker) broken(ctx context.Context, p *plan, problem *problem, err error, again string) error {
	s := p.status()
	said := problem.Error()
	if back, ok := errors.AsType[*rolledBack](err); ok {
		said += fmt.Sprintf("; revision %d has been put back", back.revision)
	}
	said = cut(said, maxMessage-100)
	// The condition does without the growing pause, which would be a write each
	// time.
	full := said
	if p.chart.Spec.FailurePolicy == policyAbort || strings.HasPrefix(again, "not ") {
		full += "; " + again
	}
	s.FailedHash = p.hash
	p.condition(&s, conditionReady, metav1.ConditionFalse, problem.reason, full)
	p.condition(&s, conditionFailed, metav1.ConditionTrue, problem.reason, full)
	if reflect.DeepEqual(s, p.chart.Status) {
		return nil
	}
	if err := w.setStatus(ctx, p, s); err != nil {
		return err
	}
	w.event(ctx, p.chart, corev1.EventTypeWarning, problem.reason, said+"; "+again)
	return nil
}

// noteIgnored says which fields have no effect.
func (w *worker) noteIgnored(ctx context.Context, p *plan) error {
	s := p.status()
	had := meta.FindStatusCondition(s.Conditions, conditionIgnore)
	if len(p.ignored) == 0 {
		if had == nil {
			return nil
		}
		meta.RemoveStatusCondition(&s.Conditions, conditionIgnore)
		return w.setStatus(ctx, p, s)
	}
	said := "without effect, since skiff runs Helm in its own process and makes no Jobs: spec." + strings.Join(p.ignored, ", spec.")
	if had != nil && had.Message == said {
		return nil
	}
	p.condition(&s, conditionIgnore, metav1.ConditionTrue, "NoJobs", said)
	if err := w.setStatus(ctx, p, s); err != nil {
		return err
	}
	w.event(ctx, p.chart, corev1.EventTypeNormal, conditionIgnore, said)
	return nil
}

// status is a copy to change.
func (p *plan) status() chartStatus {
	s := p.chart.Status
	s.Conditions = append([]metav1.Condition(nil), s.Conditions...)
	return s
}

func (p *plan) condition(s *chartStatus, kind string, status metav1.ConditionStatus, reason, message string) {
	meta.SetStatusCondition(&s.Conditions, metav1.Condition{
		Type: kind, Status: status, Reason: reason, Message: message,
	})
}

// setStatus writes the status if it says something new.
func (w *worker) setStatus(ctx context.Context, p *plan, s chartStatus) error {
	if reflect.DeepEqual(s, p.chart.Status) {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"status": statusPatch(s)})
	if err != nil {
		return fmt.Errorf("write status: %w", err)
	}
	_, err = w.dynamic.Resource(charts).Namespace(p.chart.Namespace).Patch(ctx, p.chart.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("write status: %w", err)
	}
	p.chart.Status = s
	return nil
}

// statusPatch names all fields, so that an empty one replaces what was there.
func statusPatch(s chartStatus) map[string]any {
	m := map[string]any{"conditions": s.Conditions, "chart": nil, "version": nil, "namespace": nil, "revision": s.Revision, "failedHash": nil}
	for k, v := range map[string]string{"chart": s.Chart, "version": s.Version, "namespace": s.Namespace, "failedHash": s.FailedHash} {
		if v != "" {
			m[k] = v
		}
	}
	return m
}

// setFinalizers replaces them, if nobody else has meanwhile.
func (w *worker) setFinalizers(ctx context.Context, c *helmChart, list []string) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"finalizers": list, "resourceVersion": c.ResourceVersion}})
	if err != nil {
		return fmt.Errorf("write finalizers: %w", err)
	}
	_, err = w.dynamic.Resource(charts).Namespace(c.Namespace).Patch(ctx, c.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("write finalizers: %w", err)
	}
	return nil
}

// event tells the person whose chart it is; it is a courtesy, so an error is
// only noted.
func (w *worker) event(ctx context.Context, c *helmChart, kind, reason, message string) {
	now := metav1.NewTime(w.now())
	e := &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{GenerateName: c.Name + ".", Namespace: c.Namespace},
		InvolvedObject: corev1.ObjectReference{
			APIVersion: group, Kind: "HelmChart", Namespace: c.Namespace, Name: c.Name, UID: c.UID, ResourceVersion: c.ResourceVersion,
		},
		Type: kind, Reason: reason, Message: cut(message, maxMessage),
		Source: corev1.EventSource{Component: name}, FirstTimestamp: now, LastTimestamp: now, Count: 1,
	}
	if _, err := w.kube.CoreV1().Events(c.Namespace).Create(ctx, e, metav1.CreateOptions{}); err != nil {
		w.o.Logger.Debug("write event", "chart", c.Namespace+"/"+c.Name, "error", err)
	}
}

// cut shortens s to at most n bytes.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}
