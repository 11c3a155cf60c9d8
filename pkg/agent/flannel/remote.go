package flannel

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"skiff/internal/signal"
)

const (
	// retryAfter is when what has failed is tried again without a change.
	retryAfter = 10 * time.Second
	// noteKey is the key of the line in `skiff status`.
	noteKey = "pod-network"
)

// remote keeps the ways to other nodes' pods up to date until ctx ends. On a
// host without a network interface there is nothing to do, until one appears.
func (f *Flannel) remote(ctx context.Context, n network) error {
	cfg, err := clientcmd.BuildConfigFromFlags("", f.Kubeconfig)
	if err != nil {
		return fmt.Errorf("make client for flannel: %w", err)
	}
	cfg.ContentType = "application/vnd.kubernetes.protobuf"
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return fmt.Errorf("make client for flannel: %w", err)
	}
	changes := signal.New()
	nodes, err := newNodes(client, f.NodeName, f.PodCIDR, changes.Send, f.Logger)
	if err != nil {
		return err
	}
	if err := removeOthers(f.Backend); err != nil {
		f.Logger.Warn("something of another --flannel-backend is left", "error", err)
	}
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { nodes.informer.RunWithContext(ctx) })
	wg.Go(func() {
		// The last object of the first list may be told before the list is
		// known to be complete.
		if nodes.waitListed(ctx) {
			changes.Send()
		}
	})
	wg.Go(func() {
		watch(ctx, changes, f.Logger, netlink.AddrSubscribe, func(netlink.AddrUpdate) bool { return true })
	})
	wg.Go(func() { watch(ctx, changes, f.Logger, netlink.LinkSubscribe, ofInterest) })
	r := &remote{Flannel: f, nodes: nodes, backend: f.newBackend(), n: n}
	for {
		after, moved := time.Hour, f.Moved()
		if err := r.round(ctx); err != nil {
			after = retryAfter
		}
		if !wait(ctx, changes, moved, after) {
			return nil
		}
	}
}

// ofInterest leaves out what comes and goes with each pod.
func ofInterest(u netlink.LinkUpdate) bool {
	name := u.Attrs().Name
	if name == Bridge {
		return u.Header.Type == unix.RTM_DELLINK
	}
	return !ours(name) || name == tunnelV4 || name == tunnelV6 || name == wireguard
}

// remote is what is remembered from one look to the next. All of it belongs to
// one goroutine.
type remote struct {
	*Flannel
	nodes   *nodes
	backend backend
	n       network

	u       *underlay // nil: nothing is prepared
	waiting bool      // for an interface
	known   int       // nodes at the last look
	said    map[string]*string
	problem string // as last told
}

// round looks at everything once and changes what is not as it should be.
func (r *remote) round(ctx context.Context) error {
	if err := r.mendBridge(r.n); err != nil {
		return r.tell(err)
	}
	u, err := r.underlay()
	if err != nil {
		return r.tell(err)
	}
	if u == nil {
		if !r.waiting {
			r.Logger.Info("no network interface by which to reach other nodes: waiting for one", "wanted", r.Interface)
		}
		r.waiting, r.u = true, nil
		return nil
	}
	r.waiting = false
	// The kernel takes the route away together with its source address.
	if err := r.routeServices(); err != nil {
		r.Logger.Debug("Services cannot be routed yet", "error", err)
	}
	if r.u == nil || *r.u != *u || !r.backend.intact() {
		if err := r.prepare(*u); err != nil {
			r.u = nil
			return r.tell(err)
		}
		r.Logger.Info("routes to other nodes are kept", "backend", r.Backend, "interface", u.name, "addresses", addresses(*u), "mtu", r.n.MTU)
		r.u = u
	}
	peers, ok := r.nodes.peers()
	if !ok {
		return nil // The end of the first list is a change.
	}
	err = r.backend.lead(r.same(peers))
	if len(peers) != r.known {
		r.known = len(peers)
		r.Logger.Info("other nodes' pods", "nodes", len(peers))
	}
	return errors.Join(r.tell(err), r.announce(ctx))
}

// announce is no reason for a note: the server is away, which others tell.
func (r *remote) announce(ctx context.Context) error {
	err := r.nodes.announce(ctx, r.said)
	if err != nil && ctx.Err() == nil {
		r.Logger.Warn("other nodes do not know yet how to reach this one's pods; trying again", "error", err)
	}
	return err
}

func addresses(u underlay) []netip.Addr {
	var out []netip.Addr
	for _, a := range []netip.Addr{u.v4, u.v6} {
		if a.IsValid() {
			out = append(out, a)
		}
	}
	return out
}

// prepare makes this node's part of the back end, for packets of a size that
// fits the interface.
func (r *remote) prepare(u underlay) error {
	n := r.n
	n.MTU = u.mtu - r.overhead()
	if n.MTU != r.n.MTU {
		if err := r.apply(n); err != nil {
			return err
		}
		r.Logger.Info("the size of packets has changed; new pods follow it", "interface", u.name, "mtu", n.MTU)
		r.n = n
	}
	v4, v6, err := r.backend.prepare(n, u)
	if err != nil {
		return err
	}
	managed := "true"
	r.said = map[string]*string{annotationManaged: &managed, annotationType: &r.Backend}
	r.say(annotationPublic, annotationData, u.v4, v4)
	r.say(annotationPublicV6, annotationDataV6, u.v6, v6)
	return nil
}

// say sets the two annotations of one family.
func (r *remote) say(public, about string, addr netip.Addr, data []byte) {
	if data == nil {
		r.said[public], r.said[about] = nil, nil
		return
	}
	for _, e := range r.ExternalIP {
		if e.Is4() == addr.Is4() {
			addr = e
		}
	}
	r.said[public], r.said[about] = new(addr.String()), new(string(data))
}

// same leaves out the nodes that use another back end.
func (r *remote) same(peers []peer) []peer {
	var out []peer
	for _, p := range peers {
		if p.backend == r.Backend {
			out = append(out, p)
			continue
		}
		r.Logger.Warn("a node has another --flannel-backend; its pods cannot be reached", "node", p.name, "backend", p.backend)
	}
	return out
}

// tell says once what is wrong, where a person looks, and hands it on.
func (r *remote) tell(err error) error {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text == r.problem {
		return err
	}
	r.problem = text
	if err == nil {
		r.Logger.Info("pods of all nodes can be reached again")
		if r.Notes != nil {
			r.Notes.Clear(noteKey)
		}
		return nil
	}
	r.Logger.Error("pods of other nodes cannot be reached; trying again", "error", err)
	if r.Notes != nil {
		r.Notes.Set(noteKey, "pods of other nodes cannot be reached: "+text)
	}
	return err
}

// wait returns when something has changed or d has passed, and false when ctx
// has ended.
func wait(ctx context.Context, changes, moved <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-changes:
	case <-moved:
	case <-t.C:
	}
	return ctx.Err() == nil
}
