// Package agent is the composition root of a node: it makes the components
// that run pods, and says what each must wait for. It must not know how the
// control plane is made; the node of a server and a node alone differ only in
// the join.Client they are given. Start reading at Agent.AddTo, which read
// from top to bottom is the start of a node.
package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"k8s.io/client-go/rest"

	"skiff/pkg/address"
	"skiff/pkg/agent/dns"
	"skiff/pkg/agent/flannel"
	"skiff/pkg/agent/images"
	"skiff/pkg/agent/ingress"
	"skiff/pkg/agent/kubelet"
	"skiff/pkg/agent/lb"
	"skiff/pkg/agent/netpol"
	"skiff/pkg/agent/offline"
	"skiff/pkg/agent/proxy"
	"skiff/pkg/agent/resolver"
	"skiff/pkg/agent/runtime"
	"skiff/pkg/agent/storage"
	"skiff/pkg/agent/uplink"
	"skiff/pkg/clock"
	"skiff/pkg/component"
	"skiff/pkg/config"
	"skiff/pkg/hostchange"
	"skiff/pkg/join"
	"skiff/pkg/paths"
	"skiff/pkg/payload"
	"skiff/pkg/pki"
	"skiff/pkg/status"
	"skiff/pkg/tunnel"
	"skiff/pkg/version"
)

// Options is what an Agent needs besides its configuration.
type Options struct {
	Logger *slog.Logger
	// Join gets the node its identity; its directories are those of the
	// configuration's Layout.
	Join *join.Client
	// Joined is told of the node's identity and the cluster's settings whenever
	// these change; it may be nil.
	Joined func(*join.Bundle)
	// Onward is what the requests of a node alone go by, see offline.Options.
	Onward func(http.RoundTripper) http.RoundTripper
	// Balancer is what the node reaches its servers through; nil where its
	// kubeconfigs name a server.
	Balancer *lb.Balancer
	// Servers are all that are known, as host:port, with a channel that is
	// closed when there may be others: the node keeps a tunnel to each. It is
	// nil on a server, which reaches its own node without.
	Servers func() ([]string, <-chan struct{})
	Payload *payload.Payload
	Notes   status.Notes
	// Addresses are the node's, which may change.
	Addresses *address.Book
	// Changes is where is written down what is changed on this machine.
	Changes *hostchange.Recorder
	// Clock knows what this machine's clock is worth.
	Clock *clock.Keeper
	// API is how to reach the API server in this process, for what runs on the
	// nodes of servers only; nil on a node alone.
	API func() *rest.Config
	// ProxyMetrics serves kube-proxy's series.
	ProxyMetrics http.Handler
}

// Agent is a node.
type Agent struct {
	cfg config.Completed
	o   Options

	member   *join.Member
	offline  *offline.Cache // nil on the node of a server, which is in reach of itself
	runtime  *runtime.Runtime
	images   *images.Importer
	kubelet  *kubelet.Kubelet
	proxy    *proxy.Proxy
	resolver *resolver.Keeper
	flannel  *flannel.Flannel // nil if the network is the user's
	netpol   *netpol.Enforcer // nil if disabled, or the network is the user's
	dns      *dns.Server
	ingress  *ingress.Ingress // nil on a node alone
	uplink   *tunnel.Client   // nil on a server, or if disabled
	node     *nodeWatch
}

// After names parts of a control plane in the same process that parts of the
// node wait for. On a node alone all are zero.
type After struct {
	API         component.Ref // the API server answers
	Front       component.Ref // the supervisor answers
	Controllers component.Ref // see the kubelet below
}

// Refs are the parts of a node that others may wait for.
type Refs struct {
	Runtime, Join, Kubelet, Flannel, Proxy, DNS, Node component.Ref
}

