package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"skiff/test/hosts"
	"skiff/test/images"
)

// everyPart is what --disable can leave out.
const everyPart = "coredns,servicelb,ingress,local-storage,metrics-server,network-policy,helm-controller"

// replacements are a user's own name server and his own ingress.
const replacements = `
apiVersion: v1
kind: Pod
metadata: {name: names, namespace: kube-system, labels: {app: names}}
spec:
  terminationGracePeriodSeconds: 0
  dnsPolicy: Default
  containers: [{name: names, image: IMAGE, imagePullPolicy: Never, command: [/tool, dns, 192.0.2.53]}]
---
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec:
  clusterIP: 10.43.0.10
  selector: {app: names}
  ports: [{name: dns, port: 53, protocol: UDP}]
---
apiVersion: v1
kind: Pod
metadata: {name: proxy, namespace: kube-system}
spec:
  terminationGracePeriodSeconds: 0
  hostNetwork: true
  containers: [{name: proxy, image: IMAGE, imagePullPolicy: Never, command: [/tool, serve, ":80"]}]
---
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata:
  name: mine
  annotations: {ingressclass.kubernetes.io/is-default-class: "true"}
spec: {controller: example.com/mine}
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: local-path}
provisioner: example.com/mine
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: kube-system}
spec: {podSelector: {}}
`

// TestDisable leaves out every part of a node that had them all, lets a user's
// own take their place, and brings ours back.
func TestDisable(t *testing.T) {
	t.Parallel()
	h := newHost(t, hosts.Named("bare"))
	h.StartServer()
	h.WaitReady()
	s := newSpace(t, h, "mine")
	bundled := []string{
		"service/kube-dns -n kube-system", "ingressclass/skiff", "gatewayclass/skiff", "storageclass/local-path",
		"apiservice/v1beta1.metrics.k8s.io", "crd/helmcharts.helm.cattle.io",
	}
	for _, object := range bundled {
		s.eventually(object+" to be there", func() error { return s.exists(object) })
	}
	h.Stop()
	h.StartServer("--disable", everyPart)
	h.WaitReady()
	for _, object := range bundled {
		s.eventually(object+" to have gone", func() error {
			if s.exists(object) == nil {
				return errors.New("it is there")
			}
			return nil
		})
	}
	if r := h.Exec("skiff", "status"); r.Code != 0 {
		t.Errorf("skiff status without the parts: %s", r)
	}

	h.Apply(strings.ReplaceAll(replacements, "IMAGE", images.Tool))
	s.client("client")
	s.eventually("the user's name server to be asked", func() error {
		out, err := s.tryIn("client", "/tool", "lookup", "anything.example.com")
		if err != nil {
			return err
		}
		return is(strings.TrimSpace(out), "192.0.2.53")
	})
	s.eventually("the user's proxy on port 80", func() error { return answersOK(h.Network(), "http://"+h.Addr()+"/") })
	s.apply("apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: site}\nspec: {defaultBackend: {service: {name: x, port: {number: 80}}}}\n")
	if class := s.kubectl("get", "ingress", "site", "-o", "jsonpath={.spec.ingressClassName}"); class != "mine" {
		t.Errorf("the default class is %q, want the user's", class)
	}
	if rules := h.Run("/var/lib/skiff/bin/nft", "list", "tables"); strings.Contains(rules, "netpol") {
		t.Errorf("there is a table of network policies:\n%s", rules)
	}

	// Ours come back where the user's are gone.
	h.Kubectl("-n", "kube-system", "delete", "pod/proxy", "pod/names", "service/kube-dns", "networkpolicy/closed", "--wait")
	h.Kubectl("delete", "storageclass/local-path", "ingressclass/mine")
	h.Stop()
	h.StartServer()
	h.WaitReady()
	for _, object := range bundled {
		s.eventually(object+" to be back", func() error { return s.exists(object) })
	}
	s.eventually("our name server to be asked", func() error {
		_, err := s.tryIn("client", "/tool", "lookup", "kubernetes.default.svc.cluster.local")
		return err
	})
}

// exists looks for an object, "kind/name" with flags of kubectl.
func (s *space) exists(object string) error {
	r := s.Exec(append([]string{"skiff", "kubectl", "get"}, strings.Fields(object)...)...)
	if r.Code != 0 {
		return fmt.Errorf("get %s: %s", object, r)
	}
	return nil
}
