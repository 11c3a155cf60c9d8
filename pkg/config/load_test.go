package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// write makes the files below dir, by relative name.
func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLoadPrecedence(t *testing.T) {
	tests := []struct {
		name   string
		files  map[string]string
		env    []string
		flags  map[string][]string
		option string
		want   []string
		origin string
	}{
		{name: "default", option: "cluster-domain", want: []string{"cluster.local"}},
		{
			name: "file over default", option: "cluster-domain",
			files: map[string]string{"config.yaml": "cluster-domain: a.example\n"},
			want:  []string{"a.example"}, origin: "file DIR/config.yaml:1",
		},
		{
			name: "last drop-in over file", option: "cluster-domain",
			files: map[string]string{
				"config.yaml":           "cluster-domain: a.example\n",
				"config.yaml.d/20.yaml": "# why\ncluster-domain: c.example\n",
				"config.yaml.d/10.yml":  "cluster-domain: b.example\n",
				"config.yaml.d/30.txt":  "cluster-domain: d.example\n",
			},
			want: []string{"c.example"}, origin: "file DIR/config.yaml.d/20.yaml:2",
		},
		{
			name: "drop-ins without file", option: "cluster-domain",
			files: map[string]string{"config.yaml.d/a.yaml": "cluster-domain: a.example\n"},
			want:  []string{"a.example"}, origin: "file DIR/config.yaml.d/a.yaml:1",
		},
		{
			name: "environment over file", option: "cluster-domain",
			files: map[string]string{"config.yaml": "cluster-domain: a.example\n"},
			env:   []string{"SKIFF_CLUSTER_DOMAIN=e.example"},
			want:  []string{"e.example"}, origin: "environment SKIFF_CLUSTER_DOMAIN",
		},
		{
			name: "empty variable is unset", option: "cluster-domain",
			env:  []string{"SKIFF_CLUSTER_DOMAIN="},
			want: []string{"cluster.local"},
		},
		{
			name: "flag over environment", option: "cluster-domain",
			env:   []string{"SKIFF_CLUSTER_DOMAIN=e.example"},
			flags: map[string][]string{"cluster-domain": {"f.example"}},
			want:  []string{"f.example"}, origin: "flag --cluster-domain",
		},
		{
			name: "flags replace the whole list", option: "disable",
			files: map[string]string{"config.yaml": "disable: [coredns, metrics]\n"},
			flags: map[string][]string{"disable": {"ingress,servicelb", "x"}},
			want:  []string{"ingress", "servicelb", "x"}, origin: "flag --disable",
		},
		{
			name: "plus appends to a list", option: "node-label",
			files: map[string]string{
				"config.yaml":          "node-label:\n- a=1\n",
				"config.yaml.d/a.yaml": "node-label+: b=2\n",
				"config.yaml.d/b.yaml": "node-label+: [c=3]\n",
			},
			want:   []string{"a=1", "b=2", "c=3"},
			origin: "file DIR/config.yaml:1 + DIR/config.yaml.d/a.yaml:1 + DIR/config.yaml.d/b.yaml:1",
		},
		{
			name: "plus without anything before sets", option: "cluster-cidr",
			files: map[string]string{"config.yaml": "cluster-cidr+: 10.9.0.0/16\n"},
			want:  []string{"10.9.0.0/16"}, origin: "file DIR/config.yaml:1",
		},
		{
			name: "plus joins text with a comma", option: "pause-image",
			files: map[string]string{"config.yaml": "pause-image: a\n", "config.yaml.d/a.yaml": "pause-image+: b\n"},
			want:  []string{"a,b"}, origin: "file DIR/config.yaml:1 + DIR/config.yaml.d/a.yaml:1",
		},
		{
			name: "component arguments keep their commas", option: "kubelet-arg",
			files: map[string]string{"config.yaml": "kubelet-arg: [\"--feature-gates=A=true,B=false\", v=4]\n"},
			want:  []string{"feature-gates=A=true,B=false", "v=4"}, origin: "file DIR/config.yaml:1",
		},
		{
			name: "component arguments in the environment are separated by blanks", option: "kubelet-arg",
			env:  []string{"SKIFF_KUBELET_ARG=v=4 feature-gates=A=true,B=false"},
			want: []string{"v=4", "feature-gates=A=true,B=false"}, origin: "environment SKIFF_KUBELET_ARG",
		},
		{
			name: "hidden option in the environment", option: "cert-lifetime-days",
			env:  []string{"SKIFF_CERT_LIFETIME_DAYS=7"},
			want: []string{"7"}, origin: "environment SKIFF_CERT_LIFETIME_DAYS",
		},
		{
			name: "number, boolean, octal mode", option: "write-kubeconfig-mode",
			files: map[string]string{"config.yaml": "https-listen-port: 7443\ndebug: true\nwrite-kubeconfig-mode: 0644\n"},
			want:  []string{"0644"}, origin: "file DIR/config.yaml:3",
		},
		{
			name: "a key with nothing behind it is not set", option: "cluster-domain",
			files: map[string]string{"config.yaml": "cluster-domain:\n"},
			want:  []string{"cluster.local"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, tt.files)
			cfg, origins, err := Load(RoleServer, Input{Flags: tt.flags, Environ: tt.env, DefaultFile: filepath.Join(dir, "config.yaml")})
			if err != nil {
				t.Fatal(err)
			}
			for _, o := range Options() {
				if o.Name != tt.option {
					continue
				}
				if diff := cmp.Diff(tt.want, o.Bind(cfg).Get()); diff != "" {
					t.Errorf("value (-want +got):\n%s", diff)
				}
			}
			origin := ""
			if o, ok := origins[tt.option]; ok {
				origin = strings.ReplaceAll(o.String(), dir, "DIR")
			}
			if diff := cmp.Diff(tt.origin, origin); diff != "" {
				t.Errorf("origin (-want +got):\n%s", diff)
			}
		})
	}
}

