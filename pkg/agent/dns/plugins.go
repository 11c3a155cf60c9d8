package dns

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	_ "github.com/coredns/coredns/plugin/acl"
	_ "github.com/coredns/coredns/plugin/any"
	_ "github.com/coredns/coredns/plugin/autopath"
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/bufsize"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/debug"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/forward"
	_ "github.com/coredns/coredns/plugin/header"
	_ "github.com/coredns/coredns/plugin/hosts"
	"github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/loadbalance"
	_ "github.com/coredns/coredns/plugin/local"
	_ "github.com/coredns/coredns/plugin/log"
	_ "github.com/coredns/coredns/plugin/metadata"
	_ "github.com/coredns/coredns/plugin/minimal"
	_ "github.com/coredns/coredns/plugin/rewrite"
	_ "github.com/coredns/coredns/plugin/template"
	mdns "github.com/miekg/dns"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Names of our own directives. They appear only in adapted Corefiles.
const (
	dirKubernetes = "skiff_kubernetes"
	dirNoUpstream = "skiff_noupstream"
)

// directives are the plug-ins in the order in which they see a query: upstream's
// order (core/dnsserver/zdirectives.go), with our own two in the places of
// kubernetes and forward.
var directives = []string{
	"metadata", "bufsize", "bind", "debug", "errors", "log", "local", "any", "loadbalance", "cache",
	"rewrite", "acl", "header", "autopath", "minimal", "template", "hosts", dirKubernetes, "forward", dirNoUpstream,
}

// ignored are directives that users' Corefiles have and that mean nothing here
// or would hurt: health, ready, pprof and prometheus open ports that would be
// the host's own, reload and loop are done by this package (upstream's loop ends
// the whole process), root and cancel serve plug-ins we leave out.
var ignored = []string{"health", "ready", "pprof", "prometheus", "reload", "loop", "root", "cancel"}

// accepted are the directives that a user may write.
func accepted() []string {
	l := append(slices.Clone(directives), ignored...)
	l = slices.DeleteFunc(l, func(d string) bool { return d == dirKubernetes || d == dirNoUpstream })
	return append(l, "kubernetes")
}

// register sets the process-wide state of caddy and CoreDNS. Both keep their
// plug-ins, the order of directives and the Quiet switches in package variables,
// so this happens once per process.
var register = sync.OnceFunc(func() {
	caddy.Quiet = true
	dnsserver.Quiet = true
	dnsserver.Directives = directives
	plugin.Register(dirKubernetes, setupKubernetes)
	plugin.Register(dirNoUpstream, setupNoUpstream)
})

// setupKubernetes does what the set-up of upstream's kubernetes plug-in does
// (plugin/kubernetes/setup.go), except that it leaves klog alone, which upstream's
// redirects for the whole process, and that it speaks protobuf.
func setupKubernetes(c *caddy.Controller) error {
	var k *kubernetes.Kubernetes
	for c.Next() {
		if k != nil {
			return plugin.Error("kubernetes", plugin.ErrOnce)
		}
		var err error
		if k, err = kubernetes.ParseStanza(c); err != nil {
			return plugin.Error("kubernetes", err)
		}
	}
	if k.ClientConfig != nil {
		k.ClientConfig = protobufConfig{k.ClientConfig}
	}
	onStart, onShut, err := k.InitKubeCache(context.Background())
	if err != nil {
		return plugin.Error("kubernetes", err)
	}
	c.OnStartup(func() error { return startSooner(onStart, k.APIConn.HasSynced) })
	c.OnShutdown(onShut)
	dnsserver.GetConfig(c).AddPlugin(func(next plugin.Handler) plugin.Handler {
		k.Next = next
		return k
	})
	return nil
}

// startSooner runs the start of upstream's plug-in, which looks every tenth of
// a second whether it has seen all objects, and returns as soon as it has. What
// was started ends by itself within that tenth.
func startSooner(onStart func() error, synced func() bool) error {
	done := make(chan error, 1)
	go func() { done <- onStart() }()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-tick.C:
			if synced() {
				return nil
			}
		}
	}
}

// protobufConfig makes the clients of the kubernetes plug-in use protobuf:
// less memory and CPU on both sides than the JSON a kubeconfig stands for.
type protobufConfig struct{ inner clientcmd.ClientConfig }

// RawConfig implements clientcmd.ClientConfig.
func (p protobufConfig) RawConfig() (clientcmdapi.Config, error) { return p.inner.RawConfig() }

// Namespace implements clientcmd.ClientConfig.
func (p protobufConfig) Namespace() (string, bool, error) { return p.inner.Namespace() }

// ConfigAccess implements clientcmd.ClientConfig.
func (p protobufConfig) ConfigAccess() clientcmd.ConfigAccess { return p.inner.ConfigAccess() }

// ClientConfig implements clientcmd.ClientConfig.
func (p protobufConfig) ClientConfig() (*rest.Config, error) {
	c, err := p.inner.ClientConfig()
	if err != nil {
		return nil, err
	}
	return withProtobuf(c), nil
}

func withProtobuf(c *rest.Config) *rest.Config {
	c.ContentType = "application/vnd.kubernetes.protobuf"
	c.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	c.UserAgent = "skiff-dns"
	return c
}

// noUpstream stands where forward would when the host has no resolvers. It
// says at once that the name could not be resolved, which is not the same as
// that it does not exist, and logs nothing.
type noUpstream struct{}

func setupNoUpstream(c *caddy.Controller) error {
	for c.Next() {
		if c.NextArg() {
			return c.ArgErr()
		}
	}
	dnsserver.GetConfig(c).AddPlugin(func(plugin.Handler) plugin.Handler { return noUpstream{} })
	return nil
}

// Name implements plugin.Handler.
func (noUpstream) Name() string { return dirNoUpstream }

// ServeDNS implements plugin.Handler.
func (noUpstream) ServeDNS(context.Context, mdns.ResponseWriter, *mdns.Msg) (int, error) {
	return mdns.RcodeServerFailure, nil
}
