package e2e

import (
	"encoding/pem"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"skiff/test/hosts"
	"skiff/test/images"
)

const registriesFile = "/etc/skiff/registries.yaml"

// TestImages tells where images come from and how they stay, on one node:
// registries and their configuration, archives at the command line, the
// runtimes that start them, and a full disk.
func TestImages(t *testing.T) {
	t.Parallel()
	youki := filepath.Join(t.TempDir(), "youki")
	if err := os.WriteFile(youki, []byte(otherRuntime), 0o755); err != nil {
		t.Fatal(err)
	}
	h := newHost(t, hosts.Named("store"), hosts.WithBind(hosts.Bind{From: youki, To: "/usr/local/sbin/youki", ReadOnly: true}))
	h.StartServer()
	h.WaitReady()
	t.Run("together", func(t *testing.T) {
		for name, scenario := range map[string]func(*testing.T, *hosts.Host){
			"registries": registries, "archives": archives, "runtimes": runtimes, "name servers": nameServers,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				scenario(t, h.For(t))
			})
		}
	})
	if t.Failed() {
		return
	}
	t.Run("broken files", func(t *testing.T) { brokenFiles(t, h.For(t)) })
	t.Run("full disk", func(t *testing.T) { fullDisk(t, h.For(t)) })
}

// shop makes images of a few bytes, all runnable, in one layout.
func shop(t *testing.T, refs ...string) images.Layout {
	t.Helper()
	layers, err := images.Busybox("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	layout := images.Layout{Dir: t.TempDir()}
	for _, ref := range refs {
		// Each is an image of its own, or the second is there with the first.
		layer := append(slices.Clone(layers), images.Files(map[string]string{"etc/name": ref}))
		if err := layout.Add(images.Image{Ref: ref, Layers: layer, Cmd: []string{"sleep", "86400"}}); err != nil {
			t.Fatal(err)
		}
	}
	return layout
}

// serveIn serves a registry inside the host until the test ends.
func serveIn(t *testing.T, h *hosts.Host, address string, handler http.Handler, tls bool) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(handler)
	_ = s.Listener.Close() // The one it has is not inside the host.
	s.Listener = h.ListenIn(address)
	s.Config.ErrorLog = log.New(&strings.Builder{}, "", 0) // refused handshakes are part of the test
	if tls {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return s
}

// registries pulls through mirrors, with rewriting, credentials and
// certificates, and changes all that while containerd runs.
func registries(t *testing.T, h *hosts.Host) {
	s := newSpace(t, h, "pulls")
	layout := shop(t, "x/team/web:1", "x/team/web:2", "x/team/api:1", "x/team/token:1", "x/team/any:1")
	// A mirror that has everything below another name, for those it knows.
	mirror := &images.Guard{Registry: layout.Registry(), User: "shop", Password: "p:w d", Prefix: "cache/hub/"}
	serveIn(t, h, "127.0.0.1:5001", mirror, false)
	// One with tokens, one with a certificate of its own, one for all the rest.
	tokens := &images.Guard{Registry: layout.Registry(), User: "shop", Password: "other", Realm: "http://127.0.0.1:5002/token"}
	serveIn(t, h, "127.0.0.1:5002", tokens, false)
	secure := serveIn(t, h, "127.0.0.1:5003", &images.Guard{Registry: shop(t, "x/team/tls:1").Registry(), User: "shop", Password: "third"}, true)
	rest := &images.Guard{Registry: layout.Registry()}
	serveIn(t, h, "127.0.0.1:5004", rest, false)
	h.WriteFile("/etc/skiff/ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw})))

	runtime := containerdPID(t, h)
	pull := func(ref string) error {
		if r := h.Exec("skiff", "crictl", "pull", ref); r.Code != 0 {
			return fmt.Errorf("%s", r)
		}
		return nil
	}
	refused := func(ref, why string) {
		t.Helper()
		s.eventually("the end of pulls of "+ref, func() error {
			err := pull(ref)
			if err == nil {
				return errors.New("pulled")
			}
			if !strings.Contains(err.Error(), why) {
				return fmt.Errorf("%w, want %s", err, why)
			}
			return nil
		})
	}
	configure := func(password, third string) {
		h.WriteFile(registriesFile, fmt.Sprintf(`
mirrors:
  hub.example:
    endpoint: ["http://127.0.0.1:5001"]
    rewrite: {"^(.*)$": "cache/hub/$1"}
  token.example:
    endpoint: ["http://127.0.0.1:5002/v2"]
  "*":
    endpoint: ["http://127.0.0.1:5004"]
configs:
  "127.0.0.1:5001": {auth: {username: shop, password: %q}}
  "127.0.0.1:5002": {auth: {auth: c2hvcDpvdGhlcg==}}
  "127.0.0.1:5003":
    auth: {username: shop, password: %q}
    tls: {ca_file: /etc/skiff/ca.pem}
`, password, third))
	}

	if err := pull("hub.example/team/web:1"); err == nil {
		t.Fatal("pulled from a registry that does not exist")
	}
	configure("wrong", "third")
	refused("hub.example/team/web:1", "authorization failed")
	configure("p:w d", "third")
	s.eventually("a pull through the mirror", func() error { return pull("hub.example/team/web:1") })
	if asked := mirror.Asked(); !slices.Contains(asked, "/v2/cache/hub/team/web/manifests/1") {
		t.Errorf("the mirror was asked for %q", asked)
	}
	for _, ref := range []string{"token.example/team/token:1", "127.0.0.1:5003/team/tls:1", "other.example/team/any:1"} {
		if err := pull(ref); err != nil {
			t.Errorf("pull %s: %v", ref, err)
		}
	}
	if asked := rest.Asked(); !slices.ContainsFunc(asked, func(p string) bool { return strings.Contains(p, "team/any") }) {
		t.Errorf("the mirror of all was asked for %q", asked)
	}
	if asked := tokens.Asked(); !slices.Contains(asked, "/token") {
		t.Errorf("no token was fetched: %q", asked)
	}

	// A pod, whose image comes the same way; it stays when the file changes.
	s.apply(`
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: "hub.example/team/web:2", imagePullPolicy: Always}]
`)
	s.ready("app=web", 1)
	before := s.containerIDs()
	h.WriteFile(registriesFile, "mirrors:\n  hub.example:\n    endpoints: [x]\n")
	s.eventually("the mistake in skiff status", func() error { return statusHas(h, "registries.yaml", "line 3", "endpoints") })
	if err := pull("hub.example/team/api:1"); err != nil {
		t.Errorf("the last good configuration is not in force: %v", err)
	}
	configure("wrong again", "wrong, too")
	refused("hub.example/team/web:1", "authorization failed")
	if r := h.Status(); strings.Contains(r.Stdout, "registries.yaml") {
		t.Errorf("the mistake is still told: %s", r)
	}
	s.sameContainers("registries.yaml changed", before)

	// What a pod brings itself goes before what the node has.
	s.kubectl("create", "secret", "docker-registry", "own", "--docker-server=127.0.0.1:5003", "--docker-username=shop", "--docker-password=third")
	s.apply(`
apiVersion: v1
kind: Pod
metadata: {name: own, labels: {app: own}}
spec:
  terminationGracePeriodSeconds: 0
  imagePullSecrets: [{name: own}]
  containers: [{name: c, image: "127.0.0.1:5003/team/tls:1", imagePullPolicy: Always}]
`)
	s.ready("app=own", 1)
	if now := containerdPID(t, h); now != runtime {
		t.Errorf("containerd was restarted: process %d is now %d", runtime, now)
	}
	if err := os.Remove(h.Path(registriesFile)); err != nil {
		t.Fatal(err)
	}
	refused("other.example/team/any:1", "other.example")
}

// containerdPID is the process of the node's containerd.
func containerdPID(t *testing.T, h *hosts.Host) int {
	t.Helper()
	for _, p := range h.Processes() {
		if len(p.Args) > 1 && p.Args[0] == "containerd" && p.Args[1] == "-c" {
			return p.PID
		}
	}
	t.Fatal("containerd does not run")
	return 0
}

func statusHas(h *hosts.Host, words ...string) error {
	r := h.Status()
	for _, w := range words {
		if !strings.Contains(r.Stdout+r.Stderr, w) {
			return fmt.Errorf("no %q in %s", w, r)
		}
	}
	return nil
}

// nameServers gives the host name servers while pods run.
func nameServers(t *testing.T, h *hosts.Host) {
	s := newSpace(t, h, "resolvers")
	pod := func(name, policy string) string {
		s.apply(fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {app: %s}}
spec:
  dnsPolicy: %s
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: IMAGE, imagePullPolicy: Never, command: [sleep, "86400"]}]
`, name, name, policy))
		s.ready("app="+name, 1)
		return s.in(name, "cat", "/etc/resolv.conf")
	}
	s.eventually("advice in skiff status", func() error { return statusHas(h, "names no name server", "--resolv-conf") })
	if text := pod("none", "Default"); strings.Contains(text, "nameserver") {
		t.Errorf("a pod without name servers has %q", text)
	}
	h.WriteFile("/etc/resolv.conf", "nameserver 127.0.0.53\nnameserver 192.0.2.53\nsearch lan\n")
	s.eventually("the end of the advice", func() error {
		if err := statusHas(h, "names no name server"); err == nil {
			return errors.New("it is there")
		}
		return nil
	})
	if text := pod("some", "Default"); !strings.Contains(text, "nameserver 192.0.2.53") || strings.Contains(text, "127.0.0.53") {
		t.Errorf("a pod has %q, want what it can reach", text)
	}
	contains(t, "resolv.conf of a pod that asks the cluster", pod("cluster", "ClusterFirst"), "nameserver 10.43.0.10", "lan")
	h.WriteFile("/etc/resolv.conf", "# no resolver\n")
	s.eventually("the advice again", func() error { return statusHas(h, "names no name server") })
}
