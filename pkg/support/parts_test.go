package support

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"skiff/pkg/paths"
)

// machine is a directory with the files of a server, and the secrets in them.
func machine(t *testing.T) (o Options, secrets []string) {
	t.Helper()
	dir := t.TempDir()
	o = Options{Paths: paths.Layout{Data: dir + "/data", Etc: dir + "/etc", Run: dir + "/run"}, PID: os.Getpid()}
	o.ConfigFile, o.Registries = o.Paths.ConfigFile(), o.Paths.RegistriesFile()
	o.Units = []string{dir + "/units/skiff*"}
	pin := strings.Repeat("ab", 32)
	for file, content := range map[string]string{
		o.Paths.Token():        "K10" + pin + "::server:secret-of-the-server\n",
		o.Paths.NodeToken():    "K10" + pin + "::node:secret-of-agents\n",
		o.Paths.NodePassword(): "secret-of-the-node\n",
		o.ConfigFile: "# token: secret-in-a-comment\ntoken: secret-in-config\ndatastore-endpoint: postgres://u:secret-of-db@h/d\n" +
			"node-label: [a=b]\nkubelet-arg: [v=2]\n",
		o.ConfigFile + ".d/10-more.yaml": "agent-token: |\n  secret-in-drop-in\n",
		o.ConfigFile + ".d/20-bad.yaml":  "token: secret-in-no-yaml\n\t- [\n",
		o.Registries: "mirrors:\n  docker.io:\n    endpoint: [\"https://u:secret-of-mirror@r.example\"]\nconfigs:\n  r.example:\n    auth:\n      username: shop\n      password: secret-of-registry\n" +
			"  s.example:\n    auth: {auth: " + base64.StdEncoding.EncodeToString([]byte("shop:secret-in-base64")) + "}\n    tls: {ca_file: /some/ca.pem}\n",
		dir + "/units/skiff.service":     "[Service]\nEnvironment=SKIFF_TOKEN=secret-in-unit\nExecStart=/usr/local/bin/skiff server\n",
		dir + "/units/skiff.service.env": "SKIFF_TOKEN='secret-in-environment'\nHTTP_PROXY=http://u:secret-of-proxy@p\nAWS_SECRET_ACCESS_KEY=secret-of-aws\nSKIFF_DEBUG=true\nOTHER=unknown-purpose\n",
	} {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return o, []string{
		"secret-of-the-server", "secret-of-agents", "secret-of-the-node", "secret-in-config", "secret-of-db", "secret-in-drop-in", "secret-in-no-yaml",
		"secret-of-mirror", "secret-of-registry", "secret-in-base64", base64.StdEncoding.EncodeToString([]byte("shop:secret-in-base64")), "secret-in-unit", "secret-in-environment", "secret-of-proxy", "secret-of-aws", "unknown-purpose",
	}
}

// pack packs the parts and returns the files by name.
func pack(t *testing.T, o Options) map[string]string {
	t.Helper()
	var b bytes.Buffer
	if _, err := Bundle(t.Context(), &b, "x", "", DefaultLimit, o); err != nil {
		t.Fatal(err)
	}
	return unpack(t, b.Bytes())
}

// TestNoSecrets looks for every secret of a machine in all of its archive, also
// where a log repeats them.
func TestNoSecrets(t *testing.T) {
	o, secrets := machine(t)
	o.LogFile = filepath.Join(o.Paths.Data, "skiff.log")
	var log strings.Builder
	for _, s := range secrets {
		if s != "secret-in-no-yaml" && s != "unknown-purpose" { // What nobody can know.
			log.WriteString("time level said " + s + " to everybody\n")
		}
	}
	if err := os.WriteFile(o.LogFile, []byte(log.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	files := pack(t, o)
	for name, content := range files {
		for _, s := range append(secrets, "secret-in-a-comment") {
			if strings.Contains(content, s) {
				t.Errorf("%s has %q", name, s)
			}
		}
	}
	for name, want := range map[string][]string{
		"x/index.txt":                         {"skiff/status.txt", "(incomplete: skiff is not running", "config/config.yaml.d/20-bad.yaml (incomplete: ", "is not shown: it is no YAML"},
		"x/config/config.yaml":                {"token: [redacted]", "postgres://u:[redacted]@h/d", "node-label: [a=b]"},
		"x/config/registries.yaml":            {"https://u:[redacted]@r.example", "password: [redacted]", "ca_file: /some/ca.pem"},
		"x/config/units.txt":                  {"ExecStart=/usr/local/bin/skiff server", "SKIFF_DEBUG=true", "HTTP_PROXY=http://u:[redacted]@p", "OTHER=[redacted]"},
		"x/logs/skiff.log":                    {"time level said [redacted] to everybody"},
		"x/host/kernel.txt":                   {"Linux version"},
		"x/host/mounts.txt":                   {" / "},
		"x/host/space.txt":                    {"free", o.Paths.Server()},
		"x/host/processes.txt":                {"support.test"},
		"x/network/interfaces.txt":            {"link 1 lo", "address 127.0.0.1/8"},
		"x/skiff/process.txt":                 {"VmRSS"},
		"x/config/config.yaml.d/10-more.yaml": {"agent-token: [redacted]"},
	} {
		for _, text := range want {
			if !strings.Contains(files[name], text) {
				t.Errorf("%s does not have %q:\n%.2000s", name, text, files[name])
			}
		}
	}
}

// TestClusterSecrets learns what Secrets have, from an API of the test, and
// takes it out of everything.
func TestClusterSecrets(t *testing.T) {
	b64 := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	answers := map[string]string{
		"/version": "{}",
		"/api/v1/secrets": `{"items":[{"type":"Opaque","data":{"key":"` + b64("till-key-99") + `","username":"` + b64("shopkeeper") + `"}},
			{"type":"Opaque","data":{"file":"` + b64("a: b\nrandom-looking-line-4711\n") + `"}}]}`,
		"/api/v1/events": `{"items":[{"type":"Warning","reason":"Failed","lastTimestamp":"2026-01-02T00:00:00Z","message":"refused till-key-99 of shopkeeper","involvedObject":{"kind":"Pod","namespace":"a","name":"b"}},
			{"type":"Normal","reason":"First","eventTime":"2026-01-01T00:00:00Z","message":"m","count":3}]}`,
		"/api/v1/pods": `{"items":[{"metadata":{"namespace":"kube-system","name":"driver"},"spec":{"containers":[{"name":"c"}]}},
			{"metadata":{"namespace":"shop","name":"till"},"spec":{"containers":[{"name":"c","env":[{"name":"A","value":"plain-value"}]}]}}]}`,
		"/api/v1/namespaces/kube-system/pods/driver/log": "opened random-looking-line-4711\n",
		"/api/v1/namespaces/shop/pods/till/log":          "customer 5\n",
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, ok := answers[r.URL.Path]
		if !ok || r.URL.Query().Get("previous") == "true" {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write([]byte(text))
	}))
	defer server.Close()
	scrub := NewScrubber()
	for _, all := range []bool{false, true} {
		var b bytes.Buffer
		parts := (&api{url: server.URL, client: server.Client()}).parts(all, scrub)
		if _, err := Pack(t.Context(), &b, "x", "", DefaultLimit, scrub, parts); err != nil {
			t.Fatal(err)
		}
		files := unpack(t, b.Bytes())
		want := map[string]string{
			"x/cluster/events.txt": "2026-01-01T00:00:00Z Normal First //: m (3 times)\n2026-01-02T00:00:00Z Warning Failed a/Pod/b: refused [redacted] of shopkeeper (1 times)\n",
			"x/logs/pods.txt":      "# kube-system/driver c, previous false\nopened [redacted]\n\n# The logs of 1 pods outside kube-system are not here; `skiff bundle --pod-logs` takes them along.\n",
		}
		if all {
			want["x/logs/pods.txt"] = "# kube-system/driver c, previous false\nopened [redacted]\n\n# shop/till c, previous false\ncustomer 5\n\n"
		}
		for name, text := range want {
			if diff := cmp.Diff(text, files[name]); diff != "" {
				t.Errorf("%s -want +got:\n%s", name, diff)
			}
		}
		if pods := files["x/cluster/pods.json"]; strings.Contains(pods, "plain-value") || !strings.Contains(pods, `"till"`) {
			t.Errorf("pods.json: %s", pods)
		}
	}
}

// TestLearnsFirst has a log that repeats a Secret of the cluster: it is
// collected before anything of the cluster is.
func TestLearnsFirst(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/version":
			_, _ = w.Write([]byte("{}"))
		case "/api/v1/secrets":
			_, _ = w.Write([]byte(`{"items":[{"type":"Opaque","data":{"key":"` + base64.StdEncoding.EncodeToString([]byte("till-key-99")) + `"}}]}`))
		default:
			http.NotFound(w, r)
		}
	}))
	defer server.Close()
	o, _ := machine(t)
	o.LogFile = filepath.Join(o.Paths.Data, "skiff.log")
	if err := os.WriteFile(o.LogFile, []byte("said till-key-99\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := bundle(t.Context(), &b, "x", "", DefaultLimit, o, &api{url: server.URL, client: server.Client()}); err != nil {
		t.Fatal(err)
	}
	if got := unpack(t, b.Bytes())["x/logs/skiff.log"]; got != "said [redacted]\n" {
		t.Errorf("the log says %q", got)
	}
}

