package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"skiff/test/charts"
	"skiff/test/hosts"
	"skiff/test/images"
)

const staticDir = "/var/lib/skiff/server/static"

// webChart is a web server and, if its values want one, a Job before it that
// waits until there is the file /var/lib/gate/open.
func webChart(version string) []byte {
	return charts.Archive("web", version, map[string]string{
		"values.yaml": "replicas: 1\nhook: false\n",
		"templates/web.yaml": strings.ReplaceAll(`apiVersion: apps/v1
kind: Deployment
metadata: {name: {{ .Release.Name }}, labels: {version: {{ .Chart.Version }}}}
spec:
  replicas: {{ .Values.replicas }}
  selector: {matchLabels: {app: {{ .Release.Name }}}}
  template:
    metadata: {labels: {app: {{ .Release.Name }}}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: web
        image: IMAGE
        imagePullPolicy: Never
        command: [/tool, serve]
        resources: {requests: {cpu: 10m, memory: 8Mi}}
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
`, "IMAGE", images.Tool),
		"templates/hook.yaml": strings.ReplaceAll(`{{ if .Values.hook }}
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ .Release.Name }}-before
  annotations: {helm.sh/hook: "pre-install,pre-upgrade", helm.sh/hook-delete-policy: "before-hook-creation,hook-succeeded"}
spec:
  template:
    spec:
      terminationGracePeriodSeconds: 0
      restartPolicy: Never
      volumes: [{name: gate, hostPath: {path: /var/lib/gate, type: DirectoryOrCreate}}]
      containers:
      - name: c
        image: IMAGE
        imagePullPolicy: Never
        command: [sh, -c, "until [ -e /gate/open ]; do sleep 1; done"]
        volumeMounts: [{name: gate, mountPath: /gate}]
{{ end }}`, "IMAGE", images.Tool),
	})
}

func helmChart(name, spec string) string {
	return fmt.Sprintf("apiVersion: helm.cattle.io/v1\nkind: HelmChart\nmetadata: {name: %s, namespace: charts}\nspec: {chart: web.tgz%s}\n", name, spec)
}

