package server

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"skiff/pkg/status"
)

func TestServer(t *testing.T) {
	r := startServer(t)
	t.Run("every health check passes", r.testReadyz)
	t.Run("kubernetes service points at the front", r.testKubernetesService)
	t.Run("a deployment becomes pods", r.testDeployment)
	t.Run("a node is initialised", r.testNode)
	t.Run("nobody gets in without credentials", r.testAnonymous)
	t.Run("tokens are issued for the cluster's name", r.testIssuer)
	t.Run("a module can do what it may", r.testModule)
	t.Run("the API describes itself in OpenAPI version 2", r.testOpenAPI)
	t.Run("admission policies are type-checked", r.testPolicyStatus)
	t.Run("a second server is refused", r.testSecond)
}

func (r *running) testReadyz(t *testing.T) {
	body, err := r.client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(t.Context())
	if err != nil || string(body) != "ok" {
		t.Errorf("/readyz = %q, %v", body, err)
	}
}

func (r *running) testKubernetesService(t *testing.T) {
	eventually(t, "EndpointSlice default/kubernetes", func(ctx context.Context) (bool, error) {
		s, err := r.client.DiscoveryV1().EndpointSlices("default").Get(ctx, "kubernetes", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if diff := cmp.Diff([]string{"192.0.2.1"}, s.Endpoints[0].Addresses); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff(int32(r.cfg.Server.Port), *s.Ports[0].Port); diff != "" {
			t.Error(diff)
		}
		return true, nil
	})
}

func (r *running) testDeployment(t *testing.T) {
	labels, replicas := map[string]string{"app": "web"}, int32(3)
	d := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "web"}}},
			},
		},
	}
	if _, err := r.client.AppsV1().Deployments("default").Create(t.Context(), d, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "three pods that the scheduler has looked at", func(ctx context.Context) (bool, error) {
		pods, err := r.client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{LabelSelector: "app=web"})
		if err != nil {
			return false, err
		}
		seen := 0
		for _, p := range pods.Items {
			for _, c := range p.Status.Conditions {
				if c.Type == corev1.PodScheduled {
					seen++
				}
			}
		}
		return seen == 3, nil
	})
}

func (r *running) testNode(t *testing.T) {
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n1", Annotations: map[string]string{"alpha.kubernetes.io/provided-node-ip": "192.0.2.1"}},
		Spec:       corev1.NodeSpec{Taints: []corev1.Taint{{Key: "node.cloudprovider.kubernetes.io/uninitialized", Value: "true", Effect: corev1.TaintEffectNoSchedule}}},
	}
	if _, err := r.client.CoreV1().Nodes().Create(t.Context(), n, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	var last *corev1.Node
	defer func() {
		if t.Failed() {
			t.Logf("spec %+v, addresses %+v", last.Spec, last.Status.Addresses)
		}
	}()
	eventually(t, "node with addresses, provider ID and pod range, and without the taint", func(ctx context.Context) (bool, error) {
		n, err := r.client.CoreV1().Nodes().Get(ctx, "n1", metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		last = n
		for _, taint := range n.Spec.Taints {
			if taint.Key == "node.cloudprovider.kubernetes.io/uninitialized" {
				return false, nil
			}
		}
		return n.Spec.ProviderID == "skiff://n1" && len(n.Status.Addresses) == 2 && n.Spec.PodCIDR != "", nil
	})
}

func (r *running) testAnonymous(t *testing.T) {
	rc, err := clientcmd.BuildConfigFromFlags("", r.cfg.Server.WriteKubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	c, err := kubernetes.NewForConfig(rest.AnonymousClientConfig(rc))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.CoreV1().Namespaces().List(t.Context(), metav1.ListOptions{}); !apierrors.IsUnauthorized(err) {
		t.Errorf("list namespaces without credentials: %v, want unauthorized", err)
	}
}

func (r *running) testIssuer(t *testing.T) {
	body, err := r.client.Discovery().RESTClient().Get().AbsPath("/.well-known/openid-configuration").DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Issuer string   `json:"issuer"`
		Algs   []string `json:"id_token_signing_alg_values_supported"`
	}
	if err := json.Unmarshal(body, &got); err != nil {
		t.Fatal(err)
	}
	if got.Issuer != "https://kubernetes.default.svc.cluster.local" || !cmp.Equal(got.Algs, []string{"ES256"}) {
		t.Errorf("OIDC discovery = %+v", got)
	}
}

func (r *running) testModule(t *testing.T) {
	if err := <-r.module.ready; err != nil {
		t.Errorf("Client after AfterAPI: %v", err)
	}
	rc, err := r.module.host.Client()
	if err != nil {
		t.Fatal(err)
	}
	c, err := kubernetes.NewForConfig(rc)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the right that the module's manifest grants", func(ctx context.Context) (bool, error) {
		_, err := c.CoreV1().ConfigMaps("kube-system").Get(ctx, "kube-root-ca.crt", metav1.GetOptions{})
		if apierrors.IsForbidden(err) || apierrors.IsNotFound(err) {
			return false, nil
		}
		return err == nil, err
	})
	if _, err := c.CoreV1().Secrets("kube-system").List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("list secrets as the module: %v, want forbidden", err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.cfg.LocalURL()+"/v1-skiff/test", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := r.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil {
		t.Error(err)
	}
	if resp.StatusCode != http.StatusTeapot {
		t.Errorf("the module's route answers %s", resp.Status)
	}
}

