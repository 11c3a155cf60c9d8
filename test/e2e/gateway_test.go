package e2e

import (
	"fmt"
	"strings"
	"testing"

	"skiff/test/hosts"
)

// bazaar is a web server and a gRPC server behind one Gateway, and the web
// server once more behind another that wants the same port.
const bazaar = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: web, image: IMAGE, imagePullPolicy: Never, command: [/tool, serve], readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}}]
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
      containers: [{name: rpc, image: IMAGE, imagePullPolicy: Never, command: [/tool, grpc], readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: rpc}
spec: {selector: {app: rpc}, ports: [{port: 50051, targetPort: 8080}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: front}
spec:
  gatewayClassName: skiff
  listeners:
  - {name: http, port: 80, protocol: HTTP}
  - {name: https, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: shop-tls}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web}
spec:
  parentRefs: [{name: front}]
  hostnames: [shop.test]
  rules:
  - matches: [{path: {value: /old}}]
    filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}, statusCode: 301}}]
  - backendRefs: [{name: web, port: 80}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: rpc}
spec:
  parentRefs: [{name: front, sectionName: https}]
  hostnames: [rpc.test]
  rules: [{backendRefs: [{name: rpc, port: 50051}]}]
`

const back = `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: back}
spec: {gatewayClassName: skiff, listeners: [{name: http, port: 80, protocol: HTTP}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: back}
spec: {parentRefs: [{name: back}], rules: [{backendRefs: [{name: web, port: 80}]}]}
`

// TestGateway serves a site by the Gateway API as a person would, breaks it, and
// takes it down again.
func TestGateway(t *testing.T) {
	t.Parallel()
	h := newHost(t, hosts.Named("gatehouse"))
	h.StartServer()
	h.WaitReady()
	s := newSpace(t, h, "bazaar")
	m := &visitor{s, h.Addr()}
	s.Kubectl("wait", "--for=condition=Accepted", "--timeout=30s", "gatewayclass/skiff")
	s.definitions("1.0")
	if _, err := m.get("http", "shop.test", "/"); err == nil {
		t.Error("port 80 answers before there is a Gateway")
	}

	s.apply(bazaar)
	s.ready("app=web", 1)
	s.ready("app=rpc", 1)
	s.is("gateway/front", "{.status.addresses[*].value}", h.Addr())
	m.answers("http", "shop.test", "/menu", `"path":"/menu"`, `"X-Forwarded-For":["`+h.Network().Gateway()+`"]`)
	if got, err := m.get("http", "shop.test", "/old/menu"); err != nil || got.status != 301 || got.header.Get("Location") != "http://shop.test/new/menu" {
		t.Errorf("redirect: %+v, %v", got, err)
	}
	s.is("gateway/front", `{.status.listeners[?(@.name=="https")].conditions[?(@.type=="ResolvedRefs")].reason}`, "InvalidCertificateRef")
	m.setCertificate("first")
	s.eventually("the certificate of the Secret", func() error { return is(m.certificate("shop.test"), "first") })
	s.is("gateway/front", `{.status.listeners[*].attachedRoutes}`, "1 2")
	m.rpc("rpc.test")

	// While there is a Gateway its objects are validated.
	s.definitions("2.0")
	bad := `{"spec":{"rules":[{"filters":[{"type":"URLRewrite"}]}]}}`
	if r := s.Exec("skiff", "kubectl", "-n", s.ns, "patch", "httproute", "web", "--type=merge", "-p", bad); r.Code == 0 || !strings.Contains(r.Stderr, "urlRewrite must be specified") {
		t.Errorf("a filter without its settings: exit code %d, %s", r.Code, r.Stderr)
	}

	// A Gateway that cannot be told from the first one is served elsewhere.
	s.apply(back)
	address := ""
	s.eventually("the second Gateway to have an address", func() error {
		if address = s.kubectl("get", "gateway", "back", "-o", "jsonpath={.status.addresses[0].value}"); address == "" || address == h.Addr() {
			return fmt.Errorf("its address is %q", address)
		}
		code, body, err := hosts.Get(s, "http://"+address+"/")
		if err != nil || code != 200 {
			return fmt.Errorf("%d %s, %w", code, body, err)
		}
		return nil
	})

	// References that lead nowhere are said so and answered with 500.
	s.kubectl("patch", "httproute", "web", "--type=json", "-p", `[{"op":"replace","path":"/spec/rules/1/backendRefs/0/name","value":"nothing"}]`)
	s.is("httproute/web", `{.status.parents[0].conditions[?(@.type=="ResolvedRefs")].reason}`, "BackendNotFound")
	s.eventually("500 of a Service that does not exist", func() error {
		got, err := m.get("http", "shop.test", "/")
		if err != nil {
			return err
		}
		return is(fmt.Sprint(got.status), "500")
	})
	s.kubectl("patch", "httproute", "web", "--type=json", "-p", `[{"op":"replace","path":"/spec/rules/1/backendRefs/0/name","value":"web"}]`)

	h.Restart()
	m.answers("http", "shop.test", "/menu", `"path":"/menu"`)
	s.definitions("2.0")

	// The second one is served by the node once the first is gone, and keeps its
	// address.
	s.kubectl("delete", "gateway", "front")
	s.is("gateway/back", "{.status.addresses[*].value}", h.Addr()+" "+address)
	m.answers("http", "any.test", "/", `"path":"/"`)
	if code, body, err := hosts.Get(s, "http://"+address+"/"); err != nil || code != 200 {
		t.Errorf("the address it has had: %d %s, %v", code, body, err)
	}
	s.kubectl("delete", "gateway", "back")
	s.eventually("port 80 to be free", func() error {
		if got, err := m.get("http", "shop.test", "/"); err == nil {
			return fmt.Errorf("it answers %d", got.status)
		}
		return nil
	})
	s.is("httproute/web", "{.status.parents}", "[]")
	h.Restart()
	s.definitions("1.0")
}

// definitions waits until all the Gateway API's definitions have a form.
func (s *space) definitions(form string) {
	s.t.Helper()
	s.eventually("the definitions to be of form "+form, func() error {
		out := s.Kubectl("get", "crd", "-o", `jsonpath={range .items[?(@.spec.group=="gateway.networking.k8s.io")]}{.metadata.annotations.gateway\.skiff\.dev/form}{" "}{end}`)
		return is(strings.TrimSpace(out), strings.TrimSpace(strings.Repeat(form+" ", 9)))
	})
}

// is waits until a field of an object has a value.
func (s *space) is(object, path, want string) {
	s.t.Helper()
	s.eventually(object+" "+path+" to be "+want, func() error {
		return is(s.kubectl("get", object, "-o", "jsonpath="+path), want)
	})
}
