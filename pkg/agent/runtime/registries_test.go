package runtime

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/pelletier/go-toml/v2"

	"skiff/pkg/paths"
)

func writeRegistries(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "registries.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestHosts(t *testing.T) {
	ca := writeRegistries(t, "")
	tests := []struct {
		name, text string
		noDefault  bool
		want       map[string]string // file → content
	}{
		{name: "nothing", text: "", want: map[string]string{}},
		{
			name: "mirrors in their order, before the registry itself",
			text: "mirrors:\n  docker.io:\n    endpoint: [\"https://b.example\", \"a.example:5000\"]\n",
			want: map[string]string{"docker.io/hosts.toml": `server = 'https://registry-1.docker.io'

[host."https://b.example"]
capabilities = ['pull', 'resolve']

[host."https://a.example:5000"]
capabilities = ['pull', 'resolve']
`},
		},
		{
			name: "rewrite is a path before every name",
			text: "mirrors:\n  registry.k8s.io:\n    endpoint: [\"http://m.example\"]\n    rewrite:\n      \"^(.*)$\": \"proxy/k8s/$1\"\n",
			want: map[string]string{"registry.k8s.io/hosts.toml": `server = 'https://registry.k8s.io'

[host."http://m.example/v2/proxy/k8s"]
capabilities = ['pull', 'resolve']
override_path = true
`},
		},
		{
			name: "wildcard and TLS",
			text: "mirrors:\n  \"*\":\n    endpoint: [\"https://m.example\"]\nconfigs:\n  m.example:\n    tls: {ca_file: CA, cert_file: CA, key_file: CA, insecure_skip_verify: true}\n",
			want: map[string]string{
				"_default/hosts.toml": `
[host."https://m.example"]
ca = 'CA'
capabilities = ['pull', 'resolve']
client = [['CA', 'CA']]
skip_verify = true
`,
				"m.example/hosts.toml": `ca = 'CA'
client = [['CA', 'CA']]
server = 'https://m.example'
skip_verify = true
`,
			},
		},
		{
			name: "credentials, by user or as base64",
			text: "mirrors:\n  r.example:\n    endpoint: [\"http://m.example\"]\nconfigs:\n  docker.io: {auth: {username: u, password: p}}\n  m.example: {auth: {auth: dTpw}}\n  t.example: {auth: {token: x}}\n  127.0.0.1:5000: {auth: {username: u, password: p}}\n",
			want: map[string]string{
				"docker.io/hosts.toml":      "server = 'https://registry-1.docker.io'\n\n[header]\nAuthorization = 'Basic dTpw'\n",
				"r.example/hosts.toml":      "server = 'https://r.example'\n\n[host.\"http://m.example\"]\ncapabilities = ['pull', 'resolve']\n[host.\"http://m.example\".header]\nAuthorization = 'Basic dTpw'\n",
				"m.example/hosts.toml":      "server = 'https://m.example'\n\n[header]\nAuthorization = 'Basic dTpw'\n",
				"t.example/hosts.toml":      "server = 'https://t.example'\n",
				"127.0.0.1:5000/hosts.toml": "[header]\nAuthorization = 'Basic dTpw'\n",
			},
		},
		{
			name: "mirrors of all also for a registry with credentials",
			text: "mirrors:\n  \"*\": {endpoint: [\"http://m.example\"]}\nconfigs:\n  r.example: {auth: {auth: dTpw}}\n  m.example: {auth: {auth: dTpw}}\n",
			want: map[string]string{
				"_default/hosts.toml":  "\n[host.\"http://m.example\"]\ncapabilities = ['pull', 'resolve']\n[host.\"http://m.example\".header]\nAuthorization = 'Basic dTpw'\n",
				"m.example/hosts.toml": "server = 'https://m.example'\n\n[header]\nAuthorization = 'Basic dTpw'\n",
				"r.example/hosts.toml": "server = 'https://r.example'\n\n[header]\nAuthorization = 'Basic dTpw'\n\n[host.\"http://m.example\"]\ncapabilities = ['pull', 'resolve']\n[host.\"http://m.example\".header]\nAuthorization = 'Basic dTpw'\n",
			},
		},
		{
			name: "only mirrors", noDefault: true,
			text: "mirrors:\n  \"*\": {endpoint: [\"http://m.example\"]}\n  r.example: {endpoint: [\"http://m.example\"]}\n  without.example: {}\n",
			want: map[string]string{
				"_default/hosts.toml":        "capabilities = ['push']\nserver = 'http://m.example'\n\n[host.\"http://m.example\"]\ncapabilities = ['pull', 'resolve']\n",
				"r.example/hosts.toml":       "capabilities = ['push']\nserver = 'https://r.example'\n\n[host.\"http://m.example\"]\ncapabilities = ['pull', 'resolve']\n",
				"without.example/hosts.toml": "server = 'https://without.example'\n",
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, err := loadRegistries(writeRegistries(t, strings.ReplaceAll(tt.text, "CA", ca)))
			if err != nil {
				t.Fatal(err)
			}
			r.NoDefault = tt.noDefault
			dir := t.TempDir()
			// What an earlier file asked for must go.
			if err := os.MkdirAll(filepath.Join(dir, "old.example"), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := r.writeHosts(dir); err != nil {
				t.Fatal(err)
			}
			got := map[string]string{}
			files, _ := filepath.Glob(filepath.Join(dir, "*", "*"))
			for _, f := range files {
				data, err := os.ReadFile(f)
				if err != nil {
					t.Fatal(err)
				}
				name, _ := filepath.Rel(dir, f)
				got[name] = strings.ReplaceAll(string(data), ca, "CA")
				// containerd refuses a registry whose file it cannot parse.
				var any map[string]any
				if err := toml.Unmarshal(data, &any); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			if _, err := os.Stat(filepath.Join(dir, "old.example")); err == nil {
				t.Error("the directory of a registry that is gone is still there")
			}
		})
	}
}

func TestRegistriesRefused(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"unknown key", "mirors: {}\n", "mirors"},
		{"endpoint", "mirrors:\n  a:\n    endpoint: [\"ftp://x\"]\n", "mirrors.a.endpoint"},
		{"rewrite", "mirrors:\n  a:\n    endpoint: [x]\n    rewrite: {\"^library/(.*)$\": \"b/$1\"}\n", "mirrors.a.rewrite"},
		{"auth", "configs:\n  a:\n    auth: {auth: \"***\"}\n", "line 3: configs.\"a\".auth: auth is not base64"},
		{"line of an unknown key", "mirrors:\n  a:\n    endpoints: [x]\n", `line 3: unknown key "endpoints", did you mean endpoint?`},
		{"line of a syntax error", "mirrors:\n  a: [\n", "line 2"},
		{"credentials for all", "configs:\n  \"*\":\n    auth: {username: u}\n", "line 3: configs.\"*\".auth: credentials"},
		{"a name with a path", "mirrors:\n  a/b: {endpoint: [x]}\n", "line 2: mirrors.a/b: invalid name"},
		{"no such file", "configs:\n  a:\n    tls: {ca_file: nowhere}\n", "line 3: configs.\"a\".tls: stat nowhere"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := loadRegistries(writeRegistries(t, tt.text))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error = %v, want one about %s", err, tt.want)
			}
		})
	}
}

