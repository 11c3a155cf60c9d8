package netpol

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/client-go/kubernetes"

	"skiff/internal/backoff"
	"skiff/internal/signal"
	"skiff/pkg/agent/netpol/kernel"
	"skiff/pkg/agent/netpol/plan"
	"skiff/pkg/hostchange"
)

// session is the time in which there are policies. All fields but wake are
// guarded by Enforcer.mu.
type session struct {
	planner *plan.Planner
	synced  bool   // the cluster is known, the table is being kept
	wanted  uint64 // generation of what planner knows
	done    uint64 // generation that the kernel has
	suspect bool   // the table may be gone from the kernel
	wake    signal.Signal
}

// touch says that planner has been told something. The caller holds the mutex.
func (s *session) touch() {
	s.wanted++
	s.wake.Send()
}

// runSession keeps the table until there have been no policies for a while.
func (e *Enforcer) runSession(ctx context.Context, client kubernetes.Interface) error {
	if err := e.Changes.Record(hostchange.Change{Kind: hostchange.Table, Value: "inet " + kernel.TableName}); err != nil {
		return err
	}
	s := e.open()
	defer e.close()
	e.checkBridge()
	ctx, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	guard, err := kernel.NewGuard()
	if err != nil {
		return err
	}
	wg.Go(func() { e.guard(ctx, s, guard) })
	feeds := e.feeds(s, client)
	for _, f := range feeds {
		wg.Go(func() { f.run(ctx) })
	}
	for _, f := range feeds {
		select {
		case <-ctx.Done():
			return nil
		case <-f.synced:
		}
	}
	e.mu.Lock()
	s.synced = true
	s.touch()
	e.notify()
	e.mu.Unlock()
	e.keep(ctx, s)
	return nil
}

// open begins a session with what is known already.
func (e *Enforcer) open() *session {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := &session{planner: plan.New(e.base()), wake: signal.New()}
	e.session = s
	for _, np := range e.sortedPolicies() {
		e.plan(np)
	}
	for ip, c := range e.claims {
		s.planner.Claim(c, ip)
	}
	return s
}

func (e *Enforcer) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.session = nil
	e.notify()
}

func (e *Enforcer) base() plan.Base {
	b := plan.Base{Bridge: e.Bridge}
	for _, p := range e.PodCIDR {
		b.IPv4 = b.IPv4 || p.Addr().Is4()
		b.IPv6 = b.IPv6 || p.Addr().Is6()
	}
	return b
}

// keep brings the kernel up to date whenever the plan has changed. While one
// transaction runs changes gather for the next.
func (e *Enforcer) keep(ctx context.Context, s *session) {
	retry := backoff.Sequence{Min: 100 * time.Millisecond, Max: 30 * time.Second}
	all, unused := true, false
	idle := time.NewTimer(linger)
	defer idle.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
			if now := e.count() == 0; now != unused {
				unused = now
				idle.Reset(linger)
			}
		case <-idle.C:
			if unused {
				return
			}
			continue
		}
		if err := e.program(ctx, s, all); err != nil {
			if ctx.Err() != nil {
				return
			}
			// What the kernel has now is not known: everything is made anew.
			all = true
			e.report(err)
			if retry.Wait(ctx) != nil {
				return
			}
			s.wake.Send()
			continue
		}
		all = false
		retry.Reset()
	}
}

// guard has the table looked for whenever it was deleted.
func (e *Enforcer) guard(ctx context.Context, s *session, g *kernel.Guard) {
	err := g.Run(ctx, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		s.suspect = true
		s.touch()
	})
	if err != nil {
		e.Logger.Error("if something deletes the table of network policies, it is not made again", "error", err)
	}
}

// lost reports whether the table has to be made again.
func (e *Enforcer) lost(ctx context.Context, s *session) (bool, error) {
	e.mu.Lock()
	suspect := s.suspect
	s.suspect = false
	e.mu.Unlock()
	if !suspect {
		return false, nil
	}
	there, err := e.table.Exists(ctx)
	if err == nil && !there {
		e.Logger.Warn("something has deleted the nftables table of network policies; it is made again", "table", kernel.TableName)
	}
	return !there, err
}

// program does one transaction.
func (e *Enforcer) program(ctx context.Context, s *session, all bool) error {
	if !all {
		var err error
		if all, err = e.lost(ctx, s); err != nil {
			return err
		}
	}
	e.mu.Lock()
	generation := s.wanted
	var c plan.Changes
	if all {
		c = s.planner.All()
	} else {
		c = s.planner.Flush()
	}
	e.mu.Unlock()
	if !c.Empty() {
		begin := time.Now()
		if err := e.table.Apply(ctx, c); err != nil {
			return err
		}
		e.Logger.Debug("rules changed", "all", c.All, "sets", len(c.Sets), "chains", len(c.Chains),
			"added", len(c.Add), "deleted", len(c.Delete), "took", time.Since(begin))
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	s.done = generation
	e.failure = nil
	e.notify()
	return nil
}

// noteKey is that of the note about the bridge.
const noteKey = "network-policy/bridge"

// checkBridge tells a person when packets between pods of this node cannot be
// seen.
func (e *Enforcer) checkBridge() {
	names := []string{"net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"}
	blind := slices.ContainsFunc(names, func(name string) bool {
		have, err := os.ReadFile(sysctl(name))
		return err != nil || strings.TrimSpace(string(have)) != "1"
	})
	if !blind {
		e.Notes.Clear(noteKey)
		return
	}
	message := fmt.Sprintf("network policies have no effect between pods of this node: the kernel does not show bridged packets to filters; run: modprobe br_netfilter, see that the sysctls %s are 1, and restart skiff",
		strings.ReplaceAll(strings.Join(names, " and "), "/", "."))
	e.Notes.Set(noteKey, message)
	e.Logger.Error("network policies have no effect between pods of this node", "try", "modprobe br_netfilter")
}
