// Package proxy runs kube-proxy in this process, in its nftables mode. It
// knows nothing about the kubelet or the pod network beyond the pods' address
// ranges. Start reading at Proxy.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/spf13/pflag"
	cliflag "k8s.io/component-base/cli/flag"
	"k8s.io/kubernetes/cmd/kube-proxy/app"
	utilflag "k8s.io/kubernetes/pkg/util/flag"

	"skiff/pkg/component"
	"skiff/pkg/hostchange"
	"skiff/pkg/kube"
)

// Proxy is kube-proxy. Its exported fields must not change once Run has been
// called.
type Proxy struct {
	Kubeconfig string
	NodeName   string
	NodeIP     []netip.Addr
	PodCIDR    []netip.Prefix // of the whole cluster
	// OOMScoreAdj as in the kubelet: nil leaves upstream's.
	OOMScoreAdj *int
	Args        []string // the user's "name=value", applied last
	// Metrics are kube-proxy's series. Upstream's endpoint would serve those of
	// the whole process.
	Metrics http.Handler
	// NodeKnown waits until the Node object has its addresses. Upstream asks
	// for them once a second for half a minute, and goes on without.
	NodeKnown func(context.Context) error
	Changes   *hostchange.Recorder
	Logger    *slog.Logger

	health atomic.Pointer[string] // address of the health server, once it is asked to run
}

var (
	_ component.Component = (*Proxy)(nil)
	_ component.Readier   = (*Proxy)(nil)
)

// Name implements component.Component.
func (p *Proxy) Name() string { return "kube-proxy" }

// Run implements component.Component. Upstream's loop has no end: when ctx is
// done it is left alone, in a process that is about to exit. The rules stay in
// the kernel, so that Services work while skiff restarts.
func (p *Proxy) Run(ctx context.Context) error {
	o, at, err := p.options()
	if err != nil {
		return err
	}
	if at.metrics != "" {
		stop, err := p.serveMetrics(ctx, at.metrics)
		if err != nil {
			return err
		}
		defer stop()
	}
	if err := p.NodeKnown(ctx); err != nil {
		return fmt.Errorf("wait for the node's addresses: %w", err)
	}
	if err := p.Changes.Record(hostchange.Change{Kind: hostchange.Table, Value: "ip kube-proxy"}, hostchange.Change{Kind: hostchange.Table, Value: "ip6 kube-proxy"}); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- o.Run(ctx) }()
	p.health.Store(&at.health)
	select {
	case <-ctx.Done():
		return nil
	case err := <-done:
		if err == nil {
			err = errors.New("it returned")
		}
		return fmt.Errorf("run kube-proxy: %w", err)
	}
}

// Ready implements component.Readier by asking kube-proxy's health server,
// which fails while changes wait to be written to the kernel for too long.
func (p *Proxy) Ready(ctx context.Context) error {
	address := p.health.Load()
	if address == nil {
		return errors.New("the Node object has no address yet")
	}
	if *address == "" {
		return nil // Switched off by the user.
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+*address+"/healthz", nil)
	if err != nil {
		return fmt.Errorf("ask kube-proxy: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("ask kube-proxy: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("kube-proxy cannot write its rules to the kernel: its health server says %s", resp.Status)
	}
	return nil
}

// addresses are where kube-proxy answers; empty is nowhere.
type addresses struct{ health, metrics string }

// options makes kube-proxy's options from flags, because it keeps its
// configuration to itself.
func (p *Proxy) options() (o *app.Options, at addresses, err error) {
	o = app.NewOptions()
	set := pflag.NewFlagSet("kube-proxy", pflag.ContinueOnError)
	set.SetNormalizeFunc(cliflag.WordSepNormalizeFunc)
	o.AddFlags(set)
	if err := set.Parse(p.defaults()); err != nil {
		return nil, at, fmt.Errorf("make kube-proxy options: %w", err)
	}
	var errs []error
	for _, arg := range p.Args {
		name, _, _ := strings.Cut(arg, "=")
		if why, no := notOurs()[name]; no {
			errs = append(errs, fmt.Errorf("invalid --kube-proxy-arg %q: not possible in skiff: %s", arg, why))
		}
	}
	if len(errs) > 0 {
		return nil, at, errors.Join(errs...)
	}
	metrics, ok := set.Lookup("metrics-bind-address").Value.(*utilflag.IPPortVar)
	if !ok {
		return nil, at, errors.New("kube-proxy's flag --metrics-bind-address is not of the kind it was")
	}
	// The flag forgets where to write when it is set to nothing.
	address := metrics.Val
	sets := cliflag.NamedFlagSets{FlagSets: map[string]*pflag.FlagSet{"kube-proxy": set}}
	if err := kube.ApplyArgs("kube-proxy-arg", sets, p.Args); err != nil {
		return nil, at, err
	}
	if err := o.Complete(set); err != nil {
		return nil, at, fmt.Errorf("complete kube-proxy options: %w", err)
	}
	if err := o.Validate(); err != nil {
		return nil, at, fmt.Errorf("kube-proxy options (with --kube-proxy-arg): %w", err)
	}
	at.health = set.Lookup("healthz-bind-address").Value.String()
	if metrics.Val != nil {
		at.metrics = *address
	}
	*address = "" // or upstream would serve them
	return o, at, nil
}

// defaults are skiff's decisions about kube-proxy, as its flags.
//
// Source: k8s.io/kubernetes, cmd/kube-proxy/app/options.go.
func (p *Proxy) defaults() []string {
	var pods []string
	for _, c := range p.PodCIDR {
		pods = append(pods, c.String())
	}
	args := []string{
		"--kubeconfig=" + p.Kubeconfig,
		"--hostname-override=" + p.NodeName,
		"--proxy-mode=nftables",
		"--cluster-cidr=" + strings.Join(pods, ","),
		// As in the other modes: a NodePort answers on every address.
		"--nodeport-addresses=0.0.0.0/0,::/0",
		"--healthz-bind-address=127.0.0.1:10256",
		"--metrics-bind-address=127.0.0.1:10249",
		// Zero leaves the kernel's conntrack settings as they are: they
		// belong to the administrator, and cannot be set in a container.
		"--conntrack-max-per-core=0",
		"--conntrack-min=0",
		"--conntrack-tcp-timeout-established=0s",
		"--conntrack-tcp-timeout-close-wait=0s",
	}
	if len(p.NodeIP) > 0 {
		args = append(args, "--bind-address="+p.NodeIP[0].String())
	}
	if p.OOMScoreAdj != nil {
		args = append(args, "--oom-score-adj="+strconv.Itoa(*p.OOMScoreAdj))
	}
	return args
}

// notOurs are upstream flags that have no meaning, or would break the node,
// when kube-proxy is part of skiff; the value says what to use instead.
func notOurs() map[string]string {
	return map[string]string{
		"config":            "give the settings as arguments",
		"write-config-to":   "see `skiff config`",
		"cleanup":           "it would end kube-proxy",
		"init-only":         "it would end kube-proxy",
		"kubeconfig":        "skiff makes the node's credentials",
		"master":            "skiff makes the node's credentials",
		"hostname-override": "use --node-name",
	}
}
