// Package kubelet runs the kubelet in this process: its configuration is made
// in code, then changed by the drop-ins in kubelet.conf.d and last by the
// user's --kubelet-arg. It knows nothing about where the API server or the
// runtime come from. Start reading at Kubelet; config.go has the decisions.
package kubelet

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync/atomic"

	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/kubernetes/cmd/kubelet/app"

	"skiff/pkg/component"
	"skiff/pkg/hostchange"
	"skiff/pkg/paths"
)

// Kubelet is the kubelet. Its exported fields must not change once Run has
// been called.
type Kubelet struct {
	Layout     paths.Layout
	Kubeconfig string
	NodeName   string
	// NodeIP are the addresses the user has fixed, at most one per family.
	// Otherwise the Node object gets them from elsewhere and may get others
	// while the kubelet runs; IPv6First says which family pods prefer then.
	NodeIP        []netip.Addr
	IPv6First     bool
	IPv6          bool     // the node has an address of IPv6
	Labels        []string // "key=value", for a node that registers
	Taints        []string // "key=value:Effect", for a node that registers
	ClusterDNS    []netip.Addr
	ClusterDomain string
	ResolvConf    string // what pods' resolv.conf is made from
	Memory        uint64 // of the machine, in bytes; 0 is not known
	ControlPlane  bool   // a control plane runs in this process, too
	Endpoint      string // of the container runtime
	SystemdCgroup bool
	OOMScoreAdj   *int     // nil leaves upstream's, which protects this process; else what it has already
	Args          []string // the user's "name=value", applied last
	Changes       *hostchange.Recorder
	Logger        *slog.Logger

	address atomic.Pointer[string] // where the kubelet serves, once it runs
}

var (
	_ component.Component = (*Kubelet)(nil)
	_ component.Readier   = (*Kubelet)(nil)
)

// Name implements component.Component.
func (k *Kubelet) Name() string { return "kubelet" }

// Run implements component.Component. Upstream's kubelet leaves goroutines
// behind when it returns, so it can be run once in a process.
func (k *Kubelet) Run(ctx context.Context) error {
	if err := k.prepare(); err != nil {
		return err
	}
	server, err := k.server()
	if err != nil {
		return err
	}
	address := net.JoinHostPort(server.Address, strconv.Itoa(int(server.Port)))
	// Upstream exits the process when it cannot listen; find that out first.
	if err := probe(ctx, address); err != nil {
		return err
	}
	if err := k.recordChanges(server); err != nil {
		return err
	}
	deps, err := app.UnsecuredDependencies(ctx, server, utilfeature.DefaultFeatureGate)
	if err != nil {
		return fmt.Errorf("make kubelet: %w", err)
	}
	mountDirectly(deps, k.Logger)
	if server.EnableServer {
		// Not by a name: there are machines without /etc/hosts.
		local := net.JoinHostPort("127.0.0.1", strconv.Itoa(int(server.Port)))
		if ip, err := netip.ParseAddr(server.Address); err == nil && !ip.IsUnspecified() {
			local = address
		}
		k.address.Store(&local)
	}
	if err := app.Run(ctx, server, deps, utilfeature.DefaultFeatureGate); err != nil {
		return fmt.Errorf("run kubelet: %w", err)
	}
	return nil
}

// Local returns where the kubelet serves, as seen on this host; the zero value
// while it does not.
func (k *Kubelet) Local() netip.AddrPort {
	address := k.address.Load()
	if address == nil {
		return netip.AddrPort{}
	}
	at, err := netip.ParseAddrPort(*address)
	if err != nil {
		return netip.AddrPort{}
	}
	return at
}

// prepare makes what the kubelet expects to find.
func (k *Kubelet) prepare() error {
	for _, dir := range []string{k.Layout.Kubelet(), k.Layout.KubeletConfDir(), k.Layout.StaticPods(), k.Layout.PodLogs()} {
		if err := os.MkdirAll(dir, 0o750); err != nil {
			return fmt.Errorf("prepare kubelet: %w", err)
		}
	}
	return nil
}

func probe(ctx context.Context, address string) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("listen for the API server's requests on %s: %w; another kubelet may be running, or choose another port by --kubelet-arg=port=", address, err)
	}
	return l.Close()
}

// Ready implements component.Readier: the kubelet serves, which it does once
// it has found the runtime and begun to register. Whether the node is ready
// is the Node object's to say.
func (k *Kubelet) Ready(ctx context.Context) error {
	address := k.address.Load()
	if address == nil {
		return fmt.Errorf("the kubelet has not started serving")
	}
	dialer := tls.Dialer{Config: &tls.Config{
		// Nothing is sent: the handshake alone is the answer.
		InsecureSkipVerify: true, //nolint:gosec // See above.
	}}
	conn, err := dialer.DialContext(ctx, "tcp", *address)
	if err != nil {
		return fmt.Errorf("ask the kubelet: %w", err)
	}
	return conn.Close()
}
