package pause

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestPause(t *testing.T) {
	tests := []struct {
		name   string
		events []time.Duration // since the one before
		cancel time.Duration
		passed bool
		after  time.Duration
	}{
		{"nothing happens", nil, time.Hour, true, time.Second},
		{"ctx ends", nil, 300 * time.Millisecond, false, 300 * time.Millisecond},
		{"a burst", []time.Duration{500 * time.Millisecond, 900 * time.Millisecond, 0}, time.Hour, true, 2400 * time.Millisecond},
		{"an event too late", []time.Duration{1100 * time.Millisecond}, time.Hour, true, time.Second},
		{"ctx ends in a burst", []time.Duration{500 * time.Millisecond, 900 * time.Millisecond}, 2 * time.Second, false, 2 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), tt.cancel)
				defer cancel()
				events := make(chan struct{}, len(tt.events))
				var sender sync.WaitGroup
				defer sender.Wait()
				sender.Go(func() {
					for _, d := range tt.events {
						time.Sleep(d)
						events <- struct{}{}
					}
				})
				begin := time.Now()
				if got := Quiet(ctx, events, time.Second); got != tt.passed {
					t.Errorf("Quiet: %v, want %v", got, tt.passed)
				}
				if got := time.Since(begin); got != tt.after {
					t.Errorf("it took %v, want %v", got, tt.after)
				}
			})
		})
	}
}

func TestForEndsWithCtx(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	if !For(ctx, time.Millisecond) {
		t.Error("For returned false although ctx lives")
	}
	cancel()
	if For(ctx, time.Hour) {
		t.Error("For returned true although ctx had ended")
	}
}
