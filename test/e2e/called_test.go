package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"
)

// called makes the API server call a pod of the agent: as a webhook, as an
// aggregated API, and through the proxies of the API; with the mode cluster also
// one in the host's network.
func called(t *testing.T, s *space, mode string) {
	cert, key := selfSigned(t, "callee."+s.ns+".svc")
	b64 := func(b []byte) string { return base64.StdEncoding.EncodeToString(b) }
	s.apply(strings.NewReplacer("NS", s.ns, "CERT", b64(cert), "KEY", b64(key)).Replace(calleeApp))
	s.ready("app=callee", 1)
	s.eventually("the aggregated API", func() error {
		r := s.Exec("skiff", "kubectl", "get", "--raw", "/apis/tool.skiff.test/v1/things")
		if !strings.Contains(r.Stdout, "ThingList") {
			return fmt.Errorf("%s", r)
		}
		return nil
	})
	s.eventually("the webhook's label", func() error {
		r := s.Exec("skiff", "kubectl", "-n", s.ns, "create", "configmap", fmt.Sprintf("c%d", time.Now().UnixNano()), "-o", "jsonpath={.metadata.labels.tool}")
		if r.Stdout != "was-here" {
			return fmt.Errorf("%s", r)
		}
		return nil
	})
	contains(t, "the pod through the proxy of the API", s.Kubectl("get", "--raw", "/api/v1/namespaces/"+s.ns+"/pods/far:8080/proxy/proxied"), "/proxied")
	contains(t, "the Service through the proxy of the API",
		s.Kubectl("get", "--raw", "/api/v1/namespaces/"+s.ns+"/services/https:callee:443/proxy/apis/tool.skiff.test/v1"), "APIResourceList")
	if mode == "cluster" {
		calledOnHost(t, s)
	}
	s.Kubectl("delete", "apiservice", "v1.tool.skiff.test")
	s.Kubectl("delete", "mutatingwebhookconfiguration", "callee")
	s.kubectl("delete", "pod", "callee", "host", "--now") // The next one has another certificate.
}

func calledOnHost(t *testing.T, s *space) {
	// A pod in the host's network is reached at the ports it declares.
	r := s.Exec("skiff", "kubectl", "get", "--raw", "/api/v1/namespaces/"+s.ns+"/pods/host:8081/proxy/hosted")
	contains(t, "a pod in the host's network", r.Stdout, "/hosted")
	r = s.Exec("skiff", "kubectl", "get", "--raw", "/api/v1/namespaces/"+s.ns+"/pods/host:8082/proxy/")
	contains(t, "a port that the pod does not declare", r.Stderr, "is not the address of a pod")
}

// selfSigned returns a certificate for a name, and its key, in PEM.
func selfSigned(t *testing.T, name string) (cert, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
}

const calleeApp = `
apiVersion: v1
kind: Secret
metadata: {name: callee}
type: kubernetes.io/tls
data: {tls.crt: CERT, tls.key: KEY}
---
apiVersion: v1
kind: Pod
metadata: {name: callee, labels: {app: callee}}
spec:
  nodeName: agent
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: IMAGE
    imagePullPolicy: Never
    command: [/tool, api]
    readinessProbe: {tcpSocket: {port: 8443}, periodSeconds: 1}
    volumeMounts: [{name: cert, mountPath: /cert}]
  volumes: [{name: cert, secret: {secretName: callee}}]
---
apiVersion: v1
kind: Pod
metadata: {name: host, labels: {app: callee-host}}
spec:
  nodeName: agent
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  containers:
  - {name: c, image: IMAGE, imagePullPolicy: Never, command: [/tool, serve, ":8081"], ports: [{containerPort: 8081}]}
---
apiVersion: v1
kind: Service
metadata: {name: callee}
spec: {selector: {app: callee}, ports: [{port: 443, targetPort: 8443}]}
---
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1.tool.skiff.test}
spec:
  group: tool.skiff.test
  version: v1
  groupPriorityMinimum: 1000
  versionPriority: 10
  service: {namespace: NS, name: callee}
  caBundle: CERT
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: {name: callee}
webhooks:
- name: callee.skiff.test
  admissionReviewVersions: [v1]
  sideEffects: None
  failurePolicy: Fail
  timeoutSeconds: 5
  namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: NS}}
  rules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}]
  clientConfig:
    caBundle: CERT
    service: {namespace: NS, name: callee, path: /mutate}
`
