package cli

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestCollectorFollowsLoad(t *testing.T) {
	tests := []struct {
		name   string
		cycles []int // per interval after ready
		want   []string
	}{
		{"rests after three quiet intervals", []int{2, 0, 0, 0, 0}, []string{"0s 100", "40s 25", "40s release"}},
		{"any collection starts the count again", []int{0, 0, 1, 0, 0}, []string{"0s 100"}},
		{"load ends the rest", []int{0, 0, 0, 2, 3, 0, 0}, []string{"0s 100", "30s 25", "30s release", "50s 100"}},
		{"and rest comes back", []int{0, 0, 0, 9, 1, 0, 0, 0}, []string{"0s 100", "30s 25", "30s release", "40s 100", "1m20s 25", "1m20s release"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var done uint64
				var got []string
				begin := time.Now()
				note := func(what any) { got = append(got, fmt.Sprint(time.Since(begin), " ", what)) }
				c := &collector{
					cycles:  func() uint64 { return done },
					percent: func(p int) { note(p) },
					release: func() { note("release") },
				}
				ready := make(chan struct{})
				close(ready)
				ctx, cancel := context.WithCancel(t.Context())
				finished := make(chan struct{})
				go func() { defer close(finished); c.run(ctx, ready) }()
				for _, n := range tt.cycles {
					time.Sleep(gcInterval / 2)
					done += uint64(n)
					time.Sleep(gcInterval / 2)
					synctest.Wait()
				}
				cancel()
				<-finished
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

func TestCollectorBeforeReady(t *testing.T) {
	c := &collector{
		cycles:  func() uint64 { return 0 },
		percent: func(p int) { t.Errorf("percent set to %d before ready", p) },
		release: func() { t.Error("memory released before ready") },
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c.run(ctx, make(chan struct{}))
}
