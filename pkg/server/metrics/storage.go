package metrics

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/metrics/pkg/apis/metrics"
)

// nodes is the resource nodes.metrics.k8s.io.
type nodes struct{ *kubelets }

// pods is the resource pods.metrics.k8s.io.
type pods struct{ *kubelets }

// readable is what both resources can do.
type readable interface {
	rest.Storage
	rest.KindProvider
	rest.Getter
	rest.Lister
	rest.Scoper
	rest.SingularNameProvider
}

var (
	_ readable = (*nodes)(nil)
	_ readable = (*pods)(nil)
)

// cached makes a list come from the API server's memory: figures are never
// newer than the list anyway.
func cached(o *internalversion.ListOptions) metav1.ListOptions {
	list := metav1.ListOptions{ResourceVersion: "0"}
	if o != nil && o.LabelSelector != nil {
		list.LabelSelector = o.LabelSelector.String()
	}
	if o != nil && o.FieldSelector != nil {
		list.FieldSelector = o.FieldSelector.String()
	}
	return list
}

// New implements rest.Storage.
func (*nodes) New() runtime.Object { return &metrics.NodeMetrics{} }

// Destroy implements rest.Storage.
func (*nodes) Destroy() {}

// Kind implements rest.KindProvider.
func (*nodes) Kind() string { return "NodeMetrics" }

// NamespaceScoped implements rest.Scoper.
func (*nodes) NamespaceScoped() bool { return false }

// GetSingularName implements rest.SingularNameProvider.
func (*nodes) GetSingularName() string { return "" }

// NewList implements rest.Lister.
func (*nodes) NewList() runtime.Object { return &metrics.NodeMetricsList{} }

// List implements rest.Lister.
func (n *nodes) List(ctx context.Context, o *internalversion.ListOptions) (runtime.Object, error) {
	client, err := n.api()
	if err != nil {
		return nil, err
	}
	list, err := client.CoreV1().Nodes().List(ctx, cached(o))
	if err != nil {
		return nil, err
	}
	return n.measure(ctx, list.Items)
}

// Get implements rest.Getter.
func (n *nodes) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	client, err := n.api()
	if err != nil {
		return nil, err
	}
	node, err := client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{ResourceVersion: "0"})
	if err != nil {
		return nil, err
	}
	list, err := n.measure(ctx, []corev1.Node{*node})
	if err != nil {
		return nil, err
	}
	if len(list.Items) == 0 {
		return nil, apierrors.NewNotFound(metrics.Resource("nodemetrics"), name)
	}
	return &list.Items[0], nil
}

func (n *nodes) measure(ctx context.Context, list []corev1.Node) (*metrics.NodeMetricsList, error) {
	names := make([]string, len(list))
	for i := range list {
		names[i] = list[i].Name
	}
	usages, err := n.of(ctx, names)
	if err != nil {
		return nil, err
	}
	result := &metrics.NodeMetricsList{Items: []metrics.NodeMetrics{}}
	for i := range list {
		if u := usages[list[i].Name]; u != nil {
			if m := nodeMetrics(&list[i], u); m != nil {
				result.Items = append(result.Items, *m)
			}
		}
	}
	return result, nil
}

// New implements rest.Storage.
func (*pods) New() runtime.Object { return &metrics.PodMetrics{} }

// Destroy implements rest.Storage.
func (*pods) Destroy() {}

// Kind implements rest.KindProvider.
func (*pods) Kind() string { return "PodMetrics" }

// NamespaceScoped implements rest.Scoper.
func (*pods) NamespaceScoped() bool { return true }

// GetSingularName implements rest.SingularNameProvider.
func (*pods) GetSingularName() string { return "" }

// NewList implements rest.Lister.
func (*pods) NewList() runtime.Object { return &metrics.PodMetricsList{} }

// List implements rest.Lister.
func (p *pods) List(ctx context.Context, o *internalversion.ListOptions) (runtime.Object, error) {
	client, err := p.api()
	if err != nil {
		return nil, err
	}
	list, err := client.CoreV1().Pods(request.NamespaceValue(ctx)).List(ctx, cached(o))
	if err != nil {
		return nil, err
	}
	return p.measure(ctx, list.Items)
}

// Get implements rest.Getter.
func (p *pods) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	client, err := p.api()
	if err != nil {
		return nil, err
	}
	pod, err := client.CoreV1().Pods(request.NamespaceValue(ctx)).Get(ctx, name, metav1.GetOptions{ResourceVersion: "0"})
	if err != nil {
		return nil, err
	}
	list, err := p.measure(ctx, []corev1.Pod{*pod})
	if err != nil {
		return nil, err
	}
	if len(list.Items) == 0 {
		return nil, apierrors.NewNotFound(metrics.Resource("podmetrics"), pod.Namespace+"/"+name)
	}
	return &list.Items[0], nil
}

func (p *pods) measure(ctx context.Context, list []corev1.Pod) (*metrics.PodMetricsList, error) {
	names := make([]string, 0, 1)
	seen := make(map[string]bool)
	for i := range list {
		if n := list[i].Spec.NodeName; n != "" && running(&list[i]) && !seen[n] {
			seen[n] = true
			names = append(names, n)
		}
	}
	usages, err := p.of(ctx, names)
	if err != nil {
		return nil, err
	}
	result := &metrics.PodMetricsList{Items: []metrics.PodMetrics{}}
	for i := range list {
		u := usages[list[i].Spec.NodeName]
		if u == nil || !running(&list[i]) {
			continue
		}
		if m := podMetrics(&list[i], u); m != nil {
			result.Items = append(result.Items, *m)
		}
	}
	return result, nil
}

func running(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning }
