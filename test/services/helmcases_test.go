package services_test

import (
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"skiff/test/charts"
)

// values come from everywhere and are followed; what has not changed is left
// alone, also by another controller.
func (h *helmed) values(t *testing.T) {
	h = h.in(t)
	h.file("charts/shop.tgz", shop("1.0.0", nil))
	h.secret("more", map[string]string{"v": "greeting: secret"})
	h.chart("v", `chart: "https://%{KUBERNETES_API}%/static/charts/shop.tgz", valuesContent: "greeting: content", jobImage: x`)
	h.ready("v", 1)
	h.has("v", "greeting", "content")
	h.chart("v", `chart: /charts/shop.tgz, valuesContent: "greeting: content", values: {greeting: values}`)
	h.ready("v", 2)
	h.has("v", "greeting", "values")
	h.chart("v", `chart: charts/shop.tgz, values: {greeting: values}, valuesSecrets: [{name: more, keys: [v]}], set: {number: 7}`)
	h.ready("v", 3)
	h.has("v", "greeting", "secret")
	h.has("v", "number", "7")
	h.secret("more", map[string]string{"v": "greeting: changed"})
	h.ready("v", 4)
	h.has("v", "greeting", "changed")
	h.apply(helmConfigs, "HelmChartConfig", "v", `valuesContent: "greeting: config"`)
	h.ready("v", 5)
	h.has("v", "greeting", "config")
	if err := h.dynamic.Resource(helmConfigs).Namespace("default").Delete(t.Context(), "v", remove); err != nil {
		t.Fatal(err)
	}
	h.ready("v", 6)
	h.file("charts/shop.tgz", shop("1.1.0", nil))
	h.ready("v", 7)
	h.has("v", "version", "1.1.0")

	h.stop()
	h.start()
	h.chart("other", `chart: charts/shop.tgz`)
	h.ready("other", 1) // So the controller has been at work.
	h.ready("v", 7)
	h.uninstall("other")
	h.uninstall("v")

	// Another namespace, which is made; what was in it goes.
	h.chart("far", `chart: charts/shop.tgz, targetNamespace: far, createNamespace: true`)
	h.ready("far", 1)
	far := func() error {
		_, err := h.kube.CoreV1().ConfigMaps("far").Get(t.Context(), "far", get)
		return err
	}
	if err := far(); err != nil {
		t.Error(err)
	}
	h.chart("far", `chart: charts/shop.tgz, targetNamespace: other, createNamespace: true`)
	h.broken("far", "InvalidSpec", "cannot move to other")
	h.chart("far", `chart: charts/shop.tgz, targetNamespace: far, createNamespace: true`)
	h.ready("far", 1)
	h.rival("far")
	h.uninstall("far")
	if err := wantGone(far()); err != nil {
		t.Error(err)
	}
}

// rival makes another HelmChart of the same name for the same release, and
// deletes it, which must not uninstall what is not its own.
func (h *helmed) rival(name string) {
	h.t.Helper()
	rivals := h.dynamic.Resource(helmCharts).Namespace("kube-system")
	u := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "helm.cattle.io/v1", "kind": "HelmChart", "metadata": map[string]any{"name": name},
		"spec": map[string]any{"chart": "charts/shop.tgz", "targetNamespace": name, "createNamespace": true},
	}}
	if _, err := rivals.Create(h.t.Context(), u, create); err != nil {
		h.t.Fatal(err)
	}
	eventually(h.t, "refusal of the rival", func() error {
		u, err := rivals.Get(h.t.Context(), name, get)
		if err != nil {
			return err
		}
		if said := fmt.Sprint(u.Object["status"]); !strings.Contains(said, "is that of HelmChart default/"+name) {
			return errors.New(said)
		}
		return nil
	})
	if err := rivals.Delete(h.t.Context(), name, remove); err != nil {
		h.t.Fatal(err)
	}
	eventually(h.t, "end of the rival", func() error {
		_, err := rivals.Get(h.t.Context(), name, get)
		return wantGone(err)
	})
	if _, err := h.kube.CoreV1().ConfigMaps(name).Get(h.t.Context(), name, get); err != nil {
		h.t.Errorf("the rival has uninstalled the release: %v", err)
	}
}

