// Package pause waits for time to pass, which a context may cut short. It knows
// nothing of what is waited for; growing pauses are internal/backoff's. Start
// reading at For.
package pause

import (
	"context"
	"time"
)

// For waits for d and returns true, or false as soon as ctx has ended.
func For(ctx context.Context, d time.Duration) bool {
	return Quiet(ctx, nil, d)
}

// Quiet waits until nothing has come from events for d and returns true, or
// false as soon as ctx has ended. A burst of changes becomes one that way.
func Quiet(ctx context.Context, events <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-events:
			t.Reset(d)
		case <-t.C:
			return true
		}
	}
}