// New makes the components of a node without starting anything.
func New(cfg config.Completed, o Options) (*Agent, error) {
	if o.Join == nil {
		return nil, fmt.Errorf("make agent: it has no way to join")
	}
	a := &Agent{cfg: cfg, o: o}
	layout, systemd := cfg.Paths, systemdCgroups()
	own := cfg.Cluster.FlannelBackend != flannel.BackendNone
	restrict := !hasSysResource(paths.SelfStatus)
	var oom *int
	if restrict {
		oom = new(oomScore(paths.SelfOOMScore))
	}
	a.member = &join.Member{
		Client:    o.Join,
		Node:      join.NodeInfo{Name: cfg.Node.Name, Version: version.Version},
		Addresses: o.Addresses.Node, Moved: o.Addresses.Changed, Jumped: o.Clock.Jumped,
		// A node alone does not wait for a server when it has what it needs.
		FromDisk: o.API == nil, Changed: a.joined, Logger: a.logger("join"),
	}
	if o.API == nil {
		a.offline = a.newOffline()
	}
	a.runtime = &runtime.Runtime{
		Layout: layout, Snapshotter: cfg.Node.Snapshotter, PauseImage: a.pauseImage(),
		SystemdCgroup: systemd, RestrictOOM: restrict, SystemCNI: !own, Registries: cfg.Node.PrivateRegistry,
		NoDefaultEndpoint: cfg.Node.NoDefaultEndpoint, DefaultRuntime: cfg.Node.DefaultRuntime, Notes: o.Notes,
		Debug: cfg.Log.Debug, Path: os.Getenv("PATH"), Logger: a.logger("containerd"),
	}
	a.images = &images.Importer{
		Layout: layout, Snapshotter: a.runtime.ChosenSnapshotter, Notes: o.Notes, Logger: a.logger("images"),
	}
	if cfg.Node.PauseImage == "" {
		a.images.PauseName = a.pauseImage()
	}
	a.node = &nodeWatch{
		name: cfg.Node.Name, kubeconfig: a.kubeconfig("kubelet"), external: cfg.Node.ExternalIP, start: time.Now(), logger: a.logger("node"),
	}
	if a.offline != nil {
		a.node.offline = a.offline.Offline
	}
	a.kubelet = &kubelet.Kubelet{
		Layout: layout, Kubeconfig: a.kubeconfig("kubelet"), NodeName: cfg.Node.Name, NodeIP: fixedIP(cfg), IPv6First: cfg.Node.IP[0].Is6(),
		IPv6: slices.ContainsFunc(cfg.Node.IP, netip.Addr.Is6), Labels: cfg.Node.Labels, Taints: cfg.Node.Taints,
		ClusterDNS: cfg.Cluster.DNS, ClusterDomain: cfg.Cluster.Domain, ResolvConf: layout.PodResolvConf(),
		Memory: machineMemory(paths.MemInfo), ControlPlane: cfg.Role == config.RoleServer,
		Endpoint: a.runtime.Endpoint(), SystemdCgroup: systemd, OOMScoreAdj: oom, Args: cfg.Extra.Kubelet, Changes: o.Changes, Logger: a.logger("kubelet"),
	}
	a.proxy = &proxy.Proxy{
		Kubeconfig: a.kubeconfig("kube-proxy"), NodeName: cfg.Node.Name, NodeIP: cfg.Node.IP, PodCIDR: cfg.Cluster.PodCIDR,
		OOMScoreAdj: oom, Args: cfg.Extra.KubeProxy, Metrics: o.ProxyMetrics, NodeKnown: a.node.waitAddress, Changes: o.Changes, Logger: a.logger("kube-proxy"),
	}
	if own {
		a.flannel = &flannel.Flannel{
			Layout: layout, NodeName: cfg.Node.Name, NodeIP: o.Addresses.Node, Moved: o.Addresses.Changed,
			PodCIDR: cfg.Cluster.PodCIDR, ServiceCIDR: cfg.Cluster.ServiceCIDR,
			Backend: cfg.Cluster.FlannelBackend, Interface: cfg.Node.FlannelIface, IPv6Masquerade: cfg.Cluster.FlannelIPv6Masq,
			Notes: o.Notes, Kubeconfig: a.kubeconfig("skiff-agent"), Changes: o.Changes,
			NodePodCIDR: a.node.waitPodCIDR, Logger: a.logger("flannel"),
		}
	}
	if own && cfg.Cluster.FlannelExternalIP {
		a.flannel.ExternalIP = cfg.Node.ExternalIP
	}
	if own && !cfg.Disabled("network-policy") {
		a.netpol = &netpol.Enforcer{
			Layout: layout, NodeName: cfg.Node.Name, PodCIDR: cfg.Cluster.PodCIDR, Bridge: flannel.Bridge,
			Allocated: a.flannel.Allocated, Kubeconfig: a.kubeconfig("skiff-agent"), Notes: o.Notes, Changes: o.Changes, Logger: a.logger("network-policy"),
		}
		a.flannel.Gate = layout.NetworkPolicySocket()
	}
	a.resolver = &resolver.Keeper{Sources: resolvConfs(cfg), Out: layout.PodResolvConf(), Notes: o.Notes, Logger: a.logger("resolver")}
	a.dns = dns.New(a.dnsOptions())
	if o.Servers != nil {
		a.uplink = a.newUplink()
	}
	if a.uplink != nil {
		o.Addresses.Follow(a.uplink.Moved)
	}
	if o.Balancer != nil {
		o.Addresses.Follow(o.Balancer.Moved)
	}
	if o.API != nil {
		a.ingress = ingress.New(ingress.Options{
			Config: o.API, NodeName: cfg.Node.Name, Addresses: a.podSideAddresses, Disabled: cfg.Disabled("ingress"), Logger: a.logger("ingress"),
		})
	}
	return a, nil
}