// TestLoadErrors checks the text, since what a person reads is what these
// errors are for: all of them at once, each with its place.
func TestLoadErrors(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{
		"config.yaml": `clustre-cidr: 10.0.0.0/8
https-listen-port: abc
debug: maybe
tls-san: {a: b}
node-name: [a, b]
node-ip: [not-an-address]
cluster-domain: a
cluster-domain: b
config: x
https-listen-port+: 1
datastore-endpoint: postgres://u:geheim@h/db
`,
		"config.yaml.d/a.yaml": "- a\n",
		"config.yaml.d/b.yaml": "a: [\n",
		"config.yaml.d/c.yaml": "debug: true\n---\ndebug: false\n",
	})
	_, _, err := Load(RoleServer, Input{
		Environ:     []string{"SKIFF_DEBUG=perhaps", "SKIFF_NODE_NMAE=x", "SKIFF_PORT=tcp://10.43.0.9:80"},
		Flags:       map[string][]string{"bind-address": {"all"}},
		DefaultFile: filepath.Join(dir, "config.yaml"),
	})
	if err == nil {
		t.Fatal("no error")
	}
	want := []string{
		`DIR/config.yaml:1: unknown key "clustre-cidr"; did you mean cluster-cidr?`,
		`DIR/config.yaml:2: invalid https-listen-port "abc": want a whole number`,
		`DIR/config.yaml:3: invalid debug: want true or false, found "maybe"`,
		`DIR/config.yaml:4: invalid tls-san: want a list, found a mapping`,
		`DIR/config.yaml:5: invalid node-name: want one text, found a list`,
		`DIR/config.yaml:6: invalid node-ip "not-an-address": item "not-an-address": want an IP address like 192.0.2.10 or 2001:db8::10`,
		`DIR/config.yaml:8: cluster-domain is already set in line 7`,
		`DIR/config.yaml:9: unknown key "config"`,
		`DIR/config.yaml:10: invalid https-listen-port+: only lists and text can be added to; write the key without +`,
		`DIR/config.yaml.d/a.yaml:1: want lines of the form "key: value", found a list`,
		`parse DIR/config.yaml.d/b.yaml: yaml: line 1: did not find expected node content`,
		`parse DIR/config.yaml.d/c.yaml: line 2: a second document begins; a configuration file has only one`,
		`invalid environment variable SKIFF_DEBUG="perhaps": want true or false`,
		`unknown environment variable SKIFF_NODE_NMAE; did you mean SKIFF_NODE_NAME?`,
		`invalid --bind-address "all": want an IP address like 192.0.2.10 or 2001:db8::10`,
	}
	if diff := cmp.Diff(want, strings.Split(strings.ReplaceAll(err.Error(), dir, "DIR"), "\n")); diff != "" {
		t.Errorf("errors (-want +got):\n%s", diff)
	}
}

