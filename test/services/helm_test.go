package services_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"skiff/pkg/server/helm"
	"skiff/test/charts"
)

var (
	helmCharts  = schema.GroupVersionResource{Group: "helm.cattle.io", Version: "v1", Resource: "helmcharts"}
	helmConfigs = schema.GroupVersionResource{Group: "helm.cattle.io", Version: "v1", Resource: "helmchartconfigs"}
)

// helmed is a controller of HelmCharts under test.
type helmed struct {
	*cluster
	t      *testing.T
	static string
	root   *helmed // of the whole test, which the controller belongs to
	end    func()  // of root
}

// always is ready from the beginning, as the controller itself says nothing.
type always struct{ *helm.Controller }

func (always) Ready(context.Context) error { return nil }

func (h *helmed) start() {
	h.t.Helper()
	h.root.end = start(h.root.t, always{helm.New(helm.Options{
		Loopback: func() *rest.Config { return h.config }, Static: h.static, Logger: h.logger.With("component", "helm"),
	})})
}

func (h *helmed) stop() { h.root.end() }

// shop is a chart with a ConfigMap; values make it do other things, too.
func shop(version string, more map[string]string) []byte {
	files := map[string]string{
		"values.yaml":        "greeting: hello\nnumber: 1\n",
		"values.schema.json": `{"type":"object","properties":{"number":{"type":"integer"}}}`,
		"templates/cm.yaml": `apiVersion: v1
kind: ConfigMap
metadata: {name: {{ .Release.Name }}}
data: {greeting: {{ required "say something" .Values.greeting | quote }}, number: {{ .Values.number | quote }}, version: {{ .Chart.Version }}}
`,
	}
	maps.Copy(files, more)
	return charts.Archive("shop", version, files)
}

func (h *helmed) file(name string, archive []byte) {
	h.t.Helper()
	p := filepath.Join(h.static, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, archive, 0o644)); err != nil {
		h.t.Fatal(err)
	}
}

// apply makes or changes an object of the default namespace.
func (h *helmed) apply(r schema.GroupVersionResource, kind, name, spec string) {
	h.t.Helper()
	u := &unstructured.Unstructured{}
	text := fmt.Sprintf("apiVersion: helm.cattle.io/v1\nkind: %s\nmetadata: {name: %s, namespace: default}\nspec: {%s}\n", kind, name, spec)
	if err := yaml.Unmarshal([]byte(text), &u.Object); err != nil {
		h.t.Fatalf("%v\n%s", err, text)
	}
	_, err := h.dynamic.Resource(r).Namespace("default").Apply(h.t.Context(), name, u, metav1.ApplyOptions{FieldManager: "test", Force: true})
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *helmed) chart(name, spec string) {
	h.t.Helper()
	h.apply(helmCharts, "HelmChart", name, spec)
}

// status reads revision, reason and message of a HelmChart.
func (h *helmed) status(name string) (revision int64, ready bool, reason, message string) {
	h.t.Helper()
	u, err := h.dynamic.Resource(helmCharts).Namespace("default").Get(h.t.Context(), name, get)
	if err != nil {
		h.t.Fatal(err)
	}
	revision, _, _ = unstructured.NestedInt64(u.Object, "status", "revision")
	conditions, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	for _, c := range conditions {
		m, _ := c.(map[string]any)
		if m["type"] == "Ready" {
			reason, _ = m["reason"].(string)
			message, _ = m["message"].(string)
			ready = m["status"] == "True"
		}
	}
	return revision, ready, reason, message
}

func (h *helmed) ready(name string, want int64) {
	h.t.Helper()
	eventually(h.t, fmt.Sprintf("HelmChart %s at revision %d", name, want), func() error {
		revision, ready, reason, message := h.status(name)
		if !ready || revision != want {
			return fmt.Errorf("revision %d, ready %v: %s: %s", revision, ready, reason, message)
		}
		return nil
	})
}

