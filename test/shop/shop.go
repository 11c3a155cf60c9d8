// Package shop is the cluster of one small shop, which uses everything that
// comes with skiff at once: a volume for its till, a web page behind an
// Ingress and an HTTPRoute, a load balancer, a network policy, a chart from
// disk and an autoscaler. Tests open it and use it, benchmarks weigh it. Start
// reading at Open.
package shop

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"strings"
	"time"

	"skiff/test/hosts"
	"skiff/test/images"
)

// patience is how long anything may take to work after it was asked for.
const patience = 90 * time.Second

// Shop is an open shop.
type Shop struct {
	t hosts.T
	h *hosts.Host
}

// Namespace is where everything of the shop lives.
const Namespace = "shop"

// chartFile is where skiff serves charts from.
const chartFile = "/var/lib/skiff/server/static/charts/menu.tgz"

// Open puts up the shop on a host that runs a server and has images.Tool.
func Open(t hosts.T, h *hosts.Host) *Shop {
	t.Helper()
	s := &Shop{t, h}
	archive, err := menu()
	if err != nil {
		t.Fatalf("pack the chart: %v", err)
	}
	h.WriteFile(chartFile, archive)
	h.Apply(strings.ReplaceAll(cluster, "IMAGE", images.Tool))
	return s
}

// Close takes the shop down again and waits until it has gone.
func (s *Shop) Close() {
	s.t.Helper()
	s.h.Kubectl("delete", "--wait", "--timeout=90s", "-n", "kube-system", "helmchart", "menu")
	s.h.Kubectl("delete", "--wait", "--timeout=90s", "namespace", Namespace)
}

// Use uses every service, and fails the test with the name of the first that
// does not serve.
func (s *Shop) Use() {
	s.t.Helper()
	addr := s.h.Exec("skiff", "kubectl", "get", "nodes", "-o", `jsonpath={.items[0].status.addresses[?(@.type=="InternalIP")].address}`).Stdout
	for _, service := range []struct {
		name  string
		works func() error
	}{
		{"the volume claim is bound", s.prints("Bound", "get", "pvc", "till", "-o", "jsonpath={.status.phase}")},
		{"the till writes to its volume", s.prints("ok", "exec", "deploy/till", "--", "sh", "-c", "echo ok >/data/x && cat /data/x")},
		{"the load balancer has the node's address", s.prints(addr, "get", "service", "front", "-o", "jsonpath={.status.loadBalancer.ingress[*].ip}")},
		{"the load balancer answers", s.answers("http://"+addr+":8088/", "")},
		{"the Ingress answers on port 80", s.answers("http://"+addr+"/", "shop.test")},
		{"the HTTPRoute answers", s.answers("http://"+addr+":8000/", "route.test")},
		{"the chart is installed", s.prints("soup", "get", "configmap", "menu", "-o", "jsonpath={.data.today}")},
		{"the policy lets the till's neighbour in", s.prints("till", "exec", "deploy/friend", "--", "/tool", "get", "http://till/")},
		{"the policy keeps others out", s.refused},
		{"kubectl top node", s.prints("%", "top", "node", "--no-headers")},
		{"kubectl top pod", s.prints("till", "top", "pod", "--no-headers")},
		{"the autoscaler sees a load", s.prints("True", "get", "hpa", "front", "-o", `jsonpath={.status.conditions[?(@.type=="ScalingActive")].status}`)},
	} {
		hosts.Eventually(s.t, patience, service.name, service.works)
	}
}

// prints checks that kubectl in the shop's namespace prints what is wanted.
func (s *Shop) prints(want string, args ...string) func() error {
	return func() error {
		r := s.h.Exec(append([]string{"skiff", "kubectl", "-n", Namespace}, args...)...)
		if r.Code != 0 {
			return fmt.Errorf("kubectl %s: %s", strings.Join(args, " "), r)
		}
		if want == "" || !strings.Contains(r.Stdout, want) {
			return fmt.Errorf("kubectl %s prints %q, want %q in it", strings.Join(args, " "), r.Stdout, want)
		}
		return nil
	}
}

// refused checks that a stranger gets no answer from the till.
func (s *Shop) refused() error {
	r := s.h.Exec("skiff", "kubectl", "-n", Namespace, "exec", "deploy/front", "--", "timeout", "2", "/tool", "get", "http://till/")
	if r.Code == 0 {
		return fmt.Errorf("a stranger got an answer from the till: %s", r.Stdout)
	}
	return nil
}

// answers checks that a URL of the node answers 200 to the name host, asked
// from the node itself.
func (s *Shop) answers(url, host string) func() error {
	return func() error {
		status, body, err := s.get(url, host)
		if err != nil {
			return err
		}
		if status != 200 {
			return fmt.Errorf("GET %s for host %q: %d %s", url, host, status, body)
		}
		return nil
	}
}

// menu is a chart with one ConfigMap.
func menu() (string, error) {
	files := []struct{ name, content string }{
		{"menu/Chart.yaml", "apiVersion: v2\nname: menu\nversion: 1.0.0\n"},
		{"menu/values.yaml", "today: nothing\n"},
		{"menu/templates/menu.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: menu}\ndata: {today: {{ .Values.today | quote }}}\n"},
	}
	var archive bytes.Buffer
	z := gzip.NewWriter(&archive)
	w := tar.NewWriter(z)
	for _, f := range files {
		if err := w.WriteHeader(&tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.content))}); err != nil {
			return "", err
		}
		if _, err := w.Write([]byte(f.content)); err != nil {
			return "", err
		}
	}
	if err := w.Close(); err != nil {
		return "", err
	}
	if err := z.Close(); err != nil {
		return "", err
	}
	return archive.String(), nil
}
