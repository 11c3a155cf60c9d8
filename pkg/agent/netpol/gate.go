package netpol

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"skiff/internal/pause"
	"skiff/pkg/agent/netpol/kernel"
	"skiff/pkg/agent/netpol/plan"
)

// patience is how long a pod waits for its address. The kubelet tries again.
const patience = 20 * time.Second

// lag is how long after its address a sandbox has certainly lost its interface.
const lag = 3 * time.Second

// Request is what the CNI plug-in writes to the socket before it gives
// addresses to a pod, or, without addresses, after it has taken them away
// (payload/announce). It is one line of JSON.
type Request struct {
	Namespace string       `json:"namespace"`
	Name      string       `json:"name"`
	UID       string       `json:"uid"`
	Sandbox   string       `json:"sandbox"`
	IPs       []netip.Addr `json:"ips"`
}

// Answer is what it gets back: an empty error lets the pod have the addresses.
type Answer struct {
	Error string `json:"error,omitempty"`
}

func listenGate(socket string) (*net.UnixListener, error) {
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listen for new pods: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen for new pods: %w", err)
	}
	if err := os.Chmod(socket, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("listen for new pods: %w", err), l.Close())
	}
	return l, nil
}

// serveGate answers until l is closed.
func (e *Enforcer) serveGate(ctx context.Context, l *net.UnixListener) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() == nil {
				e.Logger.Error("new pods are not heard any more, and cannot start; restart skiff", "error", err)
			}
			return
		}
		wg.Go(func() { e.serveOne(ctx, conn) })
	}
}

func (e *Enforcer) serveOne(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience + time.Second)) // only fails on a closed connection
	var r Request
	var answer Answer
	if err := json.NewDecoder(conn).Decode(&r); err != nil {
		answer.Error = fmt.Sprintf("read request: %v", err)
	} else if len(r.IPs) == 0 {
		defer e.release(ctx, r.Sandbox)
	} else if err := e.admit(ctx, r); err != nil {
		answer.Error = err.Error()
	}
	if err := json.NewEncoder(conn).Encode(answer); err != nil {
		e.Logger.Debug("a CNI plug-in has not waited for its answer", "pod", r.Namespace+"/"+r.Name, "error", err)
	}
}

// admit returns when a pod may have its addresses: what isolates it is in
// force, or nothing does.
func (e *Enforcer) admit(ctx context.Context, r Request) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c := plan.Claim{Pod: plan.Key{Namespace: r.Namespace, Name: r.Name}, UID: r.UID, Sandbox: r.Sandbox}
	if err := e.claim(c, r.IPs); err != nil {
		return err
	}
	for {
		ok := e.waitFor(ctx, func() bool {
			return e.listed && (len(e.policies) == 0 || e.session != nil && e.session.synced)
		})
		if !ok {
			return fmt.Errorf("the network policies for pod %s are not known: the API server has not answered within %s", c.Pod, patience)
		}
		s, generation, open := e.tell(c, r.IPs)
		if s == nil && !open {
			continue // The last policy has gone just now.
		}
		if open {
			return nil
		}
		if err := kernel.CutConnections(r.IPs); err != nil {
			e.Logger.Warn("connections to an address used again go on", "error", err)
		}
		if !e.waitFor(ctx, func() bool { return e.session != s || s.done >= generation }) {
			return fmt.Errorf("the network policies for pod %s are not in force: %w", c.Pod, e.why())
		}
		e.mu.Lock()
		same := e.session == s
		e.mu.Unlock()
		if same {
			return nil
		}
	}
}

// claim remembers whose the addresses are.
func (e *Enforcer) claim(c plan.Claim, ips []netip.Addr) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, ip := range ips {
		e.claims[ip.Unmap()] = c
	}
	return e.claims.save(e.Layout.NetworkPolicyClaims())
}

// release forgets whose the addresses of a sandbox were, once it cannot be
// reached any more. If skiff ends before, the next one finds that they are free.
func (e *Enforcer) release(ctx context.Context, sandbox string) {
	if sandbox == "" || !pause.For(ctx, lag) {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	maps.DeleteFunc(e.claims, func(_ netip.Addr, c plan.Claim) bool { return c.Sandbox == sandbox })
	if err := e.claims.save(e.Layout.NetworkPolicyClaims()); err != nil {
		e.Logger.Warn("a pod's address stays reserved", "error", err)
	}
	if e.session != nil {
		e.session.planner.Release(sandbox)
		e.session.touch()
	}
	e.notify()
}

// tell tells the session of a new pod. open means that it need not wait.
func (e *Enforcer) tell(c plan.Claim, ips []netip.Addr) (s *session, generation uint64, open bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.policies) == 0 {
		return nil, 0, true
	}
	if e.session == nil || !e.session.synced {
		return nil, 0, false
	}
	s = e.session
	open = s.planner.Claim(c, ips...)
	s.touch()
	return s, s.wanted, open
}

func (e *Enforcer) why() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.failure != nil {
		return e.failure
	}
	return errors.New("nftables has not answered in time")
}
