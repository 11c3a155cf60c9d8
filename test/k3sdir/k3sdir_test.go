package k3sdir_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"skiff/pkg/config"
	"skiff/pkg/datastore/repair"
	"skiff/pkg/k3s"
	"skiff/pkg/paths"
	"skiff/test/k3sdir"
)

// sums are the checksums of all files below a directory.
func sums(t *testing.T, root string) map[string]string {
	t.Helper()
	out := make(map[string]string)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		out[path] = fmt.Sprintf("%x", sha256.Sum256(data))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// machine is a K3s in a directory, and where skiff's files go.
func machine(t *testing.T) (k3s.Options, *k3sdir.Made) {
	t.Helper()
	root := t.TempDir()
	d := k3sdir.Dirs{Data: root + "/k3s", Etc: root + "/etc", Unit: root + "/units"}
	made, err := k3sdir.Make(t.Context(), d, "tool:1", "till")
	if err != nil {
		t.Fatal(err)
	}
	proc := root + "/proc"
	if err := os.MkdirAll(proc+"/1", 0o755); err != nil {
		t.Fatal(err)
	}
	return k3s.Options{
		From: k3s.Source{
			Data: d.Data, Config: d.Etc + "/k3s/config.yaml", Registries: d.Etc + "/k3s/registries.yaml", Password: d.Etc + "/node/password",
			Units: []string{d.Unit + "/k3s.service", d.Unit + "/k3s.service.env", d.Unit + "/absent"}, Run: "/run/k3s", Proc: proc,
		},
		To: paths.Layout{Data: root + "/skiff", Etc: root + "/etc-skiff", Run: root + "/run"},
	}, made
}

func keysOf(t *testing.T, database string) map[string]string {
	t.Helper()
	c, err := repair.Borrow(t.Context(), database, filepath.Join(t.TempDir(), "copy.db"))
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]string)
	if err := c.Each(t.Context(), func(key string, value []byte) error { out[key] = string(value); return nil }); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestMigrate(t *testing.T) {
	o, made := machine(t)
	before := sums(t, filepath.Dir(o.From.Data))
	dry := o
	dry.Dry = true
	tried, err := k3s.Migrate(t.Context(), dry, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, sums(t, filepath.Dir(o.From.Data))); diff != "" {
		t.Errorf("a dry run has changed files: -before +after\n%s", diff)
	}
	r, err := k3s.Migrate(t.Context(), o, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	after := sums(t, filepath.Dir(o.From.Data))
	for path, sum := range before {
		if after[path] != sum {
			t.Errorf("K3s' file %s was changed or removed", path)
		}
	}
	if diff := cmp.Diff(tried.Objects, r.Objects); diff != "" {
		t.Errorf("the dry run said something else: -dry +real\n%s", diff)
	}

	keys := keysOf(t, filepath.Join(o.To.ServerDB(), "state.db"))
	var names []string
	for key := range keys {
		names = append(names, strings.TrimPrefix(key, "/registry/"))
	}
	slices.Sort(names)
	want := []string{
		"apiextensions.k8s.io/customresourcedefinitions/middlewares.traefik.io", "configmaps/shop/note", "deployments/shop/web", "ingress/shop/web", "ipaddresses/10.43.7.7",
		"minions/till", "namespaces/shop", "persistentvolumeclaims/shop/data", "persistentvolumes/pvc-1", "secrets/shop/mine", "services/specs/shop/web", "traefik.io/middlewares/shop/strip",
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("keys -want +got:\n%s", diff)
	}
	if node := keys["/registry/minions/till"]; strings.Contains(node, "wrangler") || !strings.Contains(node, "mine.example/kept") || !strings.Contains(node, "k3s://till") {
		t.Errorf("the node: %q", node)
	}
	old := keysOf(t, filepath.Join(o.From.Data, "server", "db", "state.db"))
	if keys["/registry/deployments/shop/web"] != old["/registry/deployments/shop/web"] {
		t.Error("an object without finalizers is not as it was, byte by byte")
	}
	revision, err := repair.Revision(t.Context(), filepath.Join(o.To.ServerDB(), "state.db"))
	if err != nil || revision < 1_000_000 {
		t.Errorf("revision %d, %v; want that it has moved on", revision, err)
	}
	if token, err := os.ReadFile(o.To.Token()); err != nil || strings.TrimSpace(string(token)) != made.Token {
		t.Errorf("token %q, %v", token, err)
	}
	for _, name := range []string{"server-ca.key", "client-ca.crt", "request-header-ca.key", "service.key"} {
		a, errA := os.ReadFile(filepath.Join(o.From.Data, "server", "tls", name))
		b, errB := os.ReadFile(filepath.Join(o.To.ServerTLS(), name))
		if errA != nil || errB != nil || string(a) != string(b) {
			t.Errorf("%s: %v, %v", name, errA, errB)
		}
	}
	manifests, err := os.ReadDir(o.To.Manifests())
	if err != nil || len(manifests) != 2 || manifests[0].Name() != "site.yaml" || manifests[1].Name() != "traefik-ingress-class.yaml" {
		t.Errorf("manifests %v, %v", manifests, err)
	}
	charts, err := os.ReadDir(filepath.Join(o.To.Static(), "charts"))
	if err != nil || len(charts) != 1 || charts[0].Name() != "mine-1.0.0.tgz" {
		t.Errorf("charts %v, %v", charts, err)
	}
	checkConfig(t, o, r)
	checkAgain(t, o)
}

// checkConfig reads the configuration as skiff does.
func checkConfig(t *testing.T, o k3s.Options, r k3s.Report) {
	t.Helper()
	cfg, _, err := config.Load(config.RoleServer, config.Input{DefaultFile: o.To.ConfigFile()})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"shop=harbour", "shelf=top"}, cfg.Node.Labels); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"servicelb"}, cfg.Server.Disable); diff != "" { // Of the service: it replaces the file's.
		t.Error(diff)
	}
	if cfg.Server.WriteKubeconfigMode != "0640" || !cfg.Cluster.FlannelIPv6Masq || cfg.Node.Taints[0] != "a=b:PreferNoSchedule" || cfg.DataDir != o.To.Data || cfg.Join.Token != "" || cfg.Extra.APIServer[0] != "audit-log-maxage=3" {
		t.Errorf("configuration %+v", cfg)
	}
	text := strings.Join(r.Text(o), "\n")
	for _, part := range []string{
		"setting snapshotter", "skiff has no snapshotter stargz", "etcd-snapshot-retention", "see snapshot-interval", "HTTPS_PROXY", "k3s-uninstall.sh would delete it",
		"Traefik's own kinds (traefik.io/middlewares)", "objects left out: 6 of coredns", "objects: 12 come along", "IngressClass traefik is made anew",
	} {
		if !strings.Contains(text, part) {
			t.Errorf("the report does not say %q:\n%s", part, text)
		}
	}
	for file, want := range map[string]string{o.To.RegistriesFile(): "192.0.2.9", o.To.NodePassword(): k3sdir.Password} {
		data, err := os.ReadFile(file)
		info, serr := os.Stat(file)
		if err != nil || serr != nil || !strings.Contains(string(data), want) || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %q, %v, %v", file, data, err, info)
		}
	}
}

