package component

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"runtime/pprof"
	"slices"
	"strings"
	"time"

	"skiff/internal/backoff"
)

// node is one component in its Group.
type node struct {
	group      *Group
	logger     *slog.Logger
	name       string
	task       bool
	run        func(context.Context) error
	check      func(context.Context) error // nil: ready when it runs
	deps       []*node
	restart    *Backoff
	stopWithin time.Duration
	ready      chan struct{} // closed when it has been ready once
	done       chan struct{} // closed when it is over, or given up

	// Guarded by group.mu.
	dependents []*node
	status     Status
}

var (
	errReturned = errors.New("returned although nobody told it to stop")
	errExited   = errors.New("its goroutine ended without returning")
)

// supervise is the whole life of the node, with the values of base.
func (n *node) supervise(base context.Context) {
	if !n.awaitDeps() {
		n.enter(Stopped, "never started")
		return
	}
	ctx, cancel := context.WithCancelCause(base)
	defer cancel(nil)

	ended := make(chan struct{})
	go func() {
		defer close(ended)
		pprof.Do(ctx, pprof.Labels("component", n.name), n.live)
	}()

	// A node that has failed, or a task that is done, still stands between
	// those that depend on it and those it depends on, so it takes its turn in
	// the stop like any other.
	<-n.group.stop
	for _, d := range n.allDependents() {
		<-d.done
	}
	n.enterUnlessOver(Stopping, "")
	cancel(n.group.cause)

	limit := time.NewTimer(n.stopWithin)
	defer limit.Stop()
	select {
	case <-ended:
		n.enterUnlessOver(Stopped, "")
	case <-limit.C:
		err := fmt.Errorf("did not stop within %v", n.stopWithin)
		n.logger.Error("component did not stop in time, going on without it", "limit", n.stopWithin)
		n.enter(Failed, err.Error())
		n.group.fail(n.name, err)
	}
}

// awaitDeps reports whether all dependencies became ready before the stop.
func (n *node) awaitDeps() bool {
	for _, d := range n.deps {
		n.update(func(st *Status) { st.Message = n.missingDeps() })
		select {
		case <-d.ready:
		case <-n.group.stop:
			return false
		}
	}
	select {
	case <-n.group.stop:
		return false
	default:
		return true
	}
}

// missingDeps says which dependencies have not been ready yet.
func (n *node) missingDeps() string {
	var missing []string
	for _, d := range n.deps {
		select {
		case <-d.ready:
		default:
			missing = append(missing, d.name)
		}
	}
	return "waiting for " + strings.Join(missing, ", ")
}

// live runs the component, again and again where that was asked for, until its
// ctx ends or it has failed for good.
func (n *node) live(ctx context.Context) {
	var pause backoff.Sequence
	if n.restart != nil {
		pause = backoff.Sequence{Min: n.restart.Min, Max: n.restart.Max}
	}
	for {
		started := time.Now()
		err := n.once(ctx)
		switch {
		case ctx.Err() != nil:
			n.stopped(ctx, err)
			return
		case n.task && err == nil:
			return
		case n.restart == nil || n.isStopping():
			n.logger.Error("component failed", "err", err)
			n.enter(Failed, err.Error())
			n.group.fail(n.name, err)
			return
		}
		if time.Since(started) > n.restart.Max {
			pause.Reset()
		}
		delay := pause.Next()
		n.logger.Warn("component failed, restarting it", "err", err, "delay", delay)
		n.update(func(st *Status) {
			st.Restarts++
			st.enter(Degraded, fmt.Sprintf("restarting in %v: %v", delay, err))
		})
		if !n.rest(ctx, delay) {
			n.enter(Stopped, err.Error())
			return
		}
	}
}

// rest waits before a restart; it reports false if there is to be none.
func (n *node) rest(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-n.group.stop:
		return false
	case <-ctx.Done():
		return false
	}
}

// once calls Run, with the readiness watch beside it, and returns when both
// have returned. A component that returns nil unasked gets an error.
func (n *node) once(ctx context.Context) error {
	n.update(func(st *Status) {
		st.Started, st.ReadyAfter = time.Now(), 0
		st.enter(Starting, "")
	})
	watchCtx, endWatch := context.WithCancel(ctx)
	defer endWatch()
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		if !n.task {
			n.watch(watchCtx)
		}
	}()
	err := guard(ctx, n.run)
	endWatch()
	<-watched
	if n.task && err == nil {
		n.becameReady()
	}
	if !n.task && err == nil && ctx.Err() == nil {
		return errReturned
	}
	return err
}

// stopped records the end of a component that was told to stop.
func (n *node) stopped(ctx context.Context, err error) {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.Cause(ctx)) {
		n.logger.Debug("component stopped")
		return
	}
	n.logger.Warn("component stopped with an error", "err", err)
	n.enterUnlessOver(Failed, err.Error())
	n.group.fail(n.name, err)
}

// guard calls fn and makes an error of a panic. Whatever ends the goroutine
// otherwise (runtime.Goexit) is not caught: supervise would wait for nothing,
// so it is made an error too.
func guard(ctx context.Context, fn func(context.Context) error) error {
	result := make(chan error, 1)
	go func() {
		err := errExited
		defer func() {
			if r := recover(); r != nil {
				err = &PanicError{Value: r, Stack: debug.Stack()}
			}
			result <- err
		}()
		err = fn(ctx)
	}()
	return <-result
}

// PanicError is a panic of a component as an error.
type PanicError struct {
	Value any
	Stack []byte
}

// Error returns the value and the stack of the panic.
func (e *PanicError) Error() string {
	return fmt.Sprintf("panic: %v\n%s", e.Value, e.Stack)
}

// Unwrap returns the value of the panic where that is an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

func (n *node) isStopping() bool {
	select {
	case <-n.group.stop:
		return true
	default:
		return false
	}
}

func (n *node) allDependents() []*node {
	n.group.mu.Lock()
	defer n.group.mu.Unlock()
	return slices.Clone(n.dependents)
}

// update changes the status under the lock.
func (n *node) update(change func(*Status)) {
	n.group.mu.Lock()
	defer n.group.mu.Unlock()
	before := n.status
	change(&n.status)
	n.group.updateReady()
	if now := n.status; n.group.changed != nil && (now.State != before.State || now.Message != before.Message || now.Restarts != before.Restarts) {
		close(n.group.changed)
		n.group.changed = nil
	}
}

func (n *node) enter(s State, message string) {
	n.update(func(st *Status) { st.enter(s, message) })
}

// enterUnlessOver is enter for what must not overwrite the end of the story: a
// failure, or that the component was given up.
func (n *node) enterUnlessOver(s State, message string) {
	n.update(func(st *Status) {
		if st.State != Failed && st.State != Stopped {
			st.enter(s, message)
		}
	})
}
