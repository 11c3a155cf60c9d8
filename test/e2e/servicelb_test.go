package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"skiff/test/hosts"
)

// shops is one web server behind three load balancers: two want the same port.
const shops = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: web
        image: IMAGE
        imagePullPolicy: Never
        command: [/tool, serve]
        resources: {requests: {cpu: 10m, memory: 8Mi}}
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: first}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  selector: {app: web}
  ports: [{port: 8088, targetPort: 8080}]
`

func balancer(name, extra string, port int) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: %s}
spec:
  type: LoadBalancer
  selector: {app: web}
  ports: [{port: %d, targetPort: 8080}]
  %s
`, name, port, extra)
}

// TestServiceLB uses Services of type LoadBalancer: they answer on the node's
// address, see who calls, keep to their port, and go when they are disabled.
func TestServiceLB(t *testing.T) {
	t.Parallel()
	h := newHost(t, hosts.Named("edge"))
	h.StartServer()
	h.WaitReady()
	s := newSpace(t, h, "lb")
	s.apply(shops)
	s.ready("app=web", 1)
	s.served("first", h.Addr())
	s.eventually("the load balancer to answer and to know who calls", func() error {
		_, body, err := hosts.Get(h.Network(), "http://"+h.Addr()+":8088/")
		if err != nil {
			return err
		}
		if !strings.Contains(body, `"client":"`+h.Network().Gateway()+":") {
			return fmt.Errorf("the backend sees %s, want the client %s", body, h.Network().Gateway())
		}
		return nil
	})

	// Ports that are somebody else's: another Service's, a process's, the kubelet's.
	taken := h.ListenIn("0.0.0.0:8099")
	s.apply(balancer("second", "", 8088))
	s.apply(balancer("host", "", 8099))
	s.apply(balancer("kubelet", "", 10250))
	s.refused("second", "port 8088/TCP of "+h.Addr()+" is Service lb/first's")
	s.refused("host", "port 8099/TCP of node edge cannot be had", "is already in use")
	s.refused("kubelet", "10250")
	contains(t, "the kubelet is not hijacked", h.Run("skiff", "kubectl", "-n", "lb", "logs", "deploy/web"), "listening on")
	s.kubectl("delete", "service", "first")
	s.served("second", h.Addr())
	if err := taken.Close(); err != nil {
		t.Fatal(err)
	}
	s.served("host", h.Addr())

	// Who may call, which class, which nodes.
	s.apply(balancer("closed", "loadBalancerSourceRanges: [192.0.2.0/24]", 8090))
	s.apply(balancer("foreign", "loadBalancerClass: example.com/other", 8091))
	s.served("closed", h.Addr())
	if code, body, err := hosts.Get(h.Network(), "http://"+h.Addr()+":8090/"); err == nil {
		t.Errorf("a client outside of loadBalancerSourceRanges got %d %s", code, body)
	}
	h.Kubectl("label", "node", "edge", "svccontroller.skiff.dev/enablelb=false")
	s.served("second", "")
	h.Kubectl("label", "node", "edge", "svccontroller.skiff.dev/enablelb-")
	s.served("second", h.Addr())
	s.served("foreign", "")

	h.Stop()
	h.StartServer("--disable", "servicelb")
	h.WaitReady()
	s.served("second", "")
	h.Stop()
	h.StartServer()
	h.WaitReady()
	s.served("second", h.Addr())
	s.eventually("the second to answer", func() error { return answersOK(h.Network(), "http://"+h.Addr()+":8088/") })
}

// served waits until the Service has exactly this address, "" for none.
func (s *space) served(service, addr string) {
	s.t.Helper()
	s.eventually("Service "+service+" to be served on "+addr, func() error {
		r := s.Exec("skiff", "kubectl", "-n", s.ns, "get", "service", service, "-o", "jsonpath={.status.loadBalancer.ingress[*].ip}")
		if r.Code != 0 || r.Stdout != addr {
			return fmt.Errorf("it is served on %q: %s", r.Stdout, s.kubectl("get", "service", service, "-o", "jsonpath={.status}"))
		}
		return nil
	})
}

// refused waits until condition and event of the Service say why it is not
// served.
func (s *space) refused(service string, why ...string) {
	s.t.Helper()
	s.served(service, "")
	for what, args := range map[string][]string{
		"condition": {"get", "service", service, "-o", `jsonpath={.status.conditions[?(@.type=="LoadBalancerPortsError")].message}`},
		"events":    {"get", "events", "--field-selector", "reason=PortConflict,involvedObject.name=" + service},
	} {
		s.eventually(what+" of Service "+service, func() error {
			out := s.kubectl(args...)
			for _, w := range why {
				if !strings.Contains(out, w) {
					return fmt.Errorf("%q, want %q in it", out, w)
				}
			}
			return nil
		})
	}
}

