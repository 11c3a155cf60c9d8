package ingress

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"skiff/internal/pause"
	"skiff/internal/signal"
	"skiff/pkg/agent/ingress/catalog"
	"skiff/pkg/agent/ingress/edge"
	"skiff/pkg/agent/ingress/gateway"
	"skiff/pkg/agent/ingress/rules"
	"skiff/pkg/kube/events"
)

const (
	// gather is how long changes are collected before routes are made anew.
	gather = 50 * time.Millisecond
	// patience is how long a referred object may take to be known.
	patience = 3 * time.Second
	// retry is when what has failed is tried again.
	retry = 5 * time.Second
)

// controller is one run: from the first Ingress or Gateway to the last.
type controller struct {
	Options
	client   kubernetes.Interface
	events   record.EventRecorder
	edge     *edge.Server
	refs     *refs
	gateways *gateway.Source
	issuing  *issuing
	addrs    []netip.Addr

	ingresses, classes, services, slices, namespaces cache.SharedIndexInformer

	// routes is for what Ingresses and Gateways say, moved for where Pods are.
	routes, moved signal.Signal

	// What follows is of the goroutine of loop alone.

	certificates catalog.Certificates
	targets      catalog.Targets
	endpoints    map[string][]edge.Endpoint
	ports        map[door]uint16   // where the proxy listens
	told         map[string]string // what the owner of an object has been told
}

// serve runs a proxy and keeps it as the API has it, until ctx ends.
func (i *Ingress) serve(ctx context.Context, config *rest.Config, client kubernetes.Interface) error {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()

	addrs, err := i.o.Addresses(ctx)
	if err != nil {
		return ignoreEnd(ctx, fmt.Errorf("get the address of the ingress: %w", err))
	}
	recorder, stop := events.NewRecorder(ctx, client, "skiff-ingress", i.o.NodeName)
	defer stop()
	c := &controller{
		Options: i.o, client: client, addrs: addrs, events: recorder,
		routes: signal.New(), moved: signal.New(),
		endpoints: make(map[string][]edge.Endpoint), ports: make(map[door]uint16), told: make(map[string]string),
	}
	c.refs = newRefs(ctx, client, c.changed)
	defer c.refs.close()
	defer cancel() // before close waits
	c.issuing = newIssuing(client, i.o.Logger, c.changed)
	c.edge = edge.New(edge.Options{Logger: i.o.Logger, Challenge: c.issuing.challenge})
	if c.gateways, err = gateway.New(gateway.Options{Config: config, Changed: c.changed, Logger: i.o.Logger}); err != nil {
		return fmt.Errorf("make the gateway controller: %w", err)
	}
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(trim))
	defer factory.Shutdown()
	defer cancel()
	if err := c.watch(factory); err != nil {
		return err
	}
	ended := make(chan error, 2)
	running.Go(func() { ended <- c.edge.Run(ctx) })
	running.Go(func() { ended <- c.gateways.Run(ctx) })
	running.Go(func() { c.issuing.run(ctx) })
	factory.StartWithContext(ctx)
	if !cache.WaitForCacheSync(ctx.Done(), c.ingresses.HasSynced, c.classes.HasSynced, c.services.HasSynced, c.slices.HasSynced, c.namespaces.HasSynced, c.gateways.Synced) {
		return nil
	}
	i.o.Logger.Info("serving Ingresses and Gateways", "addresses", addrs)
	return c.loop(ctx, ended)
}

// changed asks for routes to be made anew.
func (c *controller) changed() { c.routes.Send() }

// loop brings everything up to date whenever something has changed.
func (c *controller) loop(ctx context.Context, ended <-chan error) error {
	again := time.NewTimer(0)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-ended:
			return ignoreEnd(ctx, err)
		case <-c.moved:
			c.move()
			continue
		case <-again.C:
		case <-c.routes:
			if !pause.For(ctx, gather) {
				return nil
			}
		}
		next, err := c.sync(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			c.Logger.Warn("the ingress could not be brought up to date, trying again", "error", err, "in", retry)
			next = retry
		}
		again.Stop()
		if next > 0 {
			again.Reset(next)
		}
	}
}

// round is what one translation has come to.
type round struct {
	settings settings
	rules    rules.Result
	gateway  gateway.Result
	fallback *certificate
}

// sync makes the routes anew and tells the API what has come of it. It returns
// after what time to look again, or 0.
func (c *controller) sync(ctx context.Context) (next time.Duration, err error) {
	r, err := c.translate(ctx)
	if err != nil {
		return 0, err
	}
	applied := c.apply(ctx, r)
	errs := []error{publish(ctx, c.client, publication{node: c.NodeName, addrs: c.addrs, ports: c.published(r)})}
	services := c.ownServices()
	for d, why := range refused(services) {
		applied.refuse(d, why)
	}
	errs = append(errs, c.tell(ctx, r, applied, addresses(services)),
		c.gateways.WriteStatus(ctx, r.gateway, applied.listeners, applied.routes))
	c.issuing.reach.at(addresses(services))
	next = c.issuing.want(r.settings.acme, r.rules.Wants, c.refs.secret, c.events)
	return next, errors.Join(append(errs, applied.again)...)
}