func TestPrune(t *testing.T) {
	const in = `{"metadata":{"name":"a","managedFields":[1],"annotations":{"kubectl.kubernetes.io/last-applied-configuration":"x","b":"c"}},
		"spec":{"values":{"x":"y"},"adminPassword":"p","secretName":"kept","secretKeyRef":{"name":"kept","key":"password"},"token":{"kept":true},
		"containers":[{"args":["--port","5","--db-password","p"],"env":[{"name":"A","value":"v"},{"name":"B","valueFrom":{"fieldRef":{"fieldPath":"kept"}}}]}]}}`
	const want = `{"metadata":{"name":"a","annotations":{"b":"c"}},
		"spec":{"values":"[redacted]","adminPassword":"[redacted]","secretName":"kept","secretKeyRef":{"name":"kept","key":"password"},"token":{"kept":true},
		"containers":[{"args":["--port","5","--db-password","[redacted]"],"env":[{"name":"A","value":"[redacted]"},{"name":"B","valueFrom":{"fieldRef":{"fieldPath":"kept"}}}]}]}}`
	var got, expected map[string]any
	for text, to := range map[string]*map[string]any{in: &got, want: &expected} {
		if err := json.Unmarshal([]byte(text), to); err != nil {
			t.Fatal(err)
		}
	}
	prune(got)
	if diff := cmp.Diff(expected, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestArguments(t *testing.T) {
	args := []string{"skiff", "server", "--token", "geheim", "-t", "geheim", "--agent-token=geheim", "--debug", "--datastore-endpoint", "mysql://u:geheim@tcp(h)/d"}
	var b bytes.Buffer
	if err := writeArguments(&b, strings.Join(args, "\x00")+"\x00"); err != nil {
		t.Fatal(err)
	}
	if secrets := argumentSecrets(args); !slices.Contains(secrets, "geheim") {
		t.Errorf("secrets %q", secrets)
	}
	if diff := cmp.Diff("skiff\nserver\n--token\n[redacted]\n-t\n[redacted]\n--agent-token=[redacted]\n--debug\n--datastore-endpoint\nmysql://u:geheim@tcp(h)/d\n", b.String()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