// TestHelm installs charts from the node's disk, as a person without a network
// would: by a file in the manifests directory. One is upgraded, one is in the
// middle of installing when skiff is killed, and all leave no trace.
func TestHelm(t *testing.T) {
	t.Parallel()
	h := newHost(t, hosts.Named("helm"))
	h.WriteFile(staticDir+"/web.tgz", string(webChart("1.0.0")))
	h.StartServer()
	h.WaitReady()
	s := newSpace(t, h, "charts")
	h.WriteFile(manifestsDir+"/shop.yaml", helmChart("shop", ""))
	s.helmSays("shop", "Ready", "Helm says: Install complete")
	s.ready("app=shop", 1)
	s.eventually("the AddOn in skiff status", func() error {
		if r := h.Status(); !strings.Contains(r.Stdout, "shop ") {
			return fmt.Errorf("%s", r)
		}
		return nil
	})

	// New values, a new archive, and values that the chart's template refuses.
	h.WriteFile(manifestsDir+"/shop.yaml", helmChart("shop", `, valuesContent: "replicas: 2"`))
	s.ready("app=shop", 2)
	h.WriteFile(staticDir+"/web.tgz", string(webChart("1.1.0")))
	s.eventually("version 1.1.0", func() error {
		if v := s.kubectl("get", "helmchart", "shop", "-o", "jsonpath={.status.version} {.status.revision}"); v != "1.1.0 3" {
			return fmt.Errorf("it is %s", v)
		}
		return nil
	})
	h.WriteFile(manifestsDir+"/shop.yaml", helmChart("shop", `, valuesContent: "replicas: {a: b}"`))
	s.helmSays("shop", "Failed", "replicas")
	s.ready("app=shop", 2)
	h.WriteFile(manifestsDir+"/shop.yaml", helmChart("shop", ""))
	s.helmSays("shop", "Ready", "")
	s.ready("app=shop", 1)

	// A namespace goes with the charts and releases in it.
	closed := newSpace(t, h, "closed")
	closed.apply(strings.ReplaceAll(helmChart("shut", ""), "namespace: charts", "namespace: closed"))
	closed.helmSays("shut", "Ready", "")
	closed.kubectl("delete", "namespace", closed.ns, "--wait=false")

	// Killed while a Job of the chart runs.
	s.apply(helmChart("slow", ", set: {hook: 'true'}"))
	s.eventually("the Job of the chart", func() error {
		if pods := s.pods("batch.kubernetes.io/job-name=slow-before"); len(pods) != 1 || pods[0].Status.Phase != "Running" {
			return fmt.Errorf("%d pods", len(pods))
		}
		return nil
	})
	contains(t, "the release", s.kubectl("get", "secret", "-l", "owner=helm,name=slow", "-o", "jsonpath={.items[*].metadata.labels.status}"), "pending-install")
	h.Kill9()
	h.WriteFile("/var/lib/gate/open", "")
	h.Start()
	h.WaitReady()
	s.helmSays("slow", "Ready", "Helm says")
	s.ready("app=slow", 1)

	// Gone: one with its file, the other by hand.
	if err := os.Remove(h.Path(manifestsDir + "/shop.yaml")); err != nil {
		t.Fatal(err)
	}
	s.kubectl("delete", "helmchart", "slow", "--timeout=30s")
	s.ready("", 0)
	s.eventually("the end of both releases", func() error {
		if left := s.kubectl("get", "helmchart,secret,deploy", "-o", "name"); left != "" {
			return fmt.Errorf("left: %s", left)
		}
		return nil
	})
	contains(t, "events", s.kubectl("get", "events", "-o", "jsonpath={.items[*].reason}"), "Installed", "Upgraded", "Uninstalled", "RefusedByAPI")
	s.eventually("the end of the closed namespace", func() error {
		if r := s.Exec("skiff", "kubectl", "get", "namespace", closed.ns); r.Code == 0 {
			return fmt.Errorf("%s", r)
		}
		return nil
	})
	s.withoutHelm()
}

// withoutHelm disables the part: its kinds go, and come back with it.
func (s *space) withoutHelm() {
	s.t.Helper()
	kinds := func() string {
		return s.kubectl("get", "crd", "-o", "name")
	}
	contains(s.t, "kinds", kinds(), "helmcharts.helm.cattle.io", "helmchartconfigs.helm.cattle.io")
	s.Stop()
	s.StartServer("--disable", "helm-controller")
	s.WaitReady()
	s.eventually("the end of the kinds", func() error {
		if all := kinds(); strings.Contains(all, "helm.cattle.io") {
			return fmt.Errorf("there are %s", all)
		}
		return nil
	})
	s.Stop()
	s.StartServer()
	s.WaitReady()
	s.eventually("a chart to be installed again", func() error {
		r := s.ExecWith(hosts.Command{Args: []string{"skiff", "kubectl", "apply", "-f", "-"}, Stdin: strings.NewReader(helmChart("again", ""))})
		if r.Code != 0 {
			return fmt.Errorf("%s", r)
		}
		return nil
	})
	s.helmSays("again", "Ready", "")
}

// helmSays waits for a condition of a HelmChart whose words are in its message.
func (s *space) helmSays(name, condition, words string) {
	s.t.Helper()
	s.eventually(fmt.Sprintf("HelmChart %s to be %s", name, condition), func() error {
		path := fmt.Sprintf(`jsonpath={.metadata.generation}{range .status.conditions[?(@.type==%q)]} {.status} {.reason}: {.message}{end}`, condition)
		r := s.Exec("skiff", "kubectl", "-n", s.ns, "get", "helmchart", name, "-o", path)
		_, said, _ := strings.Cut(r.Stdout, " ")
		if r.Code != 0 || !strings.HasPrefix(said, "True ") || !strings.Contains(said, words) {
			return fmt.Errorf("%s", r)
		}
		return nil
	})
}
