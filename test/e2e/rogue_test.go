package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"skiff/test/hosts"
)

func errorf(format string, args ...any) error { return fmt.Errorf(format, args...) }

// credential is how a request proves itself: not at all, by a token, or by a
// client certificate.
type credential struct {
	user, secret string
	cert         *tls.Certificate
}

// ask sends a request to a server's port and returns the status.
func ask(t *testing.T, server *hosts.Host, method, path string, c credential) int {
	t.Helper()
	status, err := tryAsk(t, server, method, path, c, "{}")
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return status
}

func tryAsk(t *testing.T, server *hosts.Host, method, path string, c credential, body string) (int, error) {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(server.ReadFile("/var/lib/skiff/server/tls/server-ca.crt")))
	conf := &tls.Config{RootCAs: roots}
	if c.cert != nil {
		conf.Certificates = []tls.Certificate{*c.cert}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var content io.Reader
	if method == http.MethodPost {
		content = strings.NewReader(body)
	}
	r, err := http.NewRequestWithContext(ctx, method, "https://127.0.0.1:6443"+path, content)
	if err != nil {
		return 0, err
	}
	if c.secret != "" {
		r.SetBasicAuth(c.user, c.secret)
	}
	client := &http.Client{Transport: &http.Transport{DialContext: server.DialContext, TLSClientConfig: conf, DisableKeepAlives: true, ForceAttemptHTTP2: true}}
	resp, err := client.Do(r)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

// certificate is one that a node has on its disk.
func certificate(t *testing.T, h *hosts.Host, dir, name string) *tls.Certificate {
	t.Helper()
	pair, err := tls.X509KeyPair([]byte(h.ReadFile(dir+name+".crt")), []byte(h.ReadFile(dir+name+".key")))
	if err != nil {
		t.Fatal(err)
	}
	return &pair
}

const (
	nodeTLS   = "/var/lib/skiff/agent/tls/"
	serverTLS = "/var/lib/skiff/server/tls/"
)

// endpoints asks for every path of the supervisor without, with wrong, with too
// weak and with good credentials. 400 is the answer of who reads the body.
func endpoints(t *testing.T, server, agent *hosts.Host) {
	who := map[string]credential{
		"nobody":      {},
		"wrong token": {user: "node", secret: "wrong"},
		"agent token": {user: "node", secret: secretOf(server.ReadFile(agentTokenFile))},
		"server":      {user: "server", secret: secretOf(server.ReadFile(serverTokenFile))},
		"node":        {cert: certificate(t, agent, nodeTLS, "client-kubelet")},
		"skiff-agent": {cert: certificate(t, agent, nodeTLS, "client-skiff-agent")},
		"kube-proxy":  {cert: certificate(t, agent, nodeTLS, "client-kube-proxy")},
		"admin":       {cert: certificate(t, server, serverTLS, "client-admin")},
	}
	all := func(status int) map[string]int {
		m := map[string]int{}
		for name := range who {
			m[name] = status
		}
		return m
	}
	for _, tt := range []struct {
		method, path string
		want         map[string]int
	}{
		{"GET", "/ping", all(200)},
		{"POST", "/ping", all(405)},
		{"GET", "/cacerts", all(200)},
		{"DELETE", "/cacerts", all(405)},
		{"GET", "/v1-skiff/node", all(405)},
		{"POST", "/v1-skiff/node", map[string]int{
			"nobody": 401, "wrong token": 401, "agent token": 400, "server": 400, "node": 400, "skiff-agent": 401, "kube-proxy": 401, "admin": 401,
		}},
		{"GET", "/v1-skiff/token", all(405)},
		{"POST", "/v1-skiff/token", map[string]int{
			"nobody": 401, "wrong token": 401, "agent token": 403, "server": 400, "node": 403, "skiff-agent": 401, "kube-proxy": 401, "admin": 400,
		}},
		{"GET", "/v1-skiff/connect", map[string]int{
			"nobody": 403, "wrong token": 403, "agent token": 403, "server": 403, "skiff-agent": 403, "kube-proxy": 403, "admin": 403,
		}},
		{"POST", "/v1-skiff/connect", all(405)},
		{"GET", "/v1-skiff/none", all(404)},
		{"GET", "/v1-skiff/", all(404)},
		{"GET", "/static/charts/none.tgz", all(404)},
		{"POST", "/static/charts/none.tgz", all(405)},
	} {
		for name, want := range tt.want {
			if got := ask(t, server, tt.method, tt.path, who[name]); got != want {
				t.Errorf("%s %s by %s: %d, want %d", tt.method, tt.path, name, got, want)
			}
		}
	}
	large := `{"version":1,"x":"` + strings.Repeat("x", 100<<10) + `"}`
	for _, path := range []string{"/v1-skiff/node", "/v1-skiff/token"} {
		if got, err := tryAsk(t, server, "POST", path, who["server"], large); got != http.StatusRequestEntityTooLarge {
			t.Errorf("100 KiB to %s: %d, %v", path, got, err)
		}
	}
}

// rogueNode does with the credentials of a real agent what it may not.
func rogueNode(t *testing.T, server, agent *hosts.Host) {
	admin := server.Kube()
	as := func(name string) *kubernetes.Clientset {
		c := rest.CopyConfig(server.RESTConfig())
		c.TLSClientConfig.CertData, c.TLSClientConfig.KeyData = []byte(agent.ReadFile(nodeTLS+name+".crt")), []byte(agent.ReadFile(nodeTLS+name+".key"))
		return kubernetes.NewForConfigOrDie(c)
	}
	ctx := t.Context()
	if _, err := admin.CoreV1().Secrets("default").Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "prey"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "prey"}, Spec: corev1.PodSpec{NodeName: "server", Containers: []corev1.Container{{Name: "c", Image: "none"}}}}
	hosts.Eventually(t, patience, "a pod on another node", func() error {
		_, err := admin.CoreV1().Pods("default").Create(ctx, pod, metav1.CreateOptions{})
		return err
	})
	defer admin.CoreV1().Pods("default").Delete(ctx, "prey", metav1.DeleteOptions{})
	annotate := []byte(`{"metadata":{"annotations":{"flannel.alpha.coreos.com/public-ip":"10.9.9.9"}}}`)
	label := []byte(`{"metadata":{"labels":{"rogue":"yes"}}}`)
	merge := types.MergePatchType
	for _, name := range []string{"client-kubelet", "client-skiff-agent", "client-kube-proxy"} {
		c := as(name)
		for what, do := range map[string]func() error{
			"read a Secret": func() error {
				_, err := c.CoreV1().Secrets("default").Get(ctx, "prey", metav1.GetOptions{})
				return err
			},
			"list Secrets": func() error { _, err := c.CoreV1().Secrets("").List(ctx, metav1.ListOptions{}); return err },
			"another's password": func() error {
				_, err := c.CoreV1().Secrets("kube-system").Get(ctx, "server.node-password.skiff", metav1.GetOptions{})
				return err
			},
			"its own password": func() error {
				return c.CoreV1().Secrets("kube-system").Delete(ctx, "first.node-password.skiff", metav1.DeleteOptions{})
			},
			"annotate a Node": func() error {
				_, err := c.CoreV1().Nodes().Patch(ctx, "server", merge, annotate, metav1.PatchOptions{})
				return err
			},
			"a Node's status": func() error {
				_, err := c.CoreV1().Nodes().Patch(ctx, "server", merge, annotate, metav1.PatchOptions{}, "status")
				return err
			},
			"delete a Node": func() error { return c.CoreV1().Nodes().Delete(ctx, "server", metav1.DeleteOptions{}) },
			"a pod's status": func() error {
				_, err := c.CoreV1().Pods("default").Patch(ctx, "prey", merge, []byte(`{"status":{"phase":"Failed"}}`), metav1.PatchOptions{}, "status")
				return err
			},
			"delete a pod": func() error { return c.CoreV1().Pods("default").Delete(ctx, "prey", metav1.DeleteOptions{}) },
			"make a pod": func() error {
				_, err := c.CoreV1().Pods("default").Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "r"}, Spec: pod.Spec}, metav1.CreateOptions{})
				return err
			},
			"a token": func() error {
				_, err := c.CoreV1().Secrets("kube-system").List(ctx, metav1.ListOptions{FieldSelector: "type=bootstrap.kubernetes.io/token"})
				return err
			},
			"exec on another": func() error {
				return c.CoreV1().RESTClient().Get().AbsPath("/api/v1/nodes/server/proxy/pods").Do(ctx).Error()
			},
			"DNS of another": func() error {
				return c.DiscoveryV1().EndpointSlices("kube-system").Delete(ctx, "kube-dns-server", metav1.DeleteOptions{})
			},
			"endpoints": func() error {
				_, err := c.DiscoveryV1().EndpointSlices("kube-system").Create(ctx, slice("rogue", "first"), metav1.CreateOptions{})
				return err
			},
			"another's endpoints": func() error {
				_, err := c.DiscoveryV1().EndpointSlices("kube-system").Create(ctx, slice("kube-dns2-first", "server"), metav1.CreateOptions{})
				return err
			},
			"a volume": func() error {
				_, err := c.CoreV1().PersistentVolumes().Create(ctx, volumeOn("server"), metav1.CreateOptions{})
				return err
			},
			"become admin": func() error {
				return c.RbacV1().ClusterRoleBindings().Delete(ctx, "cluster-admin", metav1.DeleteOptions{})
			},
		} {
			if err := do(); !denied(err) {
				t.Errorf("%s: %s: %v", name, what, err)
			}
		}
	}
	// What the node's own identity may do on its Node is flannel's annotations.
	own := as("client-skiff-agent").CoreV1().Nodes()
	if _, err := own.Patch(ctx, "first", merge, label, metav1.PatchOptions{}, "status"); !apierrors.IsForbidden(err) {
		t.Errorf("label its Node: %v", err)
	}
	if _, err := own.Patch(ctx, "first", merge, []byte(`{"metadata":{"annotations":{"skiff.dev/internal-ip":"10.9.9.9"}}}`), metav1.PatchOptions{}, "status"); !apierrors.IsForbidden(err) {
		t.Errorf("annotate its Node: %v", err)
	}
	if _, err := own.Patch(ctx, "first", merge, []byte(`{"metadata":{"annotations":{"flannel.alpha.coreos.com/test":"x"}}}`), metav1.PatchOptions{}, "status"); err != nil {
		t.Errorf("flannel's annotation: %v", err)
	}
	body := `{"version":1,"node":{"name":"server","password":"x"}}`
	node := credential{cert: certificate(t, agent, nodeTLS, "client-kubelet")}
	if got, err := tryAsk(t, server, "POST", "/v1-skiff/node", node, body); got != http.StatusForbidden {
		t.Errorf("certificates of another node: %d, %v", got, err)
	}
}

// denied reports whether somebody may not do something; what a policy denies is
// invalid unless it says otherwise.
func denied(err error) bool {
	return apierrors.IsForbidden(err) || apierrors.IsInvalid(err) && strings.Contains(err.Error(), "ValidatingAdmissionPolicy")
}

func slice(name, node string) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: "kube-dns"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{"10.9.9.9"}, NodeName: &node}},
	}
}

func volumeOn(node string) *corev1.PersistentVolume {
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: "rogue"},
		Spec: corev1.PersistentVolumeSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Mi")},
			PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: "/etc"}},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}},
			}}}},
		},
	}
}