func (r *running) testOpenAPI(t *testing.T) {
	doc, err := r.client.Discovery().OpenAPISchema()
	if err != nil {
		t.Fatal(err)
	}
	paths := make(map[string]bool)
	for _, p := range doc.GetPaths().GetPath() {
		paths[p.GetName()] = true
	}
	// One path of each server in the chain.
	for _, want := range []string{"/apis/apps/v1/deployments", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", "/apis/apiregistration.k8s.io/v1/apiservices"} {
		if !paths[want] {
			t.Errorf("the description has %d paths, but not %s", len(paths), want)
		}
	}
}

func (r *running) testPolicyStatus(t *testing.T) {
	policies := r.client.AdmissionregistrationV1().ValidatingAdmissionPolicies()
	fail := admissionv1.Fail
	for name, expression := range map[string]string{"right": "object.spec.replicas < 50", "wrong": "object.spec.replicas < '50'"} {
		p := &admissionv1.ValidatingAdmissionPolicy{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: admissionv1.ValidatingAdmissionPolicySpec{
				FailurePolicy: &fail,
				MatchConstraints: &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{
					RuleWithOperations: admissionv1.RuleWithOperations{
						Operations: []admissionv1.OperationType{admissionv1.Create},
						Rule:       admissionv1.Rule{APIGroups: []string{"apps"}, APIVersions: []string{"v1"}, Resources: []string{"deployments"}},
					},
				}}},
				Validations: []admissionv1.Validation{{Expression: expression}},
			},
		}
		if _, err := policies.Create(t.Context(), p, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]int{"right": 0, "wrong": 1} {
		eventually(t, "type check of policy "+name, func(ctx context.Context) (bool, error) {
			p, err := policies.Get(ctx, name, metav1.GetOptions{})
			if err != nil || p.Status.TypeChecking == nil {
				return false, err
			}
			if got := len(p.Status.TypeChecking.ExpressionWarnings); got != want {
				t.Errorf("policy %s has %d warnings, want %d", name, got, want)
			}
			return true, nil
		})
	}
}

// testSecond starts another server on the same port: it has to fail before it
// writes anything.
func (r *running) testSecond(t *testing.T) {
	cfg := testConfig(t)
	cfg.Server.Port = r.cfg.Server.Port
	s, err := New(cfg, Options{Logger: slog.New(slog.DiscardHandler), Notes: &status.NoteBook{}})
	if err == nil {
		t.Fatal("New succeeded although the port is in use", s.front.Close())
	}
	if !strings.Contains(err.Error(), "--https-listen-port") {
		t.Errorf("New = %v, want an error that names the option", err)
	}
	if _, err := os.Stat(cfg.DataDir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("New has made the data directory (%v)", err)
	}
}
