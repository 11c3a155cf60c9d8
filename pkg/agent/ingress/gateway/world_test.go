package gateway

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	v1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"

	"skiff/pkg/agent/ingress/catalog"
)

// stage is a cluster as a test describes it: YAML documents, each younger than
// the one before.
type stage struct {
	objects
	services   map[types.NamespacedName]*corev1.Service
	secrets    map[types.NamespacedName]*corev1.Secret
	configMaps map[types.NamespacedName]*corev1.ConfigMap
	namespaces map[string]*corev1.Namespace
	apart      func(types.NamespacedName) []string
}

// common is what most stages have: a class, namespaces a and b, a Service in
// each.
const common = `
kind: GatewayClass
metadata: {name: skiff}
spec: {controllerName: skiff.dev/gateway}
---
kind: GatewayClass
metadata: {name: other}
spec: {controllerName: example.com/other}
---
kind: Namespace
metadata: {name: a, labels: {team: red}}
---
kind: Namespace
metadata: {name: b, labels: {team: blue}}
---
kind: Service
metadata: {namespace: a, name: web}
spec: {ports: [{name: http, port: 80}, {name: h2c, port: 81, appProtocol: kubernetes.io/h2c}, {name: wss, port: 82, appProtocol: kubernetes.io/wss}, {name: dns, port: 53, protocol: UDP}]}
---
kind: Service
metadata: {namespace: b, name: api}
spec: {ports: [{name: http, port: 8080}]}
---
`

func newStage(t *testing.T, documents string) *stage {
	t.Helper()
	s := &stage{
		services: make(map[types.NamespacedName]*corev1.Service), secrets: make(map[types.NamespacedName]*corev1.Secret),
		configMaps: make(map[types.NamespacedName]*corev1.ConfigMap), namespaces: make(map[string]*corev1.Namespace),
	}
	start := time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC)
	for i, doc := range strings.Split(common+documents, "\n---\n") {
		if strings.TrimSpace(doc) == "" {
			continue
		}
		var kind metav1.TypeMeta
		if err := yaml.Unmarshal([]byte(doc), &kind); err != nil {
			t.Fatalf("document %d: %v", i, err)
		}
		add, known := s.adders()[kind.Kind]
		if !known {
			t.Fatalf("document %d: no kind %q", i, kind.Kind)
		}
		if err := add([]byte(doc), metav1.NewTime(start.Add(time.Duration(i)*time.Second))); err != nil {
			t.Fatalf("document %d: %v", i, err)
		}
	}
	return s
}

type resource[T any] interface {
	*T
	metav1.Object
}

// adder parses a document and gives it to keep.
func adder[T any, P resource[T]](keep func(P)) func([]byte, metav1.Time) error {
	return func(doc []byte, created metav1.Time) error {
		o := P(new(T))
		if err := yaml.UnmarshalStrict(doc, o); err != nil {
			return err
		}
		o.SetCreationTimestamp(created)
		o.SetUID(types.UID(o.GetNamespace() + "/" + o.GetName()))
		o.SetGeneration(1)
		keep(o)
		return nil
	}
}

func (s *stage) adders() map[string]func([]byte, metav1.Time) error {
	return map[string]func([]byte, metav1.Time) error{
		"GatewayClass":     adder(func(o *v1.GatewayClass) { s.classes = append(s.classes, o) }),
		"Gateway":          adder(func(o *v1.Gateway) { s.gateways = append(s.gateways, o) }),
		"ListenerSet":      adder(func(o *v1.ListenerSet) { s.sets = append(s.sets, o) }),
		"HTTPRoute":        adder(func(o *v1.HTTPRoute) { s.http = append(s.http, o) }),
		"GRPCRoute":        adder(func(o *v1.GRPCRoute) { s.grpc = append(s.grpc, o) }),
		"TLSRoute":         adder(func(o *v1.TLSRoute) { s.tls = append(s.tls, o) }),
		"TCPRoute":         adder(func(o *v1.TCPRoute) { s.tcp = append(s.tcp, o) }),
		"ReferenceGrant":   adder(func(o *v1.ReferenceGrant) { s.grants = append(s.grants, o) }),
		"BackendTLSPolicy": adder(func(o *v1.BackendTLSPolicy) { s.policies = append(s.policies, o) }),
		"Service":          adder(func(o *corev1.Service) { s.services[key(o)] = o }),
		"Secret":           adder(func(o *corev1.Secret) { s.secrets[key(o)] = o }),
		"ConfigMap":        adder(func(o *corev1.ConfigMap) { s.configMaps[key(o)] = o }),
		"Namespace":        adder(func(o *corev1.Namespace) { s.namespaces[o.Name] = o }),
	}
}

func (s *stage) translate() Result {
	at := func(namespace, name string) types.NamespacedName {
		return types.NamespacedName{Namespace: namespace, Name: name}
	}
	return translate(s.objects, Inputs{
		Addresses: []string{"192.0.2.1"}, Certificates: new(catalog.Certificates), Apart: s.apart,
		Lookup: catalog.Lookup{
			Namespace: func(name string) *corev1.Namespace { return s.namespaces[name] },
			Service:   func(namespace, name string) *corev1.Service { return s.services[at(namespace, name)] },
			Secret:    func(namespace, name string) *corev1.Secret { return s.secrets[at(namespace, name)] },
			ConfigMap: func(namespace, name string) *corev1.ConfigMap { return s.configMaps[at(namespace, name)] },
		},
	})
}

// certify puts a new certificate into the Secret and the ConfigMap "cert".
func (s *stage) certify(t *testing.T, namespace string) {
	t.Helper()
	const name = "cert"
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour), DNSNames: []string{name}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	chain := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	meta := metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(namespace + "/" + name)}
	s.secrets[key(&meta)] = &corev1.Secret{ObjectMeta: meta, Data: map[string][]byte{
		corev1.TLSCertKey: chain, corev1.TLSPrivateKeyKey: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded}),
	}}
	s.configMaps[key(&meta)] = &corev1.ConfigMap{ObjectMeta: meta, Data: map[string]string{authorityKey: string(chain)}}
}
