package reconcile

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"skiff/internal/signal"
)

// TestLoop looks at when Sync is called: at once, once for changes that come
// together, after a failure, and when it has asked for that.
func TestLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		var calls []string
		begin := time.Now()
		changed := signal.New()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		results := []struct {
			again time.Duration
			err   error
		}{{}, {err: errors.New("refused")}, {again: time.Minute}, {}}
		go func() {
			defer close(done)
			Loop{
				Changed: changed, Gather: time.Second, Retry: 5 * time.Second, Failed: "rules were not written",
				Logger: slog.New(slog.NewTextHandler(&log, nil)),
				Sync: func(context.Context) (time.Duration, error) {
					r := results[len(calls)]
					calls = append(calls, time.Since(begin).String())
					return r.again, r.err
				},
			}.Run(ctx)
		}()
		time.Sleep(10 * time.Second)
		for range 3 {
			changed.Send()
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(time.Hour)
		cancel()
		<-done
		if diff := cmp.Diff([]string{"0s", "11s", "16s", "1m16s"}, calls); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
		if !strings.Contains(log.String(), `msg="rules were not written, trying again" error=refused in=5s`) {
			t.Errorf("the log says %s", log.String())
		}
	})
}
