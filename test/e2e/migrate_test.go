package e2e

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/test/hosts"
	"skiff/test/images"
	"skiff/test/k3sdir"
)

// TestMigrateK3s starts skiff where K3s has been, and then asks for what
// somebody needs who helps.
func TestMigrateK3s(t *testing.T) {
	t.Parallel()
	network := hosts.NewNetwork(t)
	h := newHost(t, hosts.Named("till"), hosts.On(network))
	made, err := k3sdir.Make(t.Context(), k3sdir.Dirs{
		Data: h.Path("/var/lib/rancher/k3s"), Etc: h.Path("/etc/rancher"), Unit: h.Path("/etc/systemd/system"),
	}, images.Tool, "till")
	if err != nil {
		t.Fatal(err)
	}
	contains(t, "dry run", h.Run("skiff", "migrate-k3s", "--dry-run"), "would be taken over", "objects: 12 come along")
	if _, err := os.Stat(h.Path("/etc/skiff/config.yaml")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a dry run has written the configuration: %v", err)
	}
	contains(t, "migration", h.Run("skiff", "migrate-k3s"), "objects: 12 come along", "written: /var/lib/skiff/server", "Next: start skiff server")
	oneError(t, h.Exec("skiff", "migrate-k3s"), "with --force")

	h.StartServer()
	h.WaitReady()
	s := newSpace(t, h, "shop")
	pod := s.ready("app=web", 1)[0]
	contains(t, "the volume", s.in(pod.Name, "cat", "/data/note"), "written under k3s")
	s.eventually("the NodePort of before", func() error { return answersOK(network, "http://"+h.Addr()+":30080/") })
	h.WriteFile("/tmp/k3s.yaml", made.Kubeconfig)
	contains(t, "the object, with K3s' kubeconfig", h.Run("skiff", "kubectl", "--kubeconfig", "/tmp/k3s.yaml", "-n", "shop", "get", "configmap", "note", "-o", "yaml"), "text: remember")
	contains(t, "the Service", s.kubectl("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"), "10.43.7.7")
	contains(t, "the token", h.ReadFile("/var/lib/skiff/server/token"), made.Token)
	s.eventually("the manifest", func() error {
		_, err := s.kube.CoreV1().ConfigMaps("shop").Get(t.Context(), "site", metav1.GetOptions{})
		return err
	})
	class, err := s.kube.NetworkingV1().IngressClasses().Get(t.Context(), "traefik", metav1.GetOptions{})
	if err != nil || class.Spec.Controller != "skiff.dev/ingress" {
		t.Errorf("IngressClass traefik: %v, %v", class, err)
	}
	node, err := s.kube.CoreV1().Nodes().Get(t.Context(), "till", metav1.GetOptions{})
	if err != nil || node.Labels["mine"] != "kept" || node.Spec.PodCIDR != "10.42.0.0/24" {
		t.Errorf("node: %v, %v", node, err)
	}
	left, err := s.kube.CoreV1().Pods("kube-system").List(t.Context(), metav1.ListOptions{})
	if err != nil || len(left.Items) != 0 {
		t.Errorf("pods of K3s: %v, %v", left.Items, err)
	}
	if t.Failed() {
		return
	}
	t.Run("bundle", func(t *testing.T) { bundle(t, s) })
	t.Run("watch", func(t *testing.T) { watchStatus(t, h.For(t)) })
}

// bundled packs a bundle with the arguments and returns what is in it.
func bundled(t *testing.T, h *hosts.Host, args ...string) map[string]string {
	t.Helper()
	begin := time.Now()
	dir, err := os.MkdirTemp(h.Path("/tmp"), "bundle")
	noError(t, err)
	h.Run(append([]string{"skiff", "bundle", "-o", "/tmp/" + filepath.Base(dir)}, args...)...)
	if took := time.Since(begin); took > 75*time.Second {
		t.Errorf("skiff bundle took %s", took)
	}
	found, _ := filepath.Glob(filepath.Join(dir, "skiff-bundle-*.tar.gz"))
	if len(found) != 1 {
		t.Fatalf("bundles in %s: %v, want one", dir, found)
	}
	info, err := os.Stat(found[0])
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the bundle: %v, %v, want mode 0600", info, err)
	}
	packed, err := os.Open(found[0])
	noError(t, err)
	defer packed.Close()
	zip, err := gzip.NewReader(packed)
	noError(t, err)
	files := make(map[string]string)
	size := 0
	for r := tar.NewReader(zip); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		_, name, _ := strings.Cut(header.Name, "/")
		files[name] = string(content)
		size += len(content)
	}
	if size > 20<<20 {
		t.Errorf("%d bytes are packed", size)
	}
	t.Logf("%d files, %d bytes, packed %d, in %s", len(files), size, info.Size(), time.Since(begin).Round(time.Millisecond))
	return files
}

// hostSecrets are all secrets that the node has in its files.
func hostSecrets(t *testing.T, h *hosts.Host) []string {
	t.Helper()
	out := []string{k3sdir.Secret, k3sdir.Password, "secret-of-the-shop-4711", "secret-in-a-variable"}
	for _, dir := range []string{"/var/lib/skiff/server/tls", "/var/lib/skiff/agent/tls"} {
		entries, err := os.ReadDir(h.Path(dir))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if strings.HasSuffix(e.Name(), ".key") {
				// A line from the middle of the key.
				lines := strings.Split(strings.TrimSpace(h.ReadFile(dir+"/"+e.Name())), "\n")
				out = append(out, lines[len(lines)/2])
			}
		}
	}
	if len(out) < 10 {
		t.Fatalf("only %d secrets were found", len(out))
	}
	return out
}

