package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"testing"
	"testing/fstest"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"skiff/pkg/address"
	"skiff/pkg/clock"
	"skiff/pkg/component"
	"skiff/pkg/config"
	"skiff/pkg/kube"
	"skiff/pkg/kube/series"
	"skiff/pkg/status"
)

// testConfig is a server without a node, below a directory of the test.
func testConfig(t *testing.T) config.Completed {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	raw := config.Default()
	raw.DataDir = filepath.Join(dir, "data")
	raw.Server.DisableAgent = true
	raw.Server.BindAddress = netip.MustParseAddr("127.0.0.1")
	raw.Server.AdvertiseAddress = netip.MustParseAddr("192.0.2.1")
	raw.Server.Port = l.Addr().(*net.TCPAddr).Port
	raw.Server.WriteKubeconfig = filepath.Join(dir, "skiff.yaml")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	addr := []netip.Addr{netip.MustParseAddr("192.0.2.1")}
	cfg, err := raw.Complete(config.RoleServer, config.Facts{Hostname: "n1", WorkingDir: dir, RouteAddresses: addr, Addresses: addr})
	if err != nil {
		t.Fatal(err)
	}
	cfg.Paths.Run = filepath.Join(dir, "run")
	return cfg
}

// testModule uses everything a Host offers.
type testModule struct {
	host  Host
	ready chan error
}

func (m *testModule) Name() string { return "test" }

func (m *testModule) Install(h Host) error {
	m.host = h
	h.Handle("/v1-skiff/test", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }))
	peers := h.Tunnel(func(*http.Request) (string, error) { return "", errors.New("no peer of this module") })
	h.Handle("/v1-skiff/test/connect", peers)
	h.Manifests(fstest.MapFS{"test.yaml": &fstest.MapFile{Data: []byte(`
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: test-module}
rules: [{apiGroups: [""], resources: [configmaps], verbs: [get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: test-module}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: test-module}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: "skiff:module:test"}]
`)}})
	h.Add(component.Func("test-module", func(ctx context.Context) error {
		_, err := h.Client()
		m.ready <- err
		<-ctx.Done()
		return nil
	}, nil), AfterAPI)
	return nil
}

// running is a server that runs until the test ends.
type running struct {
	*Server

	cfg    config.Completed
	client kubernetes.Interface // as the person with the kubeconfig
	http   *http.Client         // likewise
	module *testModule
}

// startServer runs a server and waits until all of it is ready. It can be
// called once per process: the components cannot be started twice.
func startServer(t *testing.T) *running {
	t.Helper()
	begin := time.Now()
	cfg := testConfig(t)
	logger := slog.New(slog.NewTextHandler(t.Output(), nil))
	fail := func(err error) { t.Error(err) }
	if err := kube.Setup(kube.Options{Extra: cfg.Extra, Gates: Gates(cfg), Fail: fail}); err != nil {
		t.Fatal(err)
	}
	keeper := clock.New(clock.Options{File: cfg.Paths.ClockFile(), Notes: &status.NoteBook{}, Logger: logger})
	m := &testModule{ready: make(chan error, 1)}
	s, err := New(cfg, Options{Logger: logger, Series: series.Separate(), Notes: &status.NoteBook{}, Addresses: address.Fixed(cfg), Clock: keeper, Modules: []Module{m}})
	if err != nil {
		t.Fatal(err)
	}
	g := component.NewGroup(logger)
	s.AddTo(g)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	t.Cleanup(func() {
		stop := time.Now()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("stop: %v", err)
		}
		if d := time.Since(stop); d > 10*time.Second {
			t.Errorf("stop took %s, want at most 10s", d)
		}
	})
	select {
	case <-g.Ready():
	case err := <-done:
		done <- nil
		t.Fatalf("server stopped while starting: %v", err)
	case <-time.After(time.Minute):
		t.Fatalf("server is not ready after a minute: %+v", g.Status())
	}
	t.Logf("ready after %s", time.Since(begin))
	for _, st := range g.Status() {
		t.Logf("%-24s ready %s after its start", st.Name, st.ReadyAfter)
	}
	rc, err := clientcmd.BuildConfigFromFlags("", cfg.Server.WriteKubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	r := &running{Server: s, cfg: cfg, module: m}
	if r.http, err = rest.HTTPClientFor(rc); err != nil {
		t.Fatal(err)
	}
	if r.client, err = kubernetes.NewForConfig(rc); err != nil {
		t.Fatal(err)
	}
	return r
}

// eventually waits until fn says yes.
func eventually(t *testing.T, what string, fn func(ctx context.Context) (bool, error)) {
	t.Helper()
	if err := wait.PollUntilContextTimeout(t.Context(), 20*time.Millisecond, 30*time.Second, true, fn); err != nil {
		t.Errorf("wait for %s: %v", what, err)
	}
}
