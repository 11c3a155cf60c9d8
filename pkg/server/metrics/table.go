package metrics

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/metrics/pkg/apis/metrics"
)

// columns are what `kubectl get` prints of both resources.
var columns = []metav1.TableColumnDefinition{
	{Name: "Name", Type: "string", Format: "name", Description: "Name of the node or pod"},
	{Name: "CPU", Type: "string", Description: "CPU in use, in cores"},
	{Name: "Memory", Type: "string", Description: "Working set"},
	{Name: "Window", Type: "string", Description: "Time over which the CPU rate was taken"},
}

// ConvertToTable implements rest.TableConvertor.
func (*nodes) ConvertToTable(_ context.Context, object, _ runtime.Object) (*metav1.Table, error) {
	return table(object)
}

// ConvertToTable implements rest.TableConvertor.
func (*pods) ConvertToTable(_ context.Context, object, _ runtime.Object) (*metav1.Table, error) {
	return table(object)
}

func table(object runtime.Object) (*metav1.Table, error) {
	t := &metav1.Table{ColumnDefinitions: columns}
	row := func(o runtime.Object) error {
		switch m := o.(type) {
		case *metrics.NodeMetrics:
			t.Rows = append(t.Rows, tableRow(o, m.Name, m.Usage, m.Window))
		case *metrics.PodMetrics:
			t.Rows = append(t.Rows, tableRow(o, m.Name, sum(m.Containers), m.Window))
		default:
			return fmt.Errorf("print metrics: cannot make a row of %T", o)
		}
		return nil
	}
	if meta.IsListType(object) {
		return t, meta.EachListItem(object, row)
	}
	return t, row(object)
}

func tableRow(o runtime.Object, name string, usage corev1.ResourceList, w metav1.Duration) metav1.TableRow {
	return metav1.TableRow{
		Cells:  []any{name, usage.Cpu().String(), usage.Memory().String(), w.Duration.String()},
		Object: runtime.RawExtension{Object: o},
	}
}

// sum adds up what the containers of a pod use.
func sum(containers []metrics.ContainerMetrics) corev1.ResourceList {
	total := corev1.ResourceList{}
	for _, c := range containers {
		for name, q := range c.Usage {
			t := total[name]
			t.Add(q)
			total[name] = t
		}
	}
	return total
}