// bundle packs while skiff runs, hangs and is dead, and looks for secrets.
func bundle(t *testing.T, s *space) {
	s.kubectl("create", "secret", "generic", "card", "--from-literal=key=secret-of-the-shop-4711")
	s.apply(`
apiVersion: v1
kind: Pod
metadata: {name: talks}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: IMAGE, imagePullPolicy: Never, command: [sleep, "86400"], env: [{name: CODE, value: secret-in-a-variable}]}]
`)
	s.kubectl("annotate", "pod", "talks", "said=secret-of-the-shop-4711")
	h := s.For(t)
	secrets := hostSecrets(t, h)
	check := func(t *testing.T, files map[string]string, want map[string][]string) {
		t.Helper()
		for name, content := range files {
			for _, secret := range secrets {
				if strings.Contains(content, secret) {
					t.Errorf("%s has the secret %.12s…", name, secret)
				}
			}
		}
		for name, parts := range want {
			contains(t, name+" of\n"+files["index.txt"], files[name], parts...)
		}
	}
	always := map[string][]string{
		"config/config.yaml":     {"shelf=top"},
		"config/registries.yaml": {"192.0.2.9"},
		"network/interfaces.txt": {"link 1 lo", h.Addr()},
		"network/nft.txt":        {"table ip"},
		"skiff/doctor.json":      {"findings"},
		"skiff/certificates.txt": {"server-ca.crt", "until"},
		"host/space.txt":         {"/var/lib/skiff/server"},
		"host/sysctl.txt":        {"ip_forward"},
		"host/mounts.txt":        {"/var/lib"},
	}
	t.Run("running", func(t *testing.T) {
		files := bundled(t, h)
		check(t, files, always)
		check(t, files, map[string][]string{
			"index.txt":              {"skiff bundle of till"},
			"skiff/status.txt":       {"kube-apiserver", "till  "},
			"skiff/goroutines.txt":   {"goroutine"},
			"logs/recent.txt":        {"starting skiff"},
			"cluster/tables.txt":     {"talks", "till"},
			"cluster/events.txt":     {"shop/Pod/"},
			"cluster/pods.json":      {`"value": "[redacted]"`, `"talks"`},
			"skiff/command-line.txt": {"server"},
			"config/effective.txt":   {"node-label"},
			"skiff/process.txt":      {"VmRSS"},
			"skiff/version.txt":      {"kubernetes"},
		})
		if len(files["skiff/heap.pprof"]) == 0 {
			t.Error("there is no heap profile")
		}
	})
	t.Run("hanging", func(t *testing.T) {
		h.Skiff().Signal(syscall.SIGSTOP)
		defer h.Skiff().Signal(syscall.SIGCONT)
		files := bundled(t, h)
		check(t, files, always)
		contains(t, "the index", files["index.txt"], "does not answer")
	})
	t.Run("dead", func(t *testing.T) {
		h.Kill9()
		files := bundled(t, h)
		check(t, files, always)
		contains(t, "the index", files["index.txt"], "skiff is not running")
		h.Start()
		h.WaitReady()
	})
}

// watchStatus follows the status over a restart, without a terminal and with
// one.
func watchStatus(t *testing.T, h *hosts.Host) {
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	watch := h.Spawn(hosts.Command{Args: []string{"skiff", "status", "--watch"}, Stdout: out, Stderr: out})
	said := func() string {
		text, err := os.ReadFile(out.Name())
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	says := func(text string) {
		t.Helper()
		hosts.Eventually(t, patience, fmt.Sprintf("%q in the watched status", text), func() error {
			if s := said(); !strings.Contains(s, text) {
				return fmt.Errorf("it says\n%s", s)
			}
			return nil
		})
	}
	says("NODE")
	h.Stop()
	says("skiff is not running")
	h.Start()
	says("component kube-apiserver: ready")
	h.WaitReady()
	says(" ready\n")
	watch.Signal(syscall.SIGINT)
	if code := watch.Wait(); code != 0 {
		t.Errorf("after Ctrl-C: exit code %d", code)
	}
	if strings.Contains(said(), "\x1b") {
		t.Error("escape sequences are written to what is no terminal")
	}
	if r := h.Exec("skiff", "status", "--watch", "--wait", "5s"); r.Code != 0 {
		t.Errorf("--watch --wait of what is ready: %s", r)
	}
	// script(1) gives the command a terminal.
	terminal := h.Run("script", "-qec", "TERM=xterm skiff status --watch --wait 5s", "/dev/null")
	contains(t, "on a terminal", terminal, "\x1b[?1049h", "\x1b[32mready", "\x1b[?1049l")
	plain := h.Run("script", "-qec", "NO_COLOR=1 TERM=xterm skiff status", "/dev/null")
	if strings.Contains(plain, "\x1b[3") {
		t.Errorf("colours in spite of NO_COLOR: %q", plain)
	}
	var report struct {
		Nodes []struct{ Name, State string }
	}
	if err := json.Unmarshal([]byte(h.Status("-o", "json").Stdout), &report); err != nil || len(report.Nodes) != 1 || report.Nodes[0].Name != "till" {
		t.Errorf("nodes: %+v, %v", report, err)
	}
}