// TestMetrics asks what nodes and pods use, and lets an autoscaler act on it.
func TestMetrics(t *testing.T) {
	t.Parallel()
	h := newHost(t, hosts.Named("meter"))
	h.StartServer()
	h.WaitReady()
	s := newSpace(t, h, "metrics")
	s.apply(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: busy}
spec:
  selector: {matchLabels: {app: busy}}
  template:
    metadata: {labels: {app: busy}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: c
        image: IMAGE
        imagePullPolicy: Never
        command: [sh, -c, "while :; do :; done"]
        resources: {requests: {cpu: 50m}, limits: {cpu: 200m}}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: busy}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: busy}
  maxReplicas: 2
  metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 100}}}]
`)
	for _, args := range [][]string{{"top", "node", "--no-headers"}, {"get", "nodes.metrics.k8s.io", "--no-headers"}} {
		s.eventually("kubectl "+args[0], func() error {
			if out := s.kubectl(args...); !strings.Contains(out, "meter") {
				return fmt.Errorf("it prints %q", out)
			}
			return nil
		})
	}
	s.eventually("kubectl top pod --containers", func() error {
		r := s.Exec("skiff", "kubectl", "-n", s.ns, "top", "pod", "-l", "app=busy", "--containers", "--no-headers")
		if words := strings.Fields(r.Stdout); len(words) < 4 || words[1] != "c" || words[2] == "0m" {
			return fmt.Errorf("it prints %s", r)
		}
		return nil
	})
	s.eventually("the autoscaler to scale up", func() error {
		if n := s.kubectl("get", "deploy", "busy", "-o", "jsonpath={.spec.replicas}"); n != "2" {
			return fmt.Errorf("there are %s replicas; %s", n, s.kubectl("get", "hpa", "busy", "-o", "jsonpath={.status.conditions[*].message}"))
		}
		return nil
	})
	ownSeries(s)
	var group struct{ Versions []struct{ Version string } }
	if err := json.Unmarshal([]byte(h.Kubectl("get", "--raw", "/apis/metrics.k8s.io")), &group); err != nil || len(group.Versions) != 1 {
		t.Errorf("group metrics.k8s.io: %v %+v", err, group)
	}

	h.Stop()
	h.StartServer("--disable", "metrics-server")
	h.WaitReady()
	s.eventually("the API group to be gone", func() error {
		if r := s.Exec("skiff", "kubectl", "get", "--raw", "/apis/metrics.k8s.io/v1beta1"); r.Code == 0 {
			return fmt.Errorf("it is still served")
		}
		return nil
	})
	if r := s.Exec("skiff", "kubectl", "get", "apiservice", "v1beta1.metrics.k8s.io"); r.Code == 0 {
		t.Error("the APIService is still there")
	}
}

// ownSeries checks that each component's endpoint has its own series and not the
// others'.
func ownSeries(s *space) {
	s.t.Helper()
	own := map[string]string{
		"/metrics":                          "apiserver_request_total",
		"/metrics/kube-scheduler":           "scheduler_schedule_attempts_total",
		"/metrics/kube-controller-manager":  "workqueue_adds_total",
		"/api/v1/nodes/meter/proxy/metrics": "kubelet_running_pods",
	}
	for path := range own {
		series := s.Kubectl("get", "--raw", path)
		for of, name := range own {
			has := strings.Contains(series, "\n"+name)
			// What packages register before main is shared: see pkg/kube/series.
			if shared := strings.HasSuffix(path, "/proxy/metrics") && name == "workqueue_adds_total"; has != (of == path) && !shared {
				s.t.Errorf("%s has series %s: %t", path, name, has)
			}
		}
	}
	_, series, err := hosts.Get(s, "http://127.0.0.1:10249/metrics")
	if err != nil || !strings.Contains(series, "kubeproxy_sync_proxy_rules_duration_seconds") || strings.Contains(series, "apiserver_request_total") {
		s.t.Errorf("kube-proxy's metrics: %v %.300s", err, series)
	}
	if strings.Contains(s.Log(), "starting metrics server failed") {
		s.t.Error("kube-proxy tries to serve metrics too")
	}
}