// translate makes routes of what the API has. Objects that routes refer to are
// looked up while it goes on, so it may take several passes until all is known.
func (c *controller) translate(ctx context.Context) (r round, err error) {
	for range 5 {
		c.refs.begin()
		r, err = c.pass(ctx)
		c.refs.end()
		if err != nil || !c.refs.wait(ctx, patience) {
			return r, err
		}
	}
	return r, err
}

func (c *controller) pass(ctx context.Context) (round, error) {
	lookup := catalog.Lookup{
		Namespace: lookup[corev1.Namespace](c.namespaces), Service: lookupIn[corev1.Service](c.services),
		Secret: c.refs.secret, ConfigMap: c.refs.configMap,
	}
	var r round
	r.settings = readSettings(c.refs.configMap(namespace, serviceName))
	r.rules = rules.Translate(rules.Inputs{
		Ingresses: objects[networkingv1.Ingress](c.ingresses), Classes: objects[networkingv1.IngressClass](c.classes),
		Lookup: lookup, Certificates: &c.certificates,
	})
	services := c.ownServices()
	r.gateway = c.gateways.Translate(gateway.Inputs{
		Lookup: lookup, Certificates: &c.certificates, Addresses: addresses(services),
		Apart: func(g types.NamespacedName) []string { return apart(services, g) },
	})
	for _, w := range r.rules.Wants {
		c.refs.secret(w.Secret.Namespace, w.Secret.Name)
	}
	if len(r.rules.Listeners)+len(r.gateway.Listeners) > 0 {
		var err error
		if r.fallback, err = c.defaultCertificate(ctx, r.settings); err != nil {
			return r, err
		}
	}
	return r, nil
}

// applied is what the proxy could not do.
type applied struct {
	listeners, routes map[string]error
	doors             map[door][]string // listeners by where they are
	// again is why it should be tried again.
	again error
}

// refuse notes that a port cannot be had.
func (a *applied) refuse(d door, why string) {
	for _, l := range a.doors[d] {
		if a.listeners[l] == nil {
			a.listeners[l] = errors.New(why)
		}
	}
}

// apply gives the routes to the proxy.
func (c *controller) apply(ctx context.Context, r round) *applied {
	a := &applied{listeners: make(map[string]error), routes: make(map[string]error), doors: make(map[door][]string)}
	var fallback *tls.Certificate
	if r.fallback != nil {
		fallback = r.fallback.tls
	}
	wanted := join(r.gateway.Listeners, r.rules, fallback)
	for _, l := range wanted {
		d := r.door(l)
		a.doors[d] = append(a.doors[d], l.Name)
	}
	c.choosePorts(a)
	config := edge.Config{Backends: make(map[string]edge.Backend), DefaultCertificate: fallback, Trusted: r.settings.trusted, AccessLog: r.settings.accessLog}
	for n, addr := range c.addrs {
		for _, l := range wanted {
			internal, ok := c.ports[r.door(l)]
			if !ok {
				continue
			}
			l.Address, l.PublicPort, l.Port = addr.String(), l.Port, internal
			if n > 0 {
				l.Name = again(l.Name, n)
			}
			config.Listeners = append(config.Listeners, l)
		}
	}
	c.setTargets(r)
	for key, t := range c.targets {
		b := t.Backend
		b.Endpoints = c.endpoints[key]
		config.Backends[key] = b
	}
	c.sort(a, c.edge.Apply(ctx, config))
	return a
}

// door is where the public finds a listener.
func (r round) door(l edge.Listener) door { return door{r.gateway.Apart[l.Name], l.Port} }

// published are the ports of all doors. A Gateway that had an address of its own
// keeps it when it can share the node's, since clients know it.
func (c *controller) published(r round) map[door]uint16 {
	out := maps.Clone(c.ports)
	for _, l := range r.gateway.Listeners {
		if g, kept := r.gateway.Kept[l.Name]; kept {
			if internal, ok := c.ports[r.door(l)]; ok {
				out[door{g, l.Port}] = internal
			}
		}
	}
	return out
}

// choosePorts gives each door a port to listen on, and takes back those of doors
// that are no more.
func (c *controller) choosePorts(a *applied) {
	for d := range c.ports {
		if a.doors[d] == nil {
			delete(c.ports, d)
		}
	}
	for d := range a.doors {
		if _, have := c.ports[d]; have {
			continue
		}
		internal, err := c.choosePort(d)
		if err != nil {
			a.again = err
			continue
		}
		c.ports[d] = internal
	}
}

// again names the listener of another address of the node.
func again(name string, n int) string { return fmt.Sprintf("%s|%d", name, n) }

// sort puts the errors of Apply where they belong.
func (c *controller) sort(a *applied, err error) {
	if err == nil {
		return
	}
	var each []error
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		each = joined.Unwrap()
	} else {
		each = []error{err}
	}
	for _, e := range each {
		if l, ok := errors.AsType[*edge.ListenerError](e); ok {
			name := l.Listener
			for n := range c.addrs {
				for _, names := range a.doors {
					for _, of := range names {
						if again(of, n) == name {
							name = of
						}
					}
				}
			}
			a.listeners[name] = l.Err
			// The port was taken between choosing and listening: choose another.
			for d, names := range a.doors {
				if slices.Contains(names, name) {
					delete(c.ports, d)
				}
			}
			a.again = e
			continue
		}
		if r, ok := errors.AsType[*edge.RouteError](e); ok {
			a.routes[r.Route] = r.Err
			continue
		}
		a.again = e
	}
}
