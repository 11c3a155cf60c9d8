package helm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/strvals"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"
)

// plan is what a HelmChart, its HelmChartConfig and what they refer to amount
// to.
type plan struct {
	chart   *helmChart
	values  map[string]any
	hash    string
	archive []byte // of a local chart; nil if it has to be fetched
	ignored []string
	needs   []need
}

// attempt tells the tries at one state of the objects from those at another.
func (p *plan) attempt() string { return fmt.Sprintf("%s/%d", p.hash, p.chart.Generation) }

// source is the part of a chart's specification that makes it what it is. A
// change of other fields (timeout, failurePolicy) is no reason to upgrade.
type source struct {
	Chart, ChartContent, Version, Repo string
	Namespace                          string
	Archive                            string
	Values                             map[string]any
	TakeOwnership                      bool
	ServerSide                         string
}

// plan gathers it. An error is for the person whose chart it is, except when it
// is the API's.
func (w *worker) plan(ctx context.Context, c *helmChart) (*plan, error) {
	p := &plan{chart: c}
	config, err := w.chartConfig(ctx, c)
	if err != nil {
		return p, err
	}
	layers := []overrides{c.Spec.overrides, config}
	c.Spec.merge(config)
	p.refer(w.o.Static)
	if err := check(&c.Spec); err != nil {
		return p, err
	}
	if p.values, err = w.values(ctx, p, layers, true); err != nil {
		return p, err
	}
	hashed, err := w.values(ctx, p, layers, false)
	if err != nil {
		return p, err
	}
	if p.archive, err = c.Spec.local(w.o.Static); err != nil {
		return p, err
	}
	s := source{
		Chart: c.Spec.Chart, Version: c.Spec.Version, Repo: c.Spec.Repo, Namespace: c.releaseNamespace(),
		Archive: digest(p.archive), Values: hashed, TakeOwnership: c.Spec.TakeOwnership, ServerSide: c.Spec.ServerSide,
	}
	b, err := json.Marshal(s)
	if err != nil {
		return p, badValues(err, "the values cannot be written as JSON")
	}
	p.hash = digest(b)[:32]
	return p, nil
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// check refuses what contradicts itself.
func check(s *chartSpec) error {
	switch s.FailurePolicy {
	case "", policyReinstall, policyAbort, policyRetry:
	default:
		return badSpec("spec.failurePolicy is %q; it may be reinstall, retry or abort", s.FailurePolicy)
	}
	switch s.ServerSide {
	case "", "true", "false", "auto":
	default:
		return badSpec("spec.serverSide is %q; it may be true, false or auto", s.ServerSide)
	}
	if s.Chart == "" && s.ChartContent == "" {
		return badSpec("neither spec.chart nor spec.chartContent is set, so there is nothing to install")
	}
	return nil
}

// chartConfig reads the HelmChartConfig of the same name, if there is one.
func (w *worker) chartConfig(ctx context.Context, c *helmChart) (overrides, error) {
	u, err := w.dynamic.Resource(configs).Namespace(c.Namespace).Get(ctx, c.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return overrides{}, nil
	}
	if err != nil {
		return overrides{}, fmt.Errorf("get HelmChartConfig: %w", err)
	}
	var config chartConfig
	if err := decode(u, &config); err != nil {
		return overrides{}, badSpec("the HelmChartConfig cannot be read: %v", err)
	}
	c.Generation += u.GetGeneration() // Only its changing matters.
	return config.Spec, nil
}

// refer notes what is to be watched.
func (p *plan) refer(static string) {
	s := &p.chart.Spec
	add := func(n need, name string) {
		n.name = types.NamespacedName{Namespace: p.chart.Namespace, Name: name}
		if name != "" && !slices.Contains(p.needs, n) {
			p.needs = append(p.needs, n)
		}
	}
	for _, r := range []*reference{s.AuthSecret, s.DockerRegistrySecret} {
		if r != nil {
			add(need{resource: secrets}, r.Name)
		}
	}
	if s.RepoCAConfigMap != nil {
		add(need{resource: configMaps}, s.RepoCAConfigMap.Name)
	}
	if name, ok := s.staticPath(static); ok && s.ChartContent == "" {
		add(need{resource: staticFiles}, name)
	}
}

// values merges everything that may hold values, the later over the earlier:
// of the chart, then of its HelmChartConfig, valuesContent, values and
// valuesSecrets; then spec.set. Without all, Secrets are left out whose updates
// are to be ignored.
func (w *worker) values(ctx context.Context, p *plan, layers []overrides, all bool) (map[string]any, error) {
	out := map[string]any{}
	for i, l := range layers {
		where := "spec"
		if i > 0 {
			where = "spec of the HelmChartConfig"
		}
		if err := mergeYAML(&out, []byte(l.ValuesContent), "valuesContent in the "+where); err != nil {
			return nil, err
		}
		out = loader.MergeMaps(out, l.Values)
		for _, s := range l.ValuesSecrets {
			if s.IgnoreUpdates && !all {
				continue
			}
			if err := w.secretValues(ctx, p, s, &out); err != nil {
				return nil, err
			}
		}
	}
	return out, set(p.chart.Spec.Set, out)
}

// mergeYAML merges YAML over values.
func mergeYAML(values *map[string]any, text []byte, where string) error {
	var m map[string]any
	if err := yaml.Unmarshal(text, &m); err != nil {
		return badValues(err, "%s is no YAML mapping", where)
	}
	*values = loader.MergeMaps(*values, m)
	return nil
}

// secretValues merges the keys of a Secret, and has it watched.
func (w *worker) secretValues(ctx context.Context, p *plan, s valuesSecret, values *map[string]any) error {
	n := need{secrets, types.NamespacedName{Namespace: p.chart.Namespace, Name: s.Name}}
	if !s.IgnoreUpdates && !slices.Contains(p.needs, n) {
		p.needs = append(p.needs, n)
	}
	secret, err := w.kube.CoreV1().Secrets(p.chart.Namespace).Get(ctx, s.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		if s.IgnoreUpdates {
			return nil
		}
		return badValues(nil, "Secret %s/%s of spec.valuesSecrets does not exist; the chart is tried again when it does", p.chart.Namespace, s.Name)
	}
	if err != nil {
		return fmt.Errorf("get Secret %s: %w", s.Name, err)
	}
	for _, key := range s.Keys {
		text, ok := secret.Data[key]
		if !ok && !s.IgnoreUpdates {
			return badValues(nil, "Secret %s/%s of spec.valuesSecrets has no key %q", p.chart.Namespace, s.Name, key)
		}
		var m map[string]any
		if yaml.Unmarshal(text, &m) != nil { // The error would quote the secret.
			return badValues(nil, "key %q of Secret %s/%s is no YAML mapping", key, p.chart.Namespace, s.Name)
		}
		*values = loader.MergeMaps(*values, m)
	}
	return nil
}

// set applies spec.set in the order of its keys. Numbers, true, false and null
// keep their type; all else is text, as in K3s.
func set(m map[string]intstr.IntOrString, values map[string]any) error {
	for _, key := range slices.Sorted(maps.Keys(m)) {
		v := m[key]
		parse := strvals.ParseIntoString
		if v.Type == intstr.Int || slices.Contains([]string{"true", "false", "null"}, strings.ToLower(v.StrVal)) {
			parse = strvals.ParseInto
		}
		if err := parse(key+"="+v.String(), values); err != nil {
			return badValues(err, "spec.set: %s=%s is nothing that Helm's --set takes", key, v.String())
		}
	}
	return nil
}

// getSecret reads a Secret that a field of the chart names.
func (w *worker) getSecret(ctx context.Context, c *helmChart, r *reference, field string) (*corev1.Secret, error) {
	s, err := w.kube.CoreV1().Secrets(c.Namespace).Get(ctx, r.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, unavailable(nil, "Secret %s/%s of spec.%s does not exist; the chart is tried again when it does", c.Namespace, r.Name, field)
	}
	if err != nil {
		return nil, fmt.Errorf("get Secret %s: %w", r.Name, err)
	}
	return s, nil
}
