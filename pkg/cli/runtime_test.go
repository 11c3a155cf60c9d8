package cli

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// fakeCollector notes what is set, with the time since the start of the test.
func fakeCollector(got *[]string) (c *collector, cycles *uint64) {
	cycles = new(uint64)
	begin := time.Now()
	note := func(what any) { *got = append(*got, fmt.Sprint(time.Since(begin), " ", what)) }
	return &collector{
		cycles:  func() uint64 { return *cycles },
		percent: func(p int) { note(p) },
		release: func() { note("release") },
	}, cycles
}

func TestCollectorFollowsLoad(t *testing.T) {
	atReady := []string{"0s 25", "0s release"}
	tests := []struct {
		name   string
		cycles []int // per interval after ready
		want   []string
	}{
		{"rests while there is little to do", []int{2, 0, 2, 0, 0}, nil},
		{"load ends the rest", []int{0, 3, 2, 0, 0}, []string{"20s 100"}},
		{"three quiet intervals bring it back", []int{9, 1, 0, 0, 0, 0}, []string{"10s 100", "50s 25", "50s release"}},
		{"any collection starts the count again", []int{9, 0, 0, 1, 0, 0}, []string{"10s 100"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var got []string
				c, cycles := fakeCollector(&got)
				ready := make(chan struct{})
				close(ready)
				ctx, cancel := context.WithCancel(t.Context())
				finished := make(chan struct{})
				go func() { defer close(finished); c.run(ctx, ready) }()
				for _, n := range tt.cycles {
					time.Sleep(gcInterval / 2)
					*cycles += uint64(n)
					time.Sleep(gcInterval / 2)
					synctest.Wait()
				}
				cancel()
				<-finished
				if diff := cmp.Diff(append(atReady[:2:2], tt.want...), got); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

func TestCollectorBeforeReady(t *testing.T) {
	var got []string
	c, _ := fakeCollector(&got)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c.run(ctx, make(chan struct{}))
	if len(got) > 0 {
		t.Errorf("before the start is over: %q", got)
	}
}