func TestConfig(t *testing.T) {
	base := config{Layout: paths.Layout{Data: "/data", Etc: "/etc/x", Run: "/run/x"}, Snapshotter: "overlayfs", PauseImage: "pause:1"}
	tests := []struct {
		name   string
		change func(*config)
		want   []string // lines that must be there
		not    []string
	}{
		{"plain", func(*config) {}, []string{"oom_score = -999", "SystemdCgroup = false", "snapshotter = 'overlayfs'", "conf_dir = '/data/agent/etc/cni/net.d'", "sandbox = 'pause:1'"}, []string{"unpack_config", "configs"}},
		{"no CAP_SYS_RESOURCE", func(c *config) { c.RestrictOOM = true }, []string{"restrict_oom_score_adj = true"}, []string{"oom_score ="}},
		{"systemd", func(c *config) { c.SystemdCgroup = true }, []string{"SystemdCgroup = true"}, nil},
		{"native", func(c *config) { c.Snapshotter = "native" }, []string{"snapshotter = 'native'", "unpack_config"}, nil},
		{"user's network", func(c *config) { c.SystemCNI = true }, []string{"conf_dir = '" + paths.SystemCNIConf + "'"}, nil},
		{"identity token", func(c *config) { c.Tokens = map[string]string{"r.example": "t"} }, []string{"identitytoken = 't'"}, []string{"password"}},
		{"runtimes", func(c *config) {
			c.Runtimes = []handler{{Name: "crun", Type: runcShim, Binary: "/b/crun"}, {Name: "spin", Type: "io.containerd.spin.v2"}}
			c.DefaultRuntime = "crun"
		}, []string{"default_runtime_name = 'crun'", "BinaryName = '/b/crun'", "runtime_type = 'io.containerd.spin.v2'", "BinaryName = '/data/bin/runc'"}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := base
			tt.change(&c)
			data, err := c.marshal()
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range tt.want {
				if !strings.Contains(string(data), want) {
					t.Errorf("no %q in\n%s", want, data)
				}
			}
			for _, not := range tt.not {
				if strings.Contains(string(data), not) {
					t.Errorf("%q in\n%s", not, data)
				}
			}
		})
	}
}