// broken waits for a reason with words in its message, and an event.
func (h *helmed) broken(name, want, words string) {
	h.t.Helper()
	eventually(h.t, fmt.Sprintf("HelmChart %s with %s", name, want), func() error {
		_, ready, reason, message := h.status(name)
		if ready || reason != want || !strings.Contains(message, words) {
			return fmt.Errorf("ready %v: %s: %s", ready, reason, message)
		}
		return nil
	})
	eventually(h.t, "event "+want, func() error {
		list, err := h.kube.CoreV1().Events("default").List(h.t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=" + name + ",reason=" + want})
		if err == nil && len(list.Items) == 0 {
			err = errors.New("none")
		}
		return err
	})
}

// has waits for a value in a ConfigMap.
func (h *helmed) has(name, key, want string) {
	h.t.Helper()
	eventually(h.t, "ConfigMap "+name+" with "+key+"="+want, func() error {
		m, err := h.kube.CoreV1().ConfigMaps("default").Get(h.t.Context(), name, get)
		if err == nil && m.Data[key] != want {
			err = fmt.Errorf("it is %q", m.Data[key])
		}
		return err
	})
}

// uninstall deletes a HelmChart and waits for the end of its objects.
func (h *helmed) uninstall(name string) {
	h.t.Helper()
	if err := h.dynamic.Resource(helmCharts).Namespace("default").Delete(h.t.Context(), name, remove); err != nil {
		h.t.Fatal(err)
	}
	h.ended(name)
}

// ended waits for the end of a HelmChart, which leaves nothing.
func (h *helmed) ended(name string) {
	h.t.Helper()
	eventually(h.t, "end of HelmChart "+name, func() error {
		_, err := h.dynamic.Resource(helmCharts).Namespace("default").Get(h.t.Context(), name, get)
		return wantGone(err)
	})
	if _, err := h.kube.CoreV1().ConfigMaps("default").Get(h.t.Context(), name, get); wantGone(err) != nil {
		h.t.Errorf("ConfigMap %s after uninstalling: %v", name, wantGone(err))
	}
	if n := len(h.records(name)); n > 0 {
		h.t.Errorf("%d records of release %s are left", n, name)
	}
}

// records are Helm's own, by revision.
func (h *helmed) records(name string) []corev1.Secret {
	h.t.Helper()
	list, err := h.kube.CoreV1().Secrets("default").List(h.t.Context(), metav1.ListOptions{LabelSelector: "owner=helm,name=" + name})
	if err != nil {
		h.t.Fatal(err)
	}
	return list.Items
}

func (h *helmed) secret(name string, data map[string]string) {
	h.t.Helper()
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, StringData: data}
	_, err := h.kube.CoreV1().Secrets("default").Create(h.t.Context(), s, create)
	if err == nil {
		return
	}
	patch := fmt.Appendf(nil, `{"data":{%q:%q}}`, "v", base64.StdEncoding.EncodeToString([]byte(data["v"])))
	if _, err := h.kube.CoreV1().Secrets("default").Patch(h.t.Context(), name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		h.t.Fatal(err)
	}
}

// testHelm needs the definitions that testDeploy has left.
func (c *cluster) testHelm(t *testing.T) {
	h := &helmed{cluster: c, t: t, static: filepath.Join(c.dir, "static")}
	h.root = h
	h.start()
	t.Run("values", h.values)
	t.Run("sources", h.sources)
	h.stubborn()
	t.Run("failures", h.failures)
	t.Run("policies", h.policies)
	t.Run("removal", h.removal)
	t.Run("interrupted", h.interrupted)
}

// in is h for a subtest.
func (h *helmed) in(t *testing.T) *helmed {
	inner := *h
	inner.t = t
	return &inner
}

// mark writes a status into a record of Helm, as a process would have left it
// that was killed.
func (h *helmed) mark(name string, revision int, status string) {
	h.t.Helper()
	s, err := h.kube.CoreV1().Secrets("default").Get(h.t.Context(), fmt.Sprintf("sh.helm.release.v1.%s.v%d", name, revision), get)
	if err != nil {
		h.t.Fatal(err)
	}
	packed, err := base64.StdEncoding.DecodeString(string(s.Data["release"]))
	if err != nil {
		h.t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		h.t.Fatal(err)
	}
	var record map[string]any
	if err := json.NewDecoder(z).Decode(&record); err != nil {
		h.t.Fatal(err)
	}
	record["info"].(map[string]any)["status"] = status
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if err := errors.Join(json.NewEncoder(w).Encode(record), w.Close()); err != nil {
		h.t.Fatal(err)
	}
	s.Data["release"] = []byte(base64.StdEncoding.EncodeToString(out.Bytes()))
	s.Labels["status"] = status
	if _, err := h.kube.CoreV1().Secrets("default").Update(h.t.Context(), s, change); err != nil {
		h.t.Fatal(err)
	}
}

// definition makes the definition of Boats in a group, as somebody else's.
func (h *helmed) definition(group string) {
	h.t.Helper()
	u := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(strings.ReplaceAll(boatCRD, "test.skiff.dev", group)), &u.Object); err != nil {
		h.t.Fatal(err)
	}
	gvr := schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	if _, err := h.dynamic.Resource(gvr).Create(h.t.Context(), u, create); err != nil {
		h.t.Fatal(err)
	}
}
