package metrics

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/endpoints/request"
	clientrest "k8s.io/client-go/rest"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	"k8s.io/metrics/pkg/apis/metrics"
)

//go:fix inline
func number(n uint64) *uint64 { return new(n) }

func cpu(n uint64) *stats.CPUStats       { return &stats.CPUStats{UsageNanoCores: &n} }
func memory(n uint64) *stats.MemoryStats { return &stats.MemoryStats{WorkingSetBytes: &n} }

func container(name string, c *stats.CPUStats) stats.ContainerStats {
	return stats.ContainerStats{Name: name, CPU: c, Memory: memory(1 << 20)}
}

func reported(name, uid string, containers ...stats.ContainerStats) stats.PodStats {
	return stats.PodStats{PodRef: stats.PodReference{Namespace: "a", Name: name, UID: uid}, Containers: containers}
}

func pod(name, node string, phase corev1.PodPhase) corev1.Pod {
	return corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name, UID: "1", Labels: map[string]string{"app": name}},
		Spec:       corev1.PodSpec{NodeName: node}, Status: corev1.PodStatus{Phase: phase},
	}
}

// cluster answers for an API server with two nodes, of which only one's kubelet
// answers, and counts how often that was asked.
func cluster(t *testing.T) (k *kubelets, asked *atomic.Int32) {
	t.Helper()
	asked = new(atomic.Int32)
	answer := func(w http.ResponseWriter, object any) {
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(object); err != nil {
			t.Error(err)
		}
	}
	node := func(name string) corev1.Node { return corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}} }
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/nodes", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, corev1.NodeList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "NodeList"}, Items: []corev1.Node{node("n1"), node("n2")}})
	})
	mux.HandleFunc("GET /api/v1/namespaces/a/pods", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, corev1.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}, Items: []corev1.Pod{
			pod("whole", "n1", corev1.PodRunning), pod("young", "n1", corev1.PodRunning), pod("ended", "n1", corev1.PodSucceeded),
			pod("reborn", "n1", corev1.PodRunning), pod("silent", "n2", corev1.PodRunning), pod("waits", "", corev1.PodPending),
		}})
	})
	mux.HandleFunc("GET /api/v1/nodes/n1/proxy/stats/summary", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("only_cpu_and_memory") != "true" {
			t.Error("the kubelet is asked for more than CPU and memory")
		}
		asked.Add(1)
		answer(w, stats.Summary{
			Node: stats.NodeStats{CPU: cpu(1_500_000_000), Memory: memory(2 << 30)},
			Pods: []stats.PodStats{
				reported("whole", "1", container("x", cpu(250_000_000)), container("y", cpu(1_000_000))),
				reported("young", "1", container("x", cpu(1)), container("y", &stats.CPUStats{UsageCoreNanoSeconds: number(5)})),
				reported("ended", "1", container("x", cpu(1))),
				reported("reborn", "0", container("x", cpu(1))),
			},
		})
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return newKubelets(Options{
		Loopback: func() *clientrest.Config { return &clientrest.Config{Host: server.URL} },
		Logger:   slog.New(slog.DiscardHandler),
	}), asked
}

func TestNodesThatAnswerAreListed(t *testing.T) {
	k, asked := cluster(t)
	for range 3 {
		list, err := (&nodes{k}).List(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		got, _ := list.(*metrics.NodeMetricsList)
		if len(got.Items) != 1 || got.Items[0].Name != "n1" || got.Items[0].Usage.Cpu().String() != "1500m" || got.Items[0].Usage.Memory().String() != "2Gi" {
			t.Errorf("got %+v", got.Items)
		}
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("the kubelet was asked %d times, want once", n)
	}
}

func TestOnlyWholePodsAreListed(t *testing.T) {
	k, _ := cluster(t)
	p := &pods{k}
	list, err := p.List(request.WithNamespace(t.Context(), "a"), nil)
	if err != nil {
		t.Fatal(err)
	}
	table, err := p.ConvertToTable(t.Context(), list, nil)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, row := range table.Rows {
		var cells []string
		for _, c := range row.Cells {
			s, _ := c.(string)
			cells = append(cells, s)
		}
		got = append(got, strings.Join(cells, " "))
	}
	if diff := cmp.Diff([]string{"whole 251m 2Mi 10s"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestBeforeTheServerIsBuilt(t *testing.T) {
	k := newKubelets(Options{Loopback: func() *clientrest.Config { return nil }})
	if _, err := (&nodes{k}).List(t.Context(), nil); err == nil {
		t.Error("no error although the API server cannot be called yet")
	}
}