func (a *Agent) newUplink() *tunnel.Client {
	o := uplink.Options{
		Layout: a.cfg.Paths, NodeName: a.cfg.Node.Name, Mode: a.cfg.Cluster.EgressSelectorMode, Servers: a.o.Servers,
		Kubelet: a.kubelet.Local, Kubeconfig: a.node.kubeconfig, Notes: a.o.Notes, Logger: a.logger("tunnel"),
	}
	if a.flannel != nil {
		o.Allocated = a.flannel.Allocated
	}
	if a.o.Balancer != nil {
		o.Watched = a.o.Balancer.Watched
	}
	return uplink.New(o)
}

// podSideAddresses waits for the addresses by which pods reach this node.
func (a *Agent) podSideAddresses(ctx context.Context) ([]netip.Addr, error) {
	if a.flannel != nil {
		return a.flannel.Gateways(ctx)
	}
	return a.o.Addresses.Node(), nil
}

func (a *Agent) dnsOptions() dns.Options {
	o := dns.Options{
		NodeName: a.cfg.Node.Name, Kubeconfig: a.kubeconfig("skiff-agent"), Dir: filepath.Join(a.cfg.Paths.AgentEtc(), "dns"),
		ClusterDomain: a.cfg.Cluster.Domain, ServiceIPs: a.cfg.Cluster.DNS,
		ResolvConf: resolvConfs(a.cfg)[0], SystemdResolvConf: paths.SystemdResolvConf,
		Disabled: a.cfg.Disabled("coredns"), Notes: a.o.Notes, Logger: a.logger("dns"),
	}
	if a.flannel != nil {
		o.Addresses = a.flannel.Gateways
		return o
	}
	// Without a bridge of ours the node's own address must do, which others
	// than pods can reach.
	o.Allow = a.cfg.Cluster.PodCIDR
	for _, ip := range a.o.Addresses.Node() {
		o.Allow = append(o.Allow, netip.PrefixFrom(ip, ip.BitLen()))
	}
	o.Addresses = func(context.Context) ([]netip.Addr, error) { return a.o.Addresses.Node(), nil }
	return o
}

// joined is told of the node's identity.
func (a *Agent) joined(b *join.Bundle) {
	if a.uplink != nil {
		a.uplink.Renewed()
	}
	if a.o.Joined != nil {
		a.o.Joined(b)
	}
}

// AskServer makes the node ask its server soon whether anything has changed.
func (a *Agent) AskServer() { a.member.Ask() }

