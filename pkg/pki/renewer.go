package pki

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"skiff/pkg/component"
)

// How often a Renewer looks. The timer stands still while a machine sleeps, so
// it is short and each look compares the wall clock, which costs nothing; the
// files themselves are read once an hour.
const (
	lookEvery = time.Minute
	readEvery = time.Hour
)

// Renewer keeps a Store's tree fresh while skiff runs. Call Ensure once before
// anything uses the certificates; then Run does the same again when something
// is about to expire, the clock has jumped, or files were damaged.
type Renewer struct {
	Store *Store
	Tree  []Spec
	// Facts is asked at each round; a new address becomes a new certificate.
	Facts func() Facts
	// Moved and Jumped return channels that are closed when Facts are others,
	// and when the clock has been set; they may be nil.
	Moved, Jumped func() <-chan struct{}
	// Kubeconfigs are rewritten when their certificate changes.
	Kubeconfigs []KubeconfigFile
	// Changed is called after a round that changed something; it may be nil.
	Changed func(Report)
	Logger  *slog.Logger

	mu      sync.Mutex
	last    time.Time // guarded by mu: wall clock of the last round
	due     time.Time // guarded by mu: when the first certificate is due
	lastErr error     // guarded by mu
}

var (
	_ component.Component = (*Renewer)(nil)
	_ component.Readier   = (*Renewer)(nil)
)

// Name implements component.Component.
func (r *Renewer) Name() string { return "certificates" }

// Ready returns what the last round could not do.
func (r *Renewer) Ready(context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last.IsZero() {
		return errors.New("certificates have not been looked at yet")
	}
	return r.lastErr
}

// Ensure runs one round: certificates, then kubeconfigs.
func (r *Renewer) Ensure() (Report, error) {
	now := r.Store.Now().Round(0) // Without the monotonic reading, which does not see the clock being set.
	report, err := r.Store.Ensure(r.Tree, r.Facts())
	if err == nil {
		err = r.writeKubeconfigs(&report)
	}
	r.mu.Lock()
	r.last, r.lastErr = now, err
	r.due = r.Store.nextDue(r.Tree)
	r.mu.Unlock()
	return report, err
}

func (r *Renewer) writeKubeconfigs(report *Report) error {
	var errs []error
	for _, k := range r.Kubeconfigs {
		written, err := r.Store.WriteKubeconfig(k)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if written {
			report.Changes = append(report.Changes, Change{Name: k.Path, Action: "written", Reason: "content changed"})
		}
	}
	return errors.Join(errs...)
}

// Run implements component.Component. A round that fails is logged and tried
// again: what is there stays in use until it expires.
func (r *Renewer) Run(ctx context.Context) error {
	timer := time.NewTimer(r.wait())
	defer timer.Stop()
	moved, jumped := channel(r.Moved), channel(r.Jumped)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-moved:
			moved = channel(r.Moved) // Before Ensure asks for the facts.
		case <-jumped:
			jumped = channel(r.Jumped)
		case <-timer.C:
			if !r.isDue(r.Store.Now().Round(0)) {
				timer.Reset(r.wait())
				continue
			}
		}
		report, err := r.Ensure()
		report.Log(r.Logger)
		if err != nil {
			r.Logger.Error("certificates could not be renewed", "error", err)
		}
		if r.Changed != nil && len(report.Changes) > 0 {
			r.Changed(report)
		}
		timer.Reset(r.wait())
	}
}

func channel(f func() <-chan struct{}) <-chan struct{} {
	if f == nil {
		return nil
	}
	return f()
}

// wait is how long to wait until the next look.
func (r *Renewer) wait() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.due.IsZero() {
		return lookEvery
	}
	return min(max(r.due.Sub(r.Store.Now().Round(0)), time.Second), lookEvery)
}

// isDue reports whether to run a round now.
func (r *Renewer) isDue(now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	passed := now.Sub(r.last)
	jumpedBack := passed < -lookEvery
	return jumpedBack || passed >= readEvery || r.lastErr != nil || (!r.due.IsZero() && !now.Before(r.due) && passed > 0 && r.last.Before(r.due))
}

// nextDue returns when the first of the tree's leaves is to be renewed.
func (s *Store) nextDue(tree []Spec) time.Time {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var due time.Time
	for _, spec := range tree {
		c := s.pairs[spec.Name].leaf()
		if c == nil || spec.Use == Authority {
			continue
		}
		if at := s.RenewAt(c); due.IsZero() || at.Before(due) {
			due = at
		}
	}
	return due
}
