package series

import (
	"net/http/httptest"
	"strings"
	"testing"

	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
)

func TestOwnerOf(t *testing.T) {
	for function, want := range map[string]Owner{
		"k8s.io/apiserver/pkg/endpoints/metrics.Register.func1":        APIServer,
		"k8s.io/kubernetes/pkg/scheduler/metrics.Register":             Scheduler,
		"k8s.io/kubernetes/pkg/controller/garbagecollector/metrics.X":  Controllers,
		"k8s.io/kubernetes/cmd/kube-controller-manager/app.Run":        Controllers,
		"k8s.io/kubernetes/pkg/proxy/metrics.RegisterMetrics.func1":    Proxy,
		"k8s.io/kubernetes/pkg/kubelet/metrics.Register":               nobody,
		"k8s.io/component-base/metrics/prometheus/workqueue.init.func": nobody,
	} {
		if got, _ := ownerOf(function); got != want {
			t.Errorf("%s: owner %d, want %d", function, got, want)
		}
	}
}

// TestUnowned registers from a package that nobody owns: the series must be where
// the kubelet serves them, and nowhere else.
func TestUnowned(t *testing.T) {
	r := Separate()
	c := metrics.NewCounter(&metrics.CounterOpts{Name: "skiff_series_test_total", Help: "A test."})
	legacyregistry.MustRegister(c)
	c.Inc()
	families, err := legacyregistry.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, f := range families {
		found = found || f.GetName() == "skiff_series_test_total"
	}
	if !found {
		t.Error("the series is not in the shared registry")
	}
	for _, o := range []Owner{APIServer, Scheduler, Controllers, Proxy} {
		w := httptest.NewRecorder()
		r.Handler(o).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		if body := w.Body.String(); strings.Contains(body, "skiff_series_test_total") || !strings.Contains(body, "process_cpu_seconds_total") {
			t.Errorf("owner %d serves: %.200s", o, body)
		}
	}
}
