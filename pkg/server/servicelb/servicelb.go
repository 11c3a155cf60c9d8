// Package servicelb gives Services of type LoadBalancer the addresses of the
// nodes. That is all it takes: kube-proxy answers on every address in a
// Service's status, so no pod and no process is needed, and with
// externalTrafficPolicy Local the backend sees who really called. It must not
// know how traffic flows. Start reading at Controller.Run; plan.go decides.
package servicelb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"skiff/internal/signal"
	"skiff/pkg/component"
	"skiff/pkg/kube/events"
	"skiff/pkg/kube/reconcile"
)

const (
	name = "servicelb"
	// gather is how long changes are collected before the plan is made anew.
	gather = 50 * time.Millisecond
	// recheck is when a port that a process of the node has is looked at again.
	recheck = 30 * time.Second
	// retry is when a write that has failed is tried again.
	retry = 2 * time.Second
)

// Options is what New needs.
type Options struct {
	// Loopback is the API server's configuration for its own clients; it is
	// called when Run starts.
	Loopback func() *rest.Config
	// Taken says why the port of the address cannot be had on the named node,
	// or nil where that is not known.
	Taken  func(node string, protocol corev1.Protocol, addr netip.AddrPort) error
	Logger *slog.Logger
}

// Controller is the component.
type Controller struct{ Options }

var _ component.Component = (*Controller)(nil)

// New returns the component.
func New(o Options) *Controller { return &Controller{o} }

// Name implements component.Component.
func (c *Controller) Name() string { return name }

// Run implements component.Component.
func (c *Controller) Run(ctx context.Context) error {
	cfg := c.Loopback()
	if cfg == nil {
		return errors.New("start " + name + ": kube-apiserver has not been built yet")
	}
	client, err := kubernetes.NewForConfig(rest.AddUserAgent(cfg, name))
	if err != nil {
		return fmt.Errorf("make client of %s: %w", name, err)
	}
	recorder, stop := events.NewRecorder(ctx, client, manager, "")
	defer stop()
	w := &worker{Options: c.Options, client: client, changed: signal.New(), events: recorder}
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(trimService))
	defer factory.Shutdown()
	w.services = factory.Core().V1().Services().Informer()
	if err := reconcile.OnChange(w.changed.Send, nil, w.services); err != nil {
		return err
	}
	factory.StartWithContext(ctx)
	if !cache.WaitForCacheSync(ctx.Done(), w.services.HasSynced) {
		return nil
	}
	w.run(ctx)
	return nil
}

// worker is one run of the controller.
type worker struct {
	Options

	client   kubernetes.Interface
	events   record.EventRecorder
	services cache.SharedIndexInformer
	changed  signal.Signal

	// What follows exists while there are Services to serve.
	nodes, slices cache.SharedIndexInformer
	stop          func()
}

// run plans whenever something has changed.
func (w *worker) run(ctx context.Context) {
	defer func() {
		if w.stop != nil {
			w.stop()
		}
	}()
	reconcile.Loop{
		Changed: w.changed, Gather: gather, Retry: retry, Sync: w.sync,
		Failed: "load balancers could not be brought up to date", Logger: w.Logger,
	}.Run(ctx)
}

// sync makes a plan and writes what is new in it. It returns after what time
// to look again, or 0.
func (w *worker) sync(ctx context.Context) (next time.Duration, err error) {
	var s state
	for _, obj := range w.services.GetStore().List() {
		if service, ok := obj.(*corev1.Service); ok && ours(service) {
			s.services = append(s.services, service)
		}
	}
	if err := w.follow(ctx, len(s.services) > 0); err != nil || len(s.services) == 0 {
		return 0, err
	}
	for _, obj := range w.nodes.GetStore().List() {
		if n, ok := obj.(*corev1.Node); ok {
			s.nodes = append(s.nodes, n)
		}
	}
	s.endpoints, s.taken = endpoints(w.slices.GetStore().List()), w.Taken
	var errs []error
	for _, p := range plan(s) {
		if p.host {
			next = recheck
		}
		status := p.status()
		if same(status, p.service.Status) {
			continue
		}
		if err := write(ctx, w.client, p.service, status); err != nil {
			errs = append(errs, err)
			continue
		}
		w.tell(p)
	}
	return next, errors.Join(errs...)
}

// tell records what has become of the Service.
func (w *worker) tell(p place) {
	for _, c := range p.conflicts {
		w.events.Event(p.service, corev1.EventTypeWarning, reasonConflict, c)
	}
	if len(p.addrs) > 0 {
		w.events.Eventf(p.service, corev1.EventTypeNormal, "EnsuredLoadBalancer", "served on %v", p.addrs)
	} else if len(p.conflicts) == 0 {
		w.events.Event(p.service, corev1.EventTypeNormal, "NoNodes", "no node serves it now: none is ready, none has the labels asked for, or with externalTrafficPolicy Local none has a ready endpoint")
	}
}

// follow starts to watch nodes and endpoints with the first Service, and stops
// with the last.
func (w *worker) follow(ctx context.Context, wanted bool) error {
	switch {
	case wanted == (w.stop != nil):
		return nil
	case !wanted:
		w.stop()
		w.stop = nil
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	nodes := informers.NewSharedInformerFactoryWithOptions(w.client, 0, informers.WithTransform(trimNode))
	slices := informers.NewSharedInformerFactoryWithOptions(w.client, 0, informers.WithTransform(trimSlice),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = discoveryv1.LabelServiceName }))
	stop := func() {
		cancel()
		nodes.Shutdown()
		slices.Shutdown()
	}
	w.nodes, w.slices = nodes.Core().V1().Nodes().Informer(), slices.Discovery().V1().EndpointSlices().Informer()
	if err := reconcile.OnChange(w.changed.Send, nil, w.nodes, w.slices); err != nil {
		stop()
		return err
	}
	nodes.StartWithContext(ctx)
	slices.StartWithContext(ctx)
	w.stop = stop
	if !cache.WaitForCacheSync(ctx.Done(), w.nodes.HasSynced, w.slices.HasSynced) {
		return ctx.Err()
	}
	return nil
}