// sources are the object itself, repositories and registries.
func (h *helmed) sources(t *testing.T) {
	h = h.in(t)
	h.chart("content", `chartContent: `+base64.StdEncoding.EncodeToString(shop("1.0.0", nil)))
	h.ready("content", 1)
	h.uninstall("content")

	files := &charts.Server{User: "anna", Password: "secret"}
	files.Add("shop", "1.0.0", shop("1.0.0", nil))
	files.Add("shop", "2.0.0", shop("2.0.0", nil))
	plain, secure := httptest.NewServer(files), httptest.NewTLSServer(files)
	t.Cleanup(plain.Close)
	t.Cleanup(secure.Close)
	h.secret("login", map[string]string{"username": "anna", "password": "secret"})
	ca := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "ca"}}
	ca.Data = map[string]string{"ca.crt": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw}))}
	if _, err := h.kube.CoreV1().ConfigMaps("default").Create(t.Context(), ca, create); err != nil {
		t.Fatal(err)
	}
	host := strings.TrimPrefix(plain.URL, "http://")
	h.secret("docker", map[string]string{".dockerconfigjson": fmt.Sprintf(`{"auths":{%q:{"username":"anna","password":"secret"}}}`, host)})
	for _, tt := range []struct{ name, spec, version string }{
		{"newest", `chart: shop, repo: "` + plain.URL + `", authSecret: {name: login}`, "2.0.0"},
		{"older", `chart: shop, repo: "` + plain.URL + `", version: "1.x", authSecret: {name: login}`, "1.0.0"},
		{"tls", `chart: shop, repo: "` + secure.URL + `", repoCAConfigMap: {name: ca}, authSecret: {name: login}`, "2.0.0"},
		{"pem", `chart: shop, repo: "` + secure.URL + `", repoCA: ` + strconv.Quote(ca.Data["ca.crt"]) + `, authSecret: {name: login}`, "2.0.0"},
		{"skip", `chart: shop, repo: "` + secure.URL + `", insecureSkipTLSVerify: true, authSecret: {name: login}`, "2.0.0"},
		{"archive", `chart: "` + plain.URL + `/shop-1.0.0.tgz", authSecret: {name: login}`, "1.0.0"},
		{"oci", `chart: "oci://` + host + `/charts/shop", version: 1.0.0, plainHTTP: true, authSecret: {name: login}`, "1.0.0"},
		{"ocidocker", `chart: "oci://` + host + `/charts/shop", version: ">0", plainHTTP: true, dockerRegistrySecret: {name: docker}`, "2.0.0"},
		{"ocitls", `chart: "oci://` + strings.TrimPrefix(secure.URL, "https://") + `/charts/shop:1.0.0", repoCAConfigMap: {name: ca}, authSecret: {name: login}`, "1.0.0"},
		{"ocinew", `chart: shop, repo: "oci://` + host + `/charts", plainHTTP: true, authSecret: {name: login}`, "2.0.0"},
	} {
		h.chart(tt.name, tt.spec)
		h.ready(tt.name, 1)
		h.has(tt.name, "version", tt.version)
		h.uninstall(tt.name)
	}
	h.chart("nologin", `chart: shop, repo: "`+plain.URL+`"`)
	h.broken("nologin", "ChartUnavailable", "401")
	h.chart("nologin", `chart: shop, repo: "`+plain.URL+`", authSecret: {name: later}`)
	h.broken("nologin", "ChartUnavailable", "default/later")
	h.secret("later", map[string]string{"username": "anna", "password": "secret"})
	h.ready("nologin", 1)
	asked := files.Asked()
	h.uninstall("nologin")
	if n := files.Asked() - asked; n > 0 {
		t.Errorf("uninstalling asked the repository %d times", n)
	}
	h.chart("noca", `chart: shop, repo: "`+secure.URL+`", authSecret: {name: login}`)
	h.broken("noca", "ChartUnavailable", "certificate")
	h.uninstall("noca")
}

