// Package netpol makes NetworkPolicies true on this node, by an nftables table
// of its own. It knows the pod network by the name of its bridge only, and
// nothing about the kubelet or the runtime; the CNI plug-in that gives pods
// their addresses asks it first (payload/announce). Start reading at
// Enforcer.Run; plan works out the rules, kernel writes them, DESIGN.md has the shape of the table.
package netpol

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"skiff/internal/backoff"
	"skiff/pkg/agent/netpol/kernel"
	"skiff/pkg/agent/netpol/plan"
	"skiff/pkg/component"
	"skiff/pkg/hostchange"
	"skiff/pkg/paths"
	"skiff/pkg/status"
)

// linger is how long pods and namespaces are still followed after the last
// policy has gone.
const linger = time.Minute

// Enforcer is the component. Its exported fields must not change once Run has
// been called.
type Enforcer struct {
	Layout   paths.Layout
	NodeName string
	PodCIDR  []netip.Prefix // of the whole cluster
	Bridge   string         // that this node's pods are attached to
	// Allocated reports whether an address is given to a pod.
	Allocated  func(netip.Addr) bool
	Kubeconfig string // of an identity that may watch policies, pods, namespaces and EndpointSlices
	Notes      status.Notes
	Changes    *hostchange.Recorder
	Logger     *slog.Logger

	table kernel.Table

	mu       sync.Mutex
	changed  chan struct{}                            // closed and replaced when something below changes; guarded by mu
	listed   bool                                     // the policies have been read once; guarded by mu
	policies map[plan.Key]*networkingv1.NetworkPolicy // guarded by mu
	claims   claims                                   // guarded by mu
	session  *session                                 // nil while there are no policies; guarded by mu
	failure  error                                    // why the table is not as it should be; guarded by mu
}

var (
	_ component.Component = (*Enforcer)(nil)
	_ component.Readier   = (*Enforcer)(nil)
)

// Name implements component.Component.
func (e *Enforcer) Name() string { return "network-policy" }

// Run implements component.Component. The table stays in the kernel when it
// returns: pods go on running, and so does what isolates them.
func (e *Enforcer) Run(ctx context.Context) error {
	given, err := loadClaims(e.Layout.NetworkPolicyClaims())
	if err != nil {
		e.Logger.Warn("addresses given to pods before are not known", "error", err)
	}
	// What was released while skiff was down is nobody's.
	maps.DeleteFunc(given, func(ip netip.Addr, _ plan.Claim) bool { return !e.Allocated(ip) })
	e.mu.Lock()
	e.listed, e.policies, e.claims, e.session = false, map[plan.Key]*networkingv1.NetworkPolicy{}, given, nil
	e.mu.Unlock()
	// First of all, so that pods wait and do not fail.
	gate, err := listenGate(e.Layout.NetworkPolicySocket())
	if err != nil {
		return err
	}
	client, err := e.client()
	if err != nil {
		return errors.Join(err, gate.Close())
	}
	ctx, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { e.serveGate(ctx, gate) })
	wg.Go(func() { e.watchPolicies(ctx, client) })
	err = e.enforce(ctx, client)
	stop()
	if closeErr := gate.Close(); err == nil && closeErr != nil && !errors.Is(closeErr, net.ErrClosed) {
		err = closeErr
	}
	wg.Wait()
	return err
}

func (e *Enforcer) client() (kubernetes.Interface, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", e.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("make client for network policies: %w", err)
	}
	cfg.ContentType = "application/vnd.kubernetes.protobuf"
	cfg.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	cfg.UserAgent = "skiff-network-policy"
	c, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("make client for network policies: %w", err)
	}
	return c, nil
}

// enforce runs a session while there are policies, until ctx ends. What an
// earlier skiff has programmed is in force until the first session knows better.
func (e *Enforcer) enforce(ctx context.Context, client kubernetes.Interface) error {
	retry := backoff.Sequence{Min: time.Second, Max: time.Minute}
	for {
		if !e.waitFor(ctx, func() bool { return e.listed }) {
			return nil
		}
		if e.count() == 0 {
			if err := e.table.Remove(ctx); err != nil && ctx.Err() == nil {
				e.report(err)
				if retry.Wait(ctx) != nil {
					return nil
				}
				continue
			}
			e.report(nil)
			retry.Reset()
			if !e.waitFor(ctx, func() bool { return len(e.policies) > 0 }) {
				return nil
			}
		}
		e.Logger.Info("network policies in use")
		if err := e.runSession(ctx, client); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
		e.Logger.Info("no network policy is left")
	}
}

// Ready implements component.Readier.
func (e *Enforcer) Ready(context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.listed {
		return errors.New("the API server has not yet said which network policies there are")
	}
	return e.failure
}

// report notes whether the kernel has what it should have.
func (e *Enforcer) report(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err != nil {
		e.Logger.Error("network policies are not up to date", "error", err)
	}
	e.failure = err
}

func (e *Enforcer) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.policies)
}

// notify wakes those in waitFor. The caller holds mu.
func (e *Enforcer) notify() {
	if e.changed != nil {
		close(e.changed)
		e.changed = nil
	}
}

// waitFor waits until cond, which is called with mu held, is true. It returns
// false if ctx ended first.
func (e *Enforcer) waitFor(ctx context.Context, cond func() bool) bool {
	for {
		e.mu.Lock()
		ok := cond()
		if e.changed == nil {
			e.changed = make(chan struct{})
		}
		changed := e.changed
		e.mu.Unlock()
		if ok {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-changed:
		}
	}
}

// setPolicy takes in a policy. The mutex orders it with the start of a session.
func (e *Enforcer) setPolicy(np *networkingv1.NetworkPolicy) {
	e.mu.Lock()
	defer e.mu.Unlock()
	np.ManagedFields = nil
	e.policies[plan.Key{Namespace: np.Namespace, Name: np.Name}] = np
	if e.session != nil {
		e.plan(np)
	}
	e.notify()
}

// plan gives a policy to the session. The caller holds mu.
func (e *Enforcer) plan(np *networkingv1.NetworkPolicy) {
	if err := e.session.planner.SetPolicy(np); err != nil {
		e.Logger.Warn("part of a network policy makes no sense, and allows nothing", "policy", np.Namespace+"/"+np.Name, "error", err)
	}
	e.session.touch()
}

func (e *Enforcer) dropPolicy(key plan.Key) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.policies, key)
	if e.session != nil {
		e.session.planner.DeletePolicy(key)
		e.session.touch()
	}
	e.notify()
}

// sortedPolicies is for the same log at every start. The caller holds mu.
func (e *Enforcer) sortedPolicies() []*networkingv1.NetworkPolicy {
	return slices.SortedFunc(maps.Values(e.policies), func(a, b *networkingv1.NetworkPolicy) int {
		return slices.Compare([]string{a.Namespace, a.Name}, []string{b.Namespace, b.Name})
	})
}
