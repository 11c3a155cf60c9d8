// Package reconcile keeps something as the API has it: changes of objects become
// one signal, and a loop answers it with a look at everything. It must not know
// what is kept. A controller with work for single objects has a work queue
// instead. Start reading at Loop.
package reconcile

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"k8s.io/client-go/tools/cache"

	"skiff/internal/pause"
	"skiff/internal/signal"
)

// OnChange calls f for every change of the informers' objects, or for those
// updates that matter. The error is that an informer has been stopped.
func OnChange(f func(), matters func(before, after any) bool, informers ...cache.SharedIndexInformer) error {
	handler := cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { f() }, DeleteFunc: func(any) { f() },
		UpdateFunc: func(before, after any) {
			if matters == nil || matters(before, after) {
				f()
			}
		},
	}
	for _, i := range informers {
		if _, err := i.AddEventHandler(handler); err != nil {
			return fmt.Errorf("follow objects: %w", err)
		}
	}
	return nil
}

// Loop brings something up to date, first at once and then whenever it is due.
type Loop struct {
	// Changed is when to look again.
	Changed signal.Signal
	// Gather is how long changes are collected before Sync is called.
	Gather time.Duration
	// Retry is how long to wait after a failure.
	Retry time.Duration
	// Sync returns after what time to look again without a change, or 0.
	Sync func(context.Context) (again time.Duration, err error)
	// Failed is what the log says of a failure.
	Failed string
	Logger *slog.Logger
}

// Run works until ctx ends.
func (l Loop) Run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-l.Changed:
			if l.Gather > 0 && !pause.For(ctx, l.Gather) {
				return
			}
			l.Changed.Clear() // What has come meanwhile, Sync sees.
		}
		timer.Stop()
		if next := l.sync(ctx); next > 0 {
			timer.Reset(next)
		}
	}
}

func (l Loop) sync(ctx context.Context) (next time.Duration) {
	next, err := l.Sync(ctx)
	if err == nil || ctx.Err() != nil {
		return next
	}
	l.Logger.Warn(l.Failed+", trying again", "error", err, "in", l.Retry)
	return l.Retry
}