func TestLoadForAnotherRole(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.yaml")
	write(t, filepath.Dir(file), map[string]string{"config.yaml": "cluster-cidr: 10.9.0.0/16\nnode-name: a\n"})
	cfg, origins, err := Load(RoleAgent, Input{DefaultFile: file})
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Node.Name != "a" {
		t.Errorf("node-name = %q, want a", cfg.Node.Name)
	}
	if diff := cmp.Diff(Default().Cluster.PodCIDR[0].String(), cfg.Cluster.PodCIDR[0].String()); diff != "" {
		t.Errorf("cluster-cidr of a server reached an agent (-want +got):\n%s", diff)
	}
	if _, ok := origins["cluster-cidr"]; ok {
		t.Error("an ignored key has an origin")
	}
	write(t, filepath.Dir(file), map[string]string{"config.yaml": "cluster-cidr: wrong\n"})
	if _, _, err := Load(RoleAgent, Input{DefaultFile: file}); err == nil {
		t.Error("a wrong value of another role's key is no error")
	}
}

func TestLoadNamedFileMustExist(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing.yaml")
	for name, in := range map[string]Input{
		"flag":        {Flags: map[string][]string{ConfigFlag: {missing}}},
		"environment": {Environ: []string{"SKIFF_CONFIG_FILE=" + missing}},
	} {
		if _, _, err := Load(RoleServer, in); err == nil || !strings.Contains(err.Error(), missing) {
			t.Errorf("%s: error %v does not name the missing file", name, err)
		}
	}
	if _, _, err := Load(RoleServer, Input{DefaultFile: missing}); err != nil {
		t.Errorf("default file: %v", err)
	}
}

func TestSuggest(t *testing.T) {
	names := []string{"cluster-cidr", "cluster-dns", "service-cidr", "tls-san", "debug", "log"}
	for in, want := range map[string]string{
		"cluster-cdir": "cluster-cidr",
		"tls-sans":     "tls-san",
		"servicecidr":  "service-cidr",
		"deubg":        "debug",
		"etcd-s3":      "",
	} {
		if got := Suggest(in, names); got != want {
			t.Errorf("Suggest(%q) = %q, want %q", in, got, want)
		}
	}
}

// TestOptionTable checks what the rest of the package takes for granted.
func TestOptionTable(t *testing.T) {
	seen := map[string]bool{}
	for _, o := range Options() {
		for _, name := range append([]string{o.Name, o.Env}, o.Aliases...) {
			if seen[name] {
				t.Errorf("%s is used twice", name)
			}
			seen[name] = true
		}
		if o.Usage == "" || strings.HasSuffix(o.Usage, ".") || o.Roles == 0 {
			t.Errorf("%s: incomplete or badly written entry", o.Name)
		}
		// Setting the default again must change nothing.
		cfg := Default()
		v := o.Bind(cfg)
		before := v.Get()
		if len(before) > 0 {
			if err := v.Set(before); err != nil {
				t.Errorf("%s: default is refused: %v", o.Name, err)
			}
		}
		if diff := cmp.Diff(before, v.Get()); diff != "" {
			t.Errorf("%s: (-before +after)\n%s", o.Name, diff)
		}
	}
}