// failures are told once, in words, and nothing loops.
func (h *helmed) failures(t *testing.T) {
	h = h.in(t)
	var asked atomic.Int32
	ill := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		http.Error(w, "out of order", http.StatusInternalServerError)
	}))
	t.Cleanup(ill.Close)
	down := httptest.NewServer(http.NotFoundHandler())
	unreachable := down.URL
	down.Close()
	h.file("ok.tgz", shop("1.0.0", nil))
	h.file("text.tgz", []byte("this is no archive"))
	h.file("syntax.tgz", shop("1.0.0", map[string]string{"templates/bad.yaml": "{{ if }}"}))
	h.file("kind.tgz", shop("1.0.0", map[string]string{"templates/x.yaml": "apiVersion: no.such/v1\nkind: Thing\nmetadata: {name: x}\n"}))
	h.file("crd.tgz", shop("1.0.0", map[string]string{"templates/x.yaml": strings.ReplaceAll(boatCRD, "test.skiff.dev", "three.skiff.dev")}))
	h.definition("three.skiff.dev")
	h.file("field.tgz", shop("1.0.0", map[string]string{"templates/x.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\nspec: {}\n"}))
	for _, tt := range []struct{ name, spec, reason, words string }{
		{"nothing", `version: "1"`, "InvalidSpec", "nothing to install"},
		{"missing", `chart: no/such.tgz`, "ChartUnavailable", "there is no file"},
		{"outside", `chart: "../../etc/passwd"`, "ChartUnavailable", "cannot be read"},
		{"text", `chart: text.tgz`, "InvalidChart", "archive cannot be read"},
		{"base64", `chartContent: "%%%"`, "InvalidChart", "base64"},
		{"unreachable", `chart: shop, repo: "` + unreachable + `"`, "ChartUnavailable", "refused"},
		{"ill", `chart: shop, repo: "` + ill.URL + `"`, "ChartUnavailable", "answers 500"},
		{"crd", `chart: crd.tgz`, "ObjectExists", "CustomResourceDefinition"},
		{"yaml", `chart: ok.tgz, valuesContent: "- a"`, "InvalidValues", "no YAML mapping"},
		{"schema", `chart: ok.tgz, valuesContent: "number: many"`, "InvalidValues", "number"},
		{"required", `chart: ok.tgz, valuesContent: "greeting:"`, "TemplateFailed", "say something"},
		{"syntax", `chart: syntax.tgz`, "TemplateFailed", "templates are broken"},
		{"kind", `chart: kind.tgz`, "UnknownKind", "CustomResourceDefinitions"},
		{"field", `chart: field.tgz`, "RefusedByAPI", "spec"},
		{"nospace", `chart: ok.tgz, targetNamespace: none`, "NamespaceMissing", "createNamespace"},
		{"set", `chart: ok.tgz, set: {"a[b]": x}`, "InvalidValues", "--set"},
	} {
		h.chart(tt.name, tt.spec)
		h.broken(tt.name, tt.reason, tt.words)
	}
	before, tries := h.version("schema"), asked.Load()
	<-time.After(7 * time.Second) // The second attempt comes after five, the third after ten more.
	if now := h.version("schema"); now != before {
		t.Error("a failure that is repeated writes the object again")
	}
	if now := asked.Load(); now > tries+1 || now > 3 {
		t.Errorf("the repository that is out of order was asked %d times, %d of them in the last seven seconds", now, now-tries)
	}
	// What was wrong is put right.
	h.chart("schema", `chart: ok.tgz, valuesContent: "number: 3"`)
	h.ready("schema", 1)
	for _, name := range []string{"nothing", "missing", "unreachable", "ill", "crd", "kind", "nospace", "schema"} {
		h.uninstall(name)
	}
}

func (h *helmed) version(name string) string {
	u, err := h.dynamic.Resource(helmCharts).Namespace("default").Get(h.t.Context(), name, get)
	if err != nil {
		h.t.Fatal(err)
	}
	return u.GetResourceVersion()
}

const fixed = `apiVersion: v1
kind: Secret
metadata: {name: {{ .Release.Name }}-fixed}
immutable: true
stringData: {number: {{ .Values.number | quote }}}
`

// policies say what comes after a failure.
func (h *helmed) policies(t *testing.T) {
	h = h.in(t)
	h.file("fixed.tgz", shop("1.0.0", map[string]string{"templates/zfixed.yaml": fixed}))
	for _, policy := range []string{"", "failurePolicy: abort, ", "failurePolicy: reinstall, "} {
		h.chart("f", policy+`chart: fixed.tgz`)
		h.ready("f", 1)
		h.chart("f", policy+`chart: fixed.tgz, valuesContent: "number: 2"`)
		switch policy {
		case "":
			h.broken("f", "ImmutableField", "revision 1 has been put back")
			h.has("f", "number", "1")
		case "failurePolicy: abort, ":
			h.broken("f", "ImmutableField", "not tried again")
		default:
			h.ready("f", 1)
			h.has("f", "number", "2")
		}
		h.uninstall("f")
	}

	// Objects of somebody else.
	theirs := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "theirs"}}
	if _, err := h.kube.CoreV1().ConfigMaps("default").Create(t.Context(), theirs, create); err != nil {
		t.Fatal(err)
	}
	h.file("ok.tgz", shop("1.0.0", nil))
	h.chart("theirs", `chart: ok.tgz`)
	h.broken("theirs", "ObjectExists", "takeOwnership")
	h.chart("theirs", `chart: ok.tgz, takeOwnership: true`)
	h.ready("theirs", 1)

	// Fields that somebody else has set.
	u := fmt.Appendf(nil, `{"apiVersion":"v1","kind":"ConfigMap","data":{"greeting":"mine"}}`)
	force := true
	if _, err := h.kube.CoreV1().ConfigMaps("default").Patch(t.Context(), "theirs", types.ApplyPatchType, u, metav1.PatchOptions{FieldManager: "me", Force: &force}); err != nil {
		t.Fatal(err)
	}
	h.chart("theirs", `chart: ok.tgz, takeOwnership: true, valuesContent: "greeting: theirs"`)
	h.broken("theirs", "FieldConflict", "forceConflicts")
	h.chart("theirs", `chart: ok.tgz, takeOwnership: true, forceConflicts: true, valuesContent: "greeting: theirs"`)
	eventually(t, "greeting by force", func() error {
		_, ready, reason, message := h.status("theirs")
		if !ready {
			return fmt.Errorf("%s: %s", reason, message)
		}
		return nil
	})
	h.has("theirs", "greeting", "theirs")
	h.uninstall("theirs")
}