// AddTo adds the node to a Group.
func (a *Agent) AddTo(g *component.Group, after After) Refs {
	var r Refs
	host := g.Task("host", a.prepareHost)
	// containerd needs nothing of the control plane: pods that ran before are
	// adopted while that starts, or in its absence.
	r.Runtime = g.Add(a.runtime, component.After(host), component.Restart(component.Backoff{}))
	pause := g.Task("pause-image", a.images.EnsurePause, component.After(r.Runtime))
	g.Add(a.images, component.After(pause), component.Restart(component.Backoff{}))
	front := after.Front
	if a.o.Balancer != nil {
		front = g.Add(a.o.Balancer)
	}
	r.Join = g.Add(a.member, component.After(front))
	// What the clients below go by; without it, the joined node's own files.
	clients := r.Join
	if a.offline != nil {
		clients = g.Add(a.offline, component.After(r.Join))
	}
	// Controllers, because the attach-detach controller and the kubelet write
	// to the same package variables of the CSI volume plug-in, and the one
	// that comes last must be the kubelet. See docs/adr.
	resolv := g.Add(a.resolver, component.After(host), component.Restart(component.Backoff{}))
	r.Kubelet = g.Add(a.kubelet, component.After(r.Runtime, resolv, pause, clients, after.API, after.Controllers))
	r.Node = g.Add(a.node, component.After(clients, after.API))
	if a.cfg.ChosenIP {
		g.Add(&announcer{book: a.o.Addresses, node: a.node, logger: a.logger("node-address")}, component.After(clients, after.API))
	}
	if a.flannel != nil {
		// Not after the API: what was known last time is set up at once.
		r.Flannel = g.Add(a.flannel, component.After(host), component.Restart(component.Backoff{}))
	}
	if a.netpol != nil {
		// Not after flannel: until then, what an earlier skiff has programmed is
		// in force, and new pods wait.
		g.Add(a.netpol, component.After(host, clients, after.API), component.Restart(component.Backoff{}))
	} else {
		g.Task("network-policy", func(ctx context.Context) error { return netpol.Remove(ctx, a.cfg.Paths) }, component.After(host))
	}
	r.Proxy = g.Add(a.proxy, component.After(host, clients, after.API))
	if !a.cfg.Disabled("local-storage") {
		g.Add(storage.New(storage.Options{
			NodeName: a.cfg.Node.Name, Base: a.cfg.Node.StoragePath, Kubeconfig: a.kubeconfig("skiff-agent"), Logger: a.logger("local-storage"),
		}), component.After(clients, after.API), component.Restart(component.Backoff{}))
	}
	if a.uplink != nil {
		g.Add(a.uplink, component.After(r.Join), component.Restart(component.Backoff{}))
	}
	r.DNS = g.Add(a.dns, component.After(clients, after.API), component.Restart(component.Backoff{}))
	if a.ingress != nil {
		g.Add(a.ingress, component.After(clients, after.API), component.Restart(component.Backoff{}))
	}
	return r
}

// resolvConfs are the files with the name servers of the host: the one the
// user names, or the C library's and the one behind systemd's stub.
func resolvConfs(cfg config.Completed) []string {
	if cfg.Node.ResolvConf != "" {
		return []string{cfg.Node.ResolvConf}
	}
	return []string{paths.ResolvConf, paths.SystemdResolvConf}
}

// pauseImage is the name of the sandbox image: the user's, or that of ours.
func (a *Agent) pauseImage() string {
	if a.cfg.Node.PauseImage != "" {
		return a.cfg.Node.PauseImage
	}
	return "skiff.local/pause:" + imageTag(version.Version)
}

// imageTag makes a version a valid image tag.
func imageTag(v string) string {
	tag := []byte(v)
	for i, c := range tag {
		if c == '+' {
			tag[i] = '-'
		}
	}
	return string(tag)
}

// kubeconfig is the path of the kubeconfig of "kubelet", "kube-proxy" or
// "skiff-agent".
func (a *Agent) kubeconfig(name string) string {
	if a.offline != nil {
		return a.offline.Kubeconfig(name + ".kubeconfig")
	}
	return filepath.Join(a.cfg.Paths.AgentCred(), name+".kubeconfig")
}

// newOffline makes what keeps the node going without a server.
func (a *Agent) newOffline() *offline.Cache {
	layout := a.cfg.Paths
	var kubeconfigs []string
	for _, name := range []string{"kubelet", "kube-proxy", "skiff-agent"} {
		kubeconfigs = append(kubeconfigs, filepath.Join(layout.AgentCred(), name+".kubeconfig"))
	}
	return offline.New(offline.Options{
		Dir: layout.Offline(), NodeName: a.cfg.Node.Name, Kubeconfigs: kubeconfigs, Onward: a.o.Onward,
		Secret: func() ([]byte, error) { return os.ReadFile(filepath.Join(layout.AgentTLS(), pki.ClientKubelet+".key")) },
		Notes:  a.o.Notes, Logger: a.logger("offline"),
	})
}

func (a *Agent) logger(component string) *slog.Logger { return a.o.Logger.With("component", component) }