func TestParseLog(t *testing.T) {
	tests := []struct{ line, level, msg, attrs string }{
		{`time="2026-11-21T00:49:48Z" level=error msg="broken \"thing\"" error="no such file" id=7`, "ERROR", `broken "thing"`, "error=no such file id=7"},
		{`time="x" level=info msg="loading plugin" id=a`, "DEBUG", "loading plugin", "id=a"},
		{`panic: runtime error`, "INFO", `panic: runtime error`, ""},
		{`time="unterminated level=info`, "INFO", `time="unterminated level=info`, ""},
	}
	for _, tt := range tests {
		level, msg, attrs := parseLog(tt.line)
		var list []string
		for _, a := range attrs {
			list = append(list, a.String())
		}
		got := []string{level.String(), msg, strings.Join(list, " ")}
		if diff := cmp.Diff([]string{tt.level, tt.msg, tt.attrs}, got); diff != "" {
			t.Errorf("%s: -want +got\n%s", tt.line, diff)
		}
	}
}

func TestEnviron(t *testing.T) {
	r := &Runtime{Layout: paths.Layout{Data: "/data"}, Path: "/usr/bin"}
	got := r.environ([]string{"PATH=/wrong", "HOME=/root", "GOGC=off", "NOTIFY_SOCKET=/s", "CONTAINERD_HTTPS_PROXY=p", "HTTPS_PROXY=q"})
	want := []string{"CONTAINERD_HTTPS_PROXY=p", "GOGC=50", "HOME=/root", "HTTPS_PROXY=p", "PATH=/data/bin:/usr/bin"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestFindRuntimes(t *testing.T) {
	own, a, b := t.TempDir(), t.TempDir(), t.TempDir()
	for _, file := range []string{own + "/crun", a + "/crun", b + "/crun", b + "/runc", b + "/containerd-shim-runc-v2", b + "/containerd-shim-spin-v2", b + "/containerd-shim-kata-v2", a + "/nvidia-container-runtime"} {
		if err := os.WriteFile(file, nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(a+"/youki", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	got := findRuntimes(own, strings.Join([]string{own, a, "", b}, ":"))
	want := []handler{
		{"crun", runcShim, a + "/crun", true},
		{"kata", "io.containerd.kata.v2", "", false},
		{"nvidia", runcShim, a + "/nvidia-container-runtime", false},
		{"spin", "io.containerd.spin.v2", "", false},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	for asked, want := range map[string]string{"": "runc", "runc": "runc", "spin": "spin", "youki": ""} {
		if name, err := chooseRuntime(asked, got); name != want || (err == nil) != (want != "") {
			t.Errorf("chooseRuntime(%q) = %q, %v, want %q", asked, name, err, want)
		}
	}
}

func TestCheckFeatures(t *testing.T) {
	for name, tt := range map[string]struct {
		script string
		want   string // "" is no error
	}{
		"good":      {`[ "$1" = features ] && echo '{"ociVersionMin":"1.0.0","ociVersionMax":"1.2.0"}'`, ""},
		"old":       {"echo unknown command >&2; exit 1", "too old"},
		"other":     {"echo features", "no JSON"},
		"no answer": {"echo {}", "names no version"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "crun")
			if err := os.WriteFile(file, []byte("#!/bin/sh\n"+tt.script+"\n"), 0o755); err != nil {
				t.Fatal(err)
			}
			err := checkFeatures(t.Context(), handler{Name: "crun", Binary: file, Asked: true})
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error = %v, want one that says %q", err, tt.want)
			}
			if err := checkFeatures(t.Context(), handler{Name: "nvidia", Binary: file}); err != nil {
				t.Errorf("asked without need: %v", err)
			}
		})
	}
}