const hook = `apiVersion: batch/v1
kind: Job
metadata:
  name: {{ .Release.Name }}-hook
  annotations: {helm.sh/hook: "%s"}
spec: {template: {spec: {restartPolicy: Never, containers: [{name: a, image: none}]}}}
`

// interrupted releases are those whose process died: nobody else would touch
// them again.
func (h *helmed) interrupted(t *testing.T) {
	h = h.in(t)
	// Nobody runs Jobs here, so that Helm waits in the middle of installing.
	h.file("hook.tgz", shop("1.0.0", map[string]string{"templates/hook.yaml": fmt.Sprintf(hook, "pre-install")}))
	h.chart("i", `chart: hook.tgz`)
	h.pending("i", "pending-install")
	h.stop()
	// As after kill -9: what was written on the way out is taken back.
	h.mark("i", 1, "pending-install")
	h.file("hook.tgz", shop("1.0.1", nil))
	h.start()
	h.ready("i", 1)
	h.has("i", "version", "1.0.1")

	h.file("hook.tgz", shop("1.0.2", map[string]string{"templates/hook.yaml": fmt.Sprintf(hook, "pre-upgrade")}))
	h.pending("i", "pending-upgrade")
	h.stop()
	h.mark("i", 2, "pending-upgrade")
	h.file("hook.tgz", shop("1.0.3", nil))
	h.start()
	h.ready("i", 3)
	h.has("i", "version", "1.0.3")
	h.uninstall("i")

	// A hook that never ends is over after the time allowed for it.
	h.file("hook.tgz", shop("1.0.0", map[string]string{"templates/hook.yaml": fmt.Sprintf(hook, "pre-install")}))
	h.chart("slow", `chart: hook.tgz, timeout: 2s`)
	h.broken("slow", "HookFailed", "kubectl get jobs")
	h.uninstall("slow")
}

// pending waits until a release is in the middle of something.
func (h *helmed) pending(name, status string) {
	h.t.Helper()
	eventually(h.t, status+" of "+name, func() error {
		var have []string
		for _, r := range h.records(name) {
			if r.Labels["status"] == status {
				return nil
			}
			have = append(have, r.Labels["status"])
		}
		_, _, reason, message := h.status(name)
		return fmt.Errorf("have %q; %s: %s", have, reason, message)
	})
}

// removal ends, whatever the state of the release.
func (h *helmed) removal(t *testing.T) {
	h = h.in(t)
	h.file("ok.tgz", shop("1.0.0", nil))
	h.chart("gone", `chart: ok.tgz`)
	h.ready("gone", 1)
	for _, r := range h.records("gone") {
		if err := h.kube.CoreV1().Secrets("default").Delete(t.Context(), r.Name, remove); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.kube.CoreV1().ConfigMaps("default").Delete(t.Context(), "gone", remove); err != nil {
		t.Fatal(err)
	}
	h.uninstall("gone")
	// Killed while it was uninstalling.
	h.chart("half", `chart: ok.tgz`)
	h.ready("half", 1)
	h.mark("half", 1, "uninstalling")
	h.uninstall("half")
	h.ended("stubborn")
}

// stubborn begins to delete a chart whose hook cannot run: its objects go
// without it, after some attempts.
func (h *helmed) stubborn() {
	h.file("last.tgz", shop("1.0.0", map[string]string{"templates/hook.yaml": fmt.Sprintf(hook, "pre-delete")}))
	h.chart("stubborn", `chart: last.tgz, timeout: 1s`)
	h.ready("stubborn", 1)
	if err := h.dynamic.Resource(helmCharts).Namespace("default").Delete(h.t.Context(), "stubborn", remove); err != nil {
		h.t.Fatal(err)
	}
}
