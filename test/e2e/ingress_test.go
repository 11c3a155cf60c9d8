package e2e

import (
	"fmt"
	"net/http"
	"testing"

	"skiff/test/hosts"
)

// market is a web server and a gRPC server behind one Ingress each.
const market = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 3
      containers:
      - name: web
        image: IMAGE
        imagePullPolicy: Never
        command: [/tool, serve]
        lifecycle: {preStop: {sleep: {seconds: 2}}}
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: rpc}
spec:
  selector: {matchLabels: {app: rpc}}
  template:
    metadata: {labels: {app: rpc}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: rpc
        image: IMAGE
        imagePullPolicy: Never
        command: [/tool, grpc]
        readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: rpc}
spec: {selector: {app: rpc}, ports: [{port: 50051, targetPort: 8080, appProtocol: kubernetes.io/h2c}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web}
spec:
  tls: [{hosts: [shop.test], secretName: shop-tls}]
  rules:
  - host: shop.test
    http:
      paths:
      - {path: /, pathType: Prefix, backend: {service: {name: web, port: {name: http}}}}
  - host: rpc.test
    http:
      paths:
      - {path: /, pathType: Prefix, backend: {service: {name: rpc, port: {number: 50051}}}}
`

// TestIngress serves a site as a person would put it on the net, changes it
// under load, breaks it, and takes it down again.
func TestIngress(t *testing.T) {
	t.Parallel()
	h := newHost(t, hosts.Named("harbour"))
	h.StartServer()
	h.WaitReady()
	s := newSpace(t, h, "market")
	m := &visitor{s, h.Addr()}
	if _, err := m.get("http", "shop.test", "/"); err == nil {
		t.Error("port 80 answers before there is an Ingress")
	}
	s.apply(market)
	s.ready("app=web", 2)
	s.ready("app=rpc", 1)

	s.eventually("the Ingress to have the node's address", func() error {
		if out := s.kubectl("get", "ingress", "web", "-o", "jsonpath={.spec.ingressClassName} {.status.loadBalancer.ingress[*].ip}"); out != "skiff "+h.Addr() {
			return fmt.Errorf("class and address are %q", out)
		}
		return nil
	})
	m.answers("http", "shop.test", "/menu", `"path":"/menu"`, `"X-Forwarded-For":["`+h.Network().Gateway()+`"]`, `"X-Forwarded-Proto":["http"]`)
	if got, err := m.get("http", "other.test", "/"); err != nil || got.status != http.StatusNotFound {
		t.Errorf("a host that nobody serves: %+v, %v", got, err)
	}
	s.said("web", "SecretNotFound", "shop-tls", "default certificate")
	if name := m.certificate("shop.test"); name != "skiff default certificate" {
		t.Errorf("without a Secret the certificate is of %q", name)
	}

	// The certificate comes, and is changed, without a connection lost.
	load := m.load()
	m.setCertificate("first")
	s.eventually("the certificate of the Secret", func() error { return is(m.certificate("shop.test"), "first") })
	m.setCertificate("second")
	s.eventually("the new certificate", func() error { return is(m.certificate("shop.test"), "second") })
	if name := m.certificate("else.test"); name != "skiff default certificate" {
		t.Errorf("the certificate of another host is of %q", name)
	}
	m.answers("https", "shop.test", "/", `"X-Forwarded-Proto":["https"]`)
	for i := range 5 {
		s.kubectl("annotate", "ingress", "web", fmt.Sprintf("ingress.skiff.dev/response-headers=X-Round: %d", i), "--overwrite")
		s.eventually("the change to arrive", func() error {
			got, err := m.get("http", "shop.test", "/")
			if err != nil {
				return err
			}
			return is(got.header.Get("X-Round"), fmt.Sprint(i))
		})
	}
	s.kubectl("rollout", "restart", "deployment/web")
	s.kubectl("rollout", "status", "deployment/web", "--timeout=90s")
	if failed := load(); len(failed) > 0 {
		t.Errorf("%d requests failed while the configuration and the pods were changed, first: %v", len(failed), failed[0])
	}

	m.chat("ws://shop.test/chat")
	m.chat("wss://shop.test/chat")
	m.rpc("rpc.test")

	// What people set most.
	s.kubectl("annotate", "ingress", "web", "ingress.skiff.dev/ssl-redirect=true", "nginx.ingress.kubernetes.io/server-snippet=deny all;")
	s.eventually("http to lead to https", func() error {
		got, err := m.get("http", "shop.test", "/a?b=c")
		if err != nil {
			return err
		}
		return is(fmt.Sprint(got.status, got.header.Get("Location")), "308https://shop.test/a?b=c")
	})
	s.said("web", "InvalidAnnotation", "server-snippet", "no nginx")

	// skiff goes and comes back; pods that have gone are said so.
	h.Restart()
	m.answers("https", "shop.test", "/", `"host":"web-`)
	s.kubectl("scale", "deployment/web", "--replicas=0")
	s.eventually("503 without pods", func() error {
		got, err := m.get("https", "shop.test", "/")
		if err != nil {
			return err
		}
		return is(fmt.Sprint(got.status), "503")
	})
	s.kubectl("scale", "deployment/web", "--replicas=1")
	m.answers("https", "shop.test", "/", `"host":"web-`)

	m.disabled()
}

// disabled checks that nothing is left without the part, and that all is back
// with it.
func (m *visitor) disabled() {
	m.t.Helper()
	m.Stop()
	m.StartServer("--disable", "ingress")
	m.WaitReady()
	m.eventually("nothing to be left of the ingress", func() error {
		out := m.Kubectl("get", "ingressclass,service,endpointslice", "-A", "-l", "app.kubernetes.io/managed-by=skiff-ingress", "-o", "name") +
			m.Kubectl("get", "ingressclass", "-o", "name")
		return is(out, "")
	})
	m.eventually("port 80 to be free", func() error {
		if got, err := m.get("http", "shop.test", "/"); err == nil {
			return fmt.Errorf("it answers %+v", got)
		}
		return nil
	})
	m.Stop()
	m.StartServer()
	m.WaitReady()
	m.answers("https", "shop.test", "/", `"host":"web-`)
	m.kubectl("delete", "ingress", "web")
	m.eventually("port 80 to be free when the last Ingress has gone", func() error {
		if got, err := m.get("http", "shop.test", "/"); err == nil {
			return fmt.Errorf("it answers %+v", got)
		}
		return is(m.Kubectl("get", "service", "-n", "kube-system", "-l", "app.kubernetes.io/managed-by=skiff-ingress", "-o", "name"), "")
	})
}