// checkAgain does it a second time.
func checkAgain(t *testing.T, o k3s.Options) {
	t.Helper()
	before := sums(t, o.To.Data)
	_, err := k3s.Migrate(t.Context(), o, time.Now())
	if exists, ok := errors.AsType[*k3s.ExistsError](err); !ok || !slices.Contains(exists.Paths, o.To.Server()) {
		t.Errorf("a second time: %v", err)
	}
	if diff := cmp.Diff(before, sums(t, o.To.Data)); diff != "" {
		t.Errorf("a refusal has changed files:\n%s", diff)
	}
	if err := os.WriteFile(o.To.ConfigFile(), []byte("debug: true\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	o.Force = true
	r, err := k3s.Migrate(t.Context(), o, time.Now())
	if err != nil || len(r.Aside) != 2 {
		t.Fatalf("with force: %v, aside %v", err, r.Aside)
	}
	for _, path := range r.Aside {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
}

// TestRefused says no where it has to, and changes nothing.
func TestRefused(t *testing.T) {
	process := func(o k3s.Options, comm, cmdline string) error {
		dir := filepath.Join(o.From.Proc, "77")
		return errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "comm"), []byte(comm+"\n"), 0o644),
			os.WriteFile(filepath.Join(dir, "cmdline"), []byte(strings.ReplaceAll(cmdline, " ", "\x00")), 0o644))
	}
	for _, c := range []struct {
		name    string
		prepare func(k3s.Options) error
		want    string
	}{
		{"runs", func(o k3s.Options) error { return process(o, "k3s-server", "/usr/local/bin/k3s server") }, "K3s runs (process 77)"},
		{"pods run", func(o k3s.Options) error {
			return process(o, "containerd-shim", "/var/lib/rancher/k3s/data/x/bin/containerd-shim-runc-v2 -address /run/k3s/containerd/containerd.sock")
		}, "pods of K3s still run (process 77)"},
		{"etcd", func(o k3s.Options) error { return os.MkdirAll(o.From.Data+"/server/db/etcd", 0o755) }, "K3s keeps its objects in etcd"},
		{"no authority", func(o k3s.Options) error { return os.Remove(o.From.Data + "/server/tls/client-ca.key") }, "take over the authority client-ca"},
		{"damaged", func(o k3s.Options) error {
			database := o.From.Data + "/server/db/state.db"
			return errors.Join(os.RemoveAll(database+"-wal"), os.WriteFile(database, []byte(strings.Repeat("x", 9000)), 0o600))
		}, "damaged"},
		{"nothing", func(o k3s.Options) error {
			return errors.Join(os.RemoveAll(o.From.Data), os.RemoveAll(filepath.Dir(o.From.Config)))
		}, "there is no K3s here"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o, _ := machine(t)
			if err := c.prepare(o); err != nil {
				t.Fatal(err)
			}
			_, err := k3s.Migrate(context.WithoutCancel(t.Context()), o, time.Now())
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if _, err := os.Stat(o.To.Server()); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("skiff's directory: %v", err)
			}
			if _, err := os.Stat(o.To.ConfigFile()); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("skiff's configuration: %v", err)
			}
		})
	}
}

// TestAgent takes over a machine that is an agent only.
func TestAgent(t *testing.T) {
	o, made := machine(t)
	if err := errors.Join(os.RemoveAll(o.From.Data+"/server"), os.WriteFile(o.From.Units[0], []byte("[Service]\nExecStart=/usr/local/bin/k3s agent --node-name=shelf\n"), 0o600),
		os.WriteFile(o.From.Units[1], []byte("K3S_URL=https://192.0.2.1:6443\nK3S_TOKEN="+made.Token+"\n"), 0o600), os.Remove(o.From.Config)); err != nil {
		t.Fatal(err)
	}
	r, err := k3s.Migrate(t.Context(), o, time.Now())
	if err != nil || r.Role != "agent" || r.Server {
		t.Fatalf("%+v, %v", r, err)
	}
	cfg, _, err := config.Load(config.RoleAgent, config.Input{DefaultFile: o.To.ConfigFile()})
	if err != nil || cfg.Agent.Server != "https://192.0.2.1:6443" || cfg.Join.Token != made.Token || cfg.Node.Name != "shelf" {
		t.Errorf("%+v, %v", cfg, err)
	}
}
