package e2e

import (
	"fmt"
	"io"
	"strings"
	"syscall"
	"testing"

	"skiff/test/hosts"
)

// web deploys an application and uses it in every way a person would.
func web(t *testing.T, h *hosts.Host) {
	s := newSpace(t, h, "web")
	s.apply(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: IMAGE
        imagePullPolicy: Never
        command: [/tool, serve]
        ports: [{containerPort: 8080}]
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080, nodePort: 30080}]
`)
	s.client("client")
	pods := s.ready("app=web", 2)

	// By name from a pod, short and long; the Service reaches both pods.
	for _, name := range []string{"web", "web.web", "web.web.svc.cluster.local"} {
		s.eventually("an answer from "+name, func() error {
			_, err := s.tryIn("client", "/tool", "get", "http://"+name+"/")
			return err
		})
	}
	answers := s.in("client", "sh", "-c", "for i in $(seq 30); do /tool get http://web/hello; done")
	for _, p := range pods {
		contains(t, "answers of the Service", answers, `"host":"`+p.Name+`"`)
	}

	// By NodePort, from outside and on the host itself. (kube-proxy's nftables mode
	// does not serve node ports on 127.0.0.1.)
	for url, from := range map[string]hosts.Dialer{
		"http://" + h.Addr() + ":30080/outside": h.Network(),
		"http://" + h.Addr() + ":30080/self":    h,
	} {
		s.eventually("the NodePort at "+url, func() error { return answersOK(from, url) })
	}

	// A person looks inside.
	one := pods[0].Name
	contains(t, "exec", s.in(one, "hostname"), one)
	contains(t, "logs", s.kubectl("logs", "-l", "app=web", "--tail=-1"), "GET /hello from", "GET /outside from")
	stdin := hosts.Command{Args: []string{"skiff", "kubectl", "-n", s.ns, "exec", "-i", one, "--", "cat"}, Stdin: strings.NewReader("from outside")}
	if r := s.ExecWith(stdin); r.Stdout != "from outside" {
		t.Errorf("exec -i: %s", r)
	}
	if r := s.Exec("skiff", "kubectl", "-n", s.ns, "exec", one, "--", "sh", "-c", "exit 42"); r.Code != 42 {
		t.Errorf("exec of a failing command: %s", r)
	}
	portForward(s)
	copyFiles(s, one)

	// What dies comes back, and an update rolls.
	s.kubectl("delete", "pod", one, "--wait=false")
	s.eventually("a replacement of "+one, func() error {
		for _, p := range s.pods("app=web") {
			if p.Name == one || !isReady(&p) {
				return fmt.Errorf("%s", describe(&p))
			}
		}
		return nil
	})
	s.kubectl("set", "env", "deployment/web", "COLOUR=blue")
	s.kubectl("rollout", "status", "deployment/web", "--timeout=90s")
	s.eventually("an answer of the updated application", func() error {
		out, err := s.tryIn("client", "/tool", "get", "http://web/")
		if err == nil && !strings.Contains(out, "COLOUR=blue") {
			err = fmt.Errorf("got %s", out)
		}
		return err
	})
}

// answersOK is nil when a GET returns 200.
func answersOK(from hosts.Dialer, url string) error {
	code, body, err := hosts.Get(from, url)
	if err == nil && code != 200 {
		err = fmt.Errorf("%d %s", code, body)
	}
	return err
}

// portForward reaches the Service through kubectl port-forward.
func portForward(s *space) {
	s.t.Helper()
	p := s.Spawn(hosts.Command{Args: []string{"skiff", "kubectl", "-n", s.ns, "port-forward", "svc/web", "18080:80"}, Stdout: io.Discard})
	s.eventually("the forwarded port", func() error { return answersOK(s, "http://127.0.0.1:18080/forwarded") })
	p.Signal(syscall.SIGTERM)
	p.Wait()
}

// copyFiles copies a file into a pod and back.
func copyFiles(s *space, pod string) {
	s.t.Helper()
	content := strings.Repeat("skiff ", 50_000)
	s.WriteFile("/tmp/out", content)
	s.kubectl("cp", "/tmp/out", pod+":/tmp/copied")
	s.kubectl("cp", pod+":/tmp/copied", "/tmp/back")
	if got := s.ReadFile("/tmp/back"); got != content {
		s.t.Errorf("kubectl cp there and back: %d bytes, want %d", len(got), len(content))
	}
}

// dns checks what cluster DNS answers in a pod.
func dns(t *testing.T, h *hosts.Host) {
	s := newSpace(t, h, "dns")
	s.client("client")
	apiReachable(s, "client")
	s.apply(`
apiVersion: v1
kind: Service
metadata: {name: outside}
spec: {type: ExternalName, externalName: kubernetes.default.svc.cluster.local}
---
apiVersion: v1
kind: Service
metadata: {name: headless}
spec:
  clusterIP: None
  selector: {app: client}
  ports: [{name: http, port: 80}]
`)
	podIP := s.pod("client").Status.PodIP
	s.eventually("the headless Service's address", func() error {
		out, err := s.tryIn("client", "/tool", "lookup", "headless")
		if err == nil && strings.TrimSpace(out) != podIP {
			err = fmt.Errorf("got %q, want %s", out, podIP)
		}
		return err
	})
	contains(t, "external name", s.in("client", "/tool", "lookup", "outside"), "10.43.0.1")
	dashed := strings.ReplaceAll(podIP, ".", "-") + ".dns.pod.cluster.local"
	contains(t, "pod name", s.in("client", "/tool", "lookup", dashed), podIP)
	contains(t, "SRV", s.in("client", "nslookup", "-type=srv", "_http._tcp.headless.dns.svc.cluster.local"), "80 ")
	contains(t, "PTR", s.in("client", "nslookup", "10.43.0.1"), "kubernetes.default.svc.cluster.local")
	if _, err := s.tryIn("client", "/tool", "lookup", "nothing.dns.svc.cluster.local"); err == nil {
		t.Error("a Service that does not exist resolves")
	}
}

// apiReachable is the line of every start: a pod finds and reaches the API.
func apiReachable(s *space, pod string) {
	s.t.Helper()
	const name = "kubernetes.default.svc.cluster.local"
	s.eventually("the API by name from a pod", func() error {
		out, err := s.tryIn(pod, "/tool", "get", "https://"+name+":443/version")
		if err == nil && !strings.Contains(out, "v1.36.3") {
			err = fmt.Errorf("got %s", out)
		}
		return err
	})
	contains(s.t, "lookup of "+name, s.in(pod, "/tool", "lookup", name), "10.43.0.1")
}
