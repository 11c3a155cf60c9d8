package k3s

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"skiff/pkg/config"
)

// TestSettings reads files, variables and arguments, and says what becomes of
// each setting.
func TestSettings(t *testing.T) {
	for _, c := range []struct {
		name, file, unit, want string
		left                   []string // parts of what is said on what is left out
	}{
		{"nothing", "", "", "", nil},
		{"same", "cluster-cidr: 10.1.0.0/16\ntls-san: [a, b]\ndebug: true\n", "", "cluster-cidr: [10.1.0.0/16]; debug: true; tls-san: [a, b]", nil},
		{"service wins", "node-name: a\n", "ExecStart=/usr/local/bin/k3s server --node-name b\n", "node-name: b", nil},
		{"letters and repetitions", "", "ExecStart=/usr/local/bin/k3s server --tls-san=a --tls-san b -t geheim-0123456 --debug --disable traefik\n", "debug: true; disable: [traefik]; tls-san: [a, b]; token: geheim-0123456", nil},
		{"variables", "", "K3S_NODE_NAME=x\nK3S_KUBECONFIG_MODE=644\nexport K3S_RESOLV_CONF=\"/etc/other\"\n", "node-name: x; resolv-conf: /etc/other; write-kubeconfig-mode: 644", nil},
		{"manifests by name", "disable: [traefik, mine]\ndisable-network-policy: true\n", "", "disable: [traefik, mine.yaml, network-policy]", nil},
		{"switched off", "disable-network-policy: false\ncluster-init: false\n", "", "", nil},
		{"kernel", "protect-kernel-defaults: true\nkubelet-arg: [v=3]\n", "", "kubelet-arg: [v=3, protect-kernel-defaults=true]", nil},
		{"no counterpart", "cluster-init: true\netcd-s3: true\nsystem-default-registry: r.example\nunheard-of: 5\n", "", "", []string{
			"cluster-init: skiff has no embedded etcd", "etcd-s3: skiff makes snapshots by itself", "system-default-registry: name the registry as a mirror", "unheard-of: skiff has no such setting",
		}},
		{"values we do not take", "flannel-backend: ipsec\nsnapshotter: stargz\nhttps-listen-port: 99999999\nnode-ip: nonsense\n", "", "https-listen-port: 99999999", []string{
			"flannel-backend: skiff has no flannel-backend ipsec", "snapshotter: skiff has no snapshotter stargz", "node-ip: skiff does not take it: ",
		}},
		{"old names", "kube-controller-arg: [v=1]\n", "", "kube-controller-manager-arg: [v=1]", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			s := Source{Data: dir, Config: filepath.Join(dir, "config.yaml"), Units: []string{filepath.Join(dir, "unit")}}
			for file, text := range map[string]string{s.Config: c.file, s.Units[0]: c.unit} {
				if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			g, err := s.settings()
			if err != nil {
				t.Fatal(err)
			}
			settings, report := g.translate(config.RoleServer)
			text, err := configFile(settings, "x")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, flat(string(text))); diff != "" {
				t.Errorf("-want +got:\n%s\n%s", diff, text)
			}
			var left []string
			for _, r := range report {
				if !r.Taken {
					left = append(left, r.Name+": "+r.Note)
				}
			}
			for _, part := range c.left {
				if !strings.Contains(strings.Join(left, "\n"), part) {
					t.Errorf("not said: %q in\n%s", part, strings.Join(left, "\n"))
				}
			}
			if len(left) != len(c.left) {
				t.Errorf("said of %d settings, want %d:\n%s", len(left), len(c.left), strings.Join(left, "\n"))
			}
		})
	}
}

// flat is a small YAML file in one line, in the order of the names.
func flat(text string) string {
	var keys []string
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		switch item, isItem := strings.CutPrefix(strings.TrimSpace(line), "- "); {
		case strings.HasPrefix(line, "#") || line == "":
		case isItem:
			last := keys[len(keys)-1]
			last = strings.TrimSuffix(last, "]")
			if !strings.Contains(last, "[") {
				last += " ["
			} else {
				last += ", "
			}
			keys[len(keys)-1] = last + strings.Trim(item, `"`) + "]"
		default:
			keys = append(keys, strings.ReplaceAll(line, `"`, ""))
		}
	}
	slices.Sort(keys)
	return strings.Join(keys, "; ")
}

func TestDropIns(t *testing.T) {
	dir := t.TempDir()
	s := Source{Data: dir, Config: filepath.Join(dir, "config.yaml")}
	for file, text := range map[string]string{
		"config.yaml": "node-label: [a=1]\ntls-san: [x]\n", "config.yaml.d/10.yaml": "node-label+: [b=2]\ntls-san: y\n", "config.yaml.d/20.yml": "node-label+: c=3\n", "config.yaml.d/30.txt": "debug: true\n",
	} {
		path := filepath.Join(dir, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	g, err := s.settings()
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]string{"node-label": {"a=1", "b=2", "c=3"}, "tls-san": {"y"}}
	if diff := cmp.Diff(want, g.values); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestRunning(t *testing.T) {
	for _, c := range []struct{ comm, cmdline, want string }{
		{"k3s-server", "/usr/local/bin/k3s server", "k3s"},
		{"k3s", "/usr/local/bin/k3s\x00agent", "k3s"},
		{"containerd-shim", "/x/containerd-shim-runc-v2\x00-address\x00/run/k3s/containerd/containerd.sock", "a pod"},
		{"containerd-shim", "/x/containerd-shim-runc-v2\x00-address\x00/run/skiff/containerd/containerd.sock", ""},
		{"bash", "bash\x00/usr/local/bin/k3s-killall.sh", ""},
		{"skiff", "skiff\x00migrate-k3s", ""},
	} {
		if got := running(c.comm, c.cmdline, "/run/k3s"); got != c.want {
			t.Errorf("%s %q: %q, want %q", c.comm, c.cmdline, got, c.want)
		}
	}
}
