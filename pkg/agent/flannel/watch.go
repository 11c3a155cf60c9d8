package flannel

import (
	"context"
	"log/slog"
	"time"

	"skiff/internal/pause"
	"skiff/internal/signal"
)

// againAfter is how long a broken watch of the host's interfaces rests. What
// broke it is usually a burst of changes.
const againAfter = time.Second

// watch puts a value into changed, which holds one, whenever there is an update
// that matters or may have been one, until ctx ends. The kernel ends a
// subscription that does not keep up; what was missed is a change, and another
// is made.
func watch[T any](ctx context.Context, changed signal.Signal, logger *slog.Logger, subscribe func(chan<- T, <-chan struct{}) error, matters func(T) bool) {
	for {
		follow(ctx, changed, logger, subscribe, matters)
		changed.Send()
		if !pause.For(ctx, againAfter) {
			return
		}
	}
}

// follow watches until the subscription ends.
func follow[T any](ctx context.Context, changed signal.Signal, logger *slog.Logger, subscribe func(chan<- T, <-chan struct{}) error, matters func(T) bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	updates := make(chan T, 64)
	if err := subscribe(updates, ctx.Done()); err != nil {
		logger.Error("cannot watch the host's interfaces, looking at them each second", "error", err)
		return
	}
	for u := range updates {
		if matters(u) {
			changed.Send()
		}
	}
}
