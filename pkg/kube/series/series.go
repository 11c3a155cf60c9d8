// Package series keeps the metrics of Kubernetes' components apart. Upstream
// registers them in one registry for the process, which is right where each
// component is a process; here every component's endpoint would serve all of
// them, and who scrapes three endpoints would store everything three times. It
// must not know how a component is served. Start reading at Separate.
package series

import (
	"net/http"
	"runtime"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
)

// Owner is a component with an endpoint of its own. The kubelet is not one: its
// endpoint is upstream's registry, with what nobody else owns.
type Owner int

// The owners.
const (
	nobody Owner = iota
	APIServer
	Scheduler
	Controllers
	Proxy
)

// owners are by the package that registers, as a prefix of its path; the longest
// that fits counts.
var owners = map[string]Owner{
	"k8s.io/apiserver/":                             APIServer,
	"k8s.io/kube-aggregator/":                       APIServer,
	"k8s.io/apiextensions-apiserver/":               APIServer,
	"k8s.io/kubernetes/cmd/kube-apiserver":          APIServer,
	"k8s.io/kubernetes/pkg/controlplane":            APIServer,
	"k8s.io/kubernetes/pkg/kubeapiserver":           APIServer,
	"k8s.io/kubernetes/pkg/registry":                APIServer,
	"k8s.io/kubernetes/pkg/serviceaccount":          APIServer,
	"k8s.io/kubernetes/plugin/pkg":                  APIServer,
	"skiff/pkg/server":                              APIServer,
	"k8s.io/kubernetes/pkg/scheduler":               Scheduler,
	"k8s.io/kubernetes/cmd/kube-scheduler":          Scheduler,
	"k8s.io/kubernetes/pkg/controller":              Controllers,
	"k8s.io/kubernetes/cmd/kube-controller-manager": Controllers,
	"k8s.io/cloud-provider/":                        Controllers,
	"k8s.io/controller-manager/":                    Controllers,
	"k8s.io/endpointslice/":                         Controllers,
	"k8s.io/kubernetes/pkg/proxy":                   Proxy,
	"k8s.io/kubernetes/cmd/kube-proxy":              Proxy,
	// The shared registry is the kubelet's.
	"k8s.io/kubernetes/pkg/kubelet": nobody,
	"k8s.io/kubernetes/cmd/kubelet": nobody,
}

// earlyOwners are by the beginning of a series' name.
var earlyOwners = map[string]Owner{
	"aggregator_": APIServer, "apiextensions_": APIServer, "apiserver_": APIServer, "authentication_": APIServer, "authorization_": APIServer,
	"workqueue_": Controllers,
}

// Registries are those of the owners.
type Registries struct {
	of map[Owner]metrics.KubeRegistry
}

// Separate sends what is registered from now on to its owner's registry. Call it
// once per process, before any component is built: upstream keeps the functions
// that it registers with in package variables, which this sets. What packages
// register when the process starts stays in the shared registry.
func Separate() *Registries {
	r := &Registries{of: make(map[Owner]metrics.KubeRegistry)}
	for _, o := range []Owner{APIServer, Scheduler, Controllers, Proxy} {
		one := metrics.NewKubeRegistry()
		one.RawMustRegister(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collectors.NewGoCollector())
		r.of[o] = one
	}
	register, must, raw := legacyregistry.Register, legacyregistry.MustRegister, legacyregistry.RawMustRegister
	legacyregistry.Register = func(c metrics.Registerable) error {
		if one, ok := r.of[caller()]; ok {
			return one.Register(c)
		}
		return register(c)
	}
	legacyregistry.MustRegister = func(cs ...metrics.Registerable) {
		if one, ok := r.of[caller()]; ok {
			one.MustRegister(cs...)
			return
		}
		must(cs...)
	}
	legacyregistry.RawMustRegister = func(cs ...prometheus.Collector) {
		if one, ok := r.of[caller()]; ok {
			one.RawMustRegister(cs...)
			return
		}
		raw(cs...)
	}
	return r
}

// Handler serves an owner's series in the text format of Prometheus.
func (r *Registries) Handler(o Owner) http.Handler {
	all := prometheus.Gatherers{r.of[o], prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) { return early(o) })}
	return promhttp.HandlerFor(all, promhttp.HandlerOpts{ProcessStartTime: legacyregistry.GetProcessStart()})
}

// early are the series of an owner that packages have registered before anybody
// could separate them. The kubelet's endpoint has them too.
func early(o Owner) ([]*dto.MetricFamily, error) {
	families, err := legacyregistry.DefaultGatherer.Gather()
	if err != nil {
		return nil, err
	}
	var own []*dto.MetricFamily
	for _, f := range families {
		for prefix, of := range earlyOwners {
			if of == o && strings.HasPrefix(f.GetName(), prefix) {
				own = append(own, f)
			}
		}
	}
	return own, nil
}

// Register adds a collector to an owner's series.
func (r *Registries) Register(o Owner, c prometheus.Collector) error {
	return r.of[o].Registerer().Register(c)
}

// caller is the owner of the package that registers: the nearest one on the
// stack that has one.
func caller() Owner {
	pcs := make([]uintptr, 24)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs)])
	for {
		frame, more := frames.Next()
		if o, ok := ownerOf(frame.Function); ok || !more {
			return o
		}
	}
}

// ownerOf is the owner of the package that a function is in.
func ownerOf(function string) (Owner, bool) {
	best, length := nobody, 0
	for prefix, o := range owners {
		if len(prefix) > length && strings.HasPrefix(function, prefix) {
			best, length = o, len(prefix)
		}
	}
	return best, length > 0
}
