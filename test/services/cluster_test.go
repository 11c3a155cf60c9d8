// Package services_test tries pkg/deploy and pkg/agent/dns against a real API
// server on a real datastore, in this process, with the identities and the
// permissions that they have in a cluster. It starts no node. Start reading at
// TestServices.
package services_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"skiff/pkg/component"
	"skiff/pkg/config"
	"skiff/pkg/datastore"
	"skiff/pkg/kube"
	"skiff/pkg/pki"
	"skiff/pkg/server/apiserver"
	"skiff/pkg/status"
)

// cluster is a control plane without controllers.
type cluster struct {
	t          *testing.T
	dir        string
	logger     *slog.Logger
	config     *rest.Config
	kube       kubernetes.Interface
	dynamic    dynamic.Interface
	kubeconfig string // of the node's own identity
}

func startCluster(t *testing.T) *cluster {
	dir := t.TempDir()
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	raw := config.Default()
	raw.DataDir = dir
	raw.Server.DisableAgent = true
	addr := netip.MustParseAddr("192.0.2.1")
	cfg, err := raw.Complete(config.RoleServer, config.Facts{Hostname: "n1", Addresses: []netip.Addr{addr}, RouteAddresses: []netip.Addr{addr}})
	if err != nil {
		t.Fatal(err)
	}
	cfg.Paths.Run = filepath.Join(dir, "run")
	store := pki.NewStore(cfg.Paths.ServerTLS(), time.Now, logger)
	tree := append(slices.Clip(pki.Tree),
		pki.Spec{Name: pki.ClientSkiffAgent, Issuer: pki.ClientCA, Use: pki.Client, CN: "system:skiff-agent:n1", Org: []string{pki.AgentsOrg}})
	if _, err := store.Ensure(tree, pki.Facts{NodeName: "n1", Hostname: "n1", Domain: cfg.Cluster.Domain}); err != nil {
		t.Fatal(err)
	}
	if err := kube.Setup(kube.Options{Extra: cfg.Extra, Fail: func(err error) { t.Error(err) }}); err != nil {
		t.Fatal(err)
	}
	ds, err := datastore.Open(datastore.Options{Dir: cfg.Paths.ServerDB(), Socket: cfg.Paths.DatastoreSocket(), Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	start(t, ds)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	api := apiserver.New(apiserver.Options{Config: cfg, Datastore: ds.Endpoint(), Listener: l, Logger: logger})
	start(t, api)

	k := pki.Kubeconfig{
		Server: "https://" + l.Addr().String(), CAFile: store.CertFile(pki.ServerCA),
		CertFile: store.CertFile(pki.ClientSkiffAgent), KeyFile: store.KeyFile(pki.ClientSkiffAgent),
	}
	file := filepath.Join(dir, "agent.kubeconfig")
	if err := os.WriteFile(file, k.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return &cluster{
		t: t, dir: dir, logger: logger, config: api.Loopback(), kubeconfig: file,
		kube: kubernetes.NewForConfigOrDie(api.Loopback()), dynamic: dynamic.NewForConfigOrDie(jsonConfig(api.Loopback())),
	}
}

func jsonConfig(c *rest.Config) *rest.Config {
	c = rest.CopyConfig(c)
	c.ContentType, c.AcceptContentTypes = "", ""
	return c
}

// start runs a component until the end of the test, and waits until it is ready.
// The result stops it earlier.
func start(t *testing.T, c component.Component) (stop func()) {
	t.Helper()
	begin := time.Now()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("%s ended with %v", c.Name(), err)
			}
		case <-time.After(20 * time.Second):
			t.Errorf("%s does not stop", c.Name())
		}
	})
	t.Cleanup(stop)
	eventually(t, c.Name()+" ready", func() error {
		select {
		case err := <-done:
			done <- err
			t.Fatalf("%s ended: %v", c.Name(), err)
		default:
		}
		return c.(component.Readier).Ready(ctx)
	})
	t.Logf("%s ready after %s", c.Name(), time.Since(begin).Round(time.Millisecond))
	return stop
}

// eventually waits until check returns nil.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("no %s: %v", what, err)
		case <-tick.C:
		}
	}
}

// notes keeps what parts say for `skiff status`.
type notes struct {
	mu     sync.Mutex
	m      map[string]string // guarded by mu
	addOns []status.AddOn    // guarded by mu
}

func (n *notes) setAddOns(list []status.AddOn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.addOns = list
}

// addOn is the state of an AddOn, and why.
func (n *notes) addOn(name string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, a := range n.addOns {
		if a.Name == name {
			return a.State + " " + a.Message
		}
	}
	return ""
}

func (n *notes) Set(k, v string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.m == nil {
		n.m = map[string]string{}
	}
	n.m[k] = v
}

func (n *notes) Clear(k string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.m, k)
}

func (n *notes) get(k string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.m[k]
}

var (
	create = metav1.CreateOptions{}
	get    = metav1.GetOptions{}
	remove = metav1.DeleteOptions{}
	change = metav1.UpdateOptions{}
)

// podGateway is the address on which the name server listens.
const podGateway = "10.42.0.1"

// inside is set in the environment of the process that has its own network.
const inside = "SKIFF_TEST_SERVICES_INSIDE"

// TestMain runs the tests again in a network namespace of their own: they need
// port 53 and addresses.
func TestMain(m *testing.M) {
	if os.Getenv(inside) == "" && os.Getuid() == 0 {
		os.Exit(runInside())
	}
	os.Exit(m.Run())
}

func runInside() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread()
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "run inside a network namespace:", err)
		return 1
	}
	return 0
}

// ownNetwork sets up the loopback interface of our network namespace.
func ownNetwork(t *testing.T) {
	if os.Getenv(inside) == "" {
		t.Skip("needs root, for a network namespace")
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	addr, err := netlink.ParseAddr(podGateway + "/32")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(netlink.LinkSetUp(lo), netlink.AddrReplace(lo, addr)); err != nil {
		t.Fatal(err)
	}
}

func TestServices(t *testing.T) {
	ownNetwork(t)
	c := startCluster(t)
	t.Run("deploy", c.testDeploy)
	t.Run("storage", c.testStorage)
	t.Run("helm", c.testHelm)
	t.Run("dns", c.testDNS)
}
