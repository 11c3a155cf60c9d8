package component

import (
	"context"
	"errors"
	"fmt"
	"time"

	"skiff/internal/pause"
)

// How often readiness is looked at. Until a component is ready, others wait for
// it, so the polls are dense; later they only serve the person who asks for the
// status, and an idle machine should stay idle.
const (
	pollMin      = 5 * time.Millisecond
	pollMax      = 200 * time.Millisecond
	pollShare    = 20 // while starting: at most 1/20 of the time waited so far is lost
	pollReady    = 5 * time.Second
	pollDegraded = time.Second
	checkLimit   = 10 * time.Second // for one call of Ready
	firstWaitLog = time.Second
	nextWaitLog  = 10 * time.Second
)

// watch follows the component's readiness until ctx ends.
func (n *node) watch(ctx context.Context) {
	started := time.Now()
	nextLog := started.Add(firstWaitLog)
	wasReady, late := false, false
	for {
		err := n.checkOnce(ctx)
		if ctx.Err() != nil {
			return // Whatever the check said, it is about the stop.
		}
		now := time.Now()
		var next time.Duration
		first := err != nil && wasReady && !late
		late = err != nil
		switch {
		case err == nil:
			if !wasReady {
				n.becameReady()
				wasReady = true
			} else {
				n.stillReady()
			}
			if n.check == nil {
				return
			}
			nextLog = now
			next = pollReady
		case first: // On a busy machine one answer that is late means nothing.
			n.logger.Debug("not ready, asking again", "missing", err)
			next = pollDegraded
		case wasReady:
			n.enter(Degraded, err.Error())
			next = pollDegraded
		default:
			n.enter(Starting, err.Error())
			next = min(max(now.Sub(started)/pollShare, pollMin), pollMax)
		}
		if err != nil && !first && !now.Before(nextLog) {
			n.logMissing(err, wasReady, now.Sub(started))
			nextLog = now.Add(nextWaitLog)
		}
		if !pause.For(ctx, next) {
			return
		}
	}
}

// logMissing says what keeps the component from being ready.
func (n *node) logMissing(err error, wasReady bool, waited time.Duration) {
	if wasReady {
		n.logger.Warn("not ready any more", "missing", err)
		return
	}
	n.logger.Info("not ready yet", "missing", err, "waited", waited.Round(time.Millisecond))
}

// checkOnce calls Ready with a limit, so that a check which hangs shows as
// such, and makes an error of a panic.
func (n *node) checkOnce(ctx context.Context) error {
	if n.check == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, checkLimit)
	defer cancel()
	err := guard(ctx, n.check)
	if p, ok := errors.AsType[*PanicError](err); ok {
		n.logger.Debug("readiness check panicked", "stack", string(p.Stack))
		return fmt.Errorf("readiness check panicked: %v", p.Value)
	}
	return err
}

// becameReady marks the first time in this run.
func (n *node) becameReady() {
	var after time.Duration
	n.update(func(st *Status) {
		after = time.Since(st.Started)
		st.ReadyAfter = max(after, 1) // 0 means not ready; a fake clock may not have moved.
		st.enter(Ready, "")
		select {
		case <-n.ready: // It was ready in an earlier run.
		default:
			close(n.ready)
		}
	})
	n.logger.Info("ready", "after", after.Round(time.Millisecond))
}

// stillReady ends a degradation where there was one.
func (n *node) stillReady() {
	var since time.Time
	n.update(func(st *Status) {
		if st.State == Degraded {
			since = st.Since
			st.enter(Ready, "")
		}
	})
	if !since.IsZero() {
		n.logger.Info("ready again", "after", time.Since(since).Round(time.Millisecond))
	}
}
