package cli

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// fakeCollector notes what is set, with the time since the start of the test.
func fakeCollector(got *[]string) (c *collector, collect func()) {
	cycles, happened := new(uint64), make(chan struct{}, 1)
	begin := time.Now()
	note := func(what any) { *got = append(*got, fmt.Sprint(time.Since(begin), " ", what)) }
	collect = func() {
		*cycles++
		select {
		case happened <- struct{}{}:
		default:
		}
	}
	return &collector{
		happened: happened,
		cycles:   func() uint64 { return *cycles },
		live:     func() uint64 { return 90 << 20 },
		percent:  func(p int) { note(p) },
		release:  func() { note("release") },
	}, collect
}

func TestCollectorFollowsLoad(t *testing.T) {
	atReady := []string{"0s 20", "0s release"}
	tests := []struct {
		name string
		at   []time.Duration // collections after ready
		ends time.Duration
		want []string
	}{
		{"rests while there is little to do", []time.Duration{1, 5, 9, 13}, 100, nil},
		{"load ends the rest at once", []time.Duration{20, 22}, 23, []string{"22s 100"}},
		{"quiet brings it back", []time.Duration{20, 21, 22, 24}, 61, []string{"21s 100", "1m1s 20", "1m1s release"}},
		{"any collection starts the count again", []time.Duration{20, 21, 45}, 80, []string{"21s 100"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var got []string
				c, collect := fakeCollector(&got)
				ready := make(chan struct{})
				close(ready)
				ctx, cancel := context.WithCancel(t.Context())
				finished := make(chan struct{})
				go func() { defer close(finished); c.run(ctx, ready) }()
				begin := time.Now()
				for _, at := range tt.at {
					time.Sleep(time.Until(begin.Add(at * time.Second)))
					collect()
					synctest.Wait()
				}
				time.Sleep(time.Until(begin.Add(tt.ends * time.Second)))
				synctest.Wait()
				cancel()
				<-finished
				if diff := cmp.Diff(append(atReady[:2:2], tt.want...), got); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

// TestCollectorOnSmallMachines leaves room for what else is in memory.
func TestCollectorOnSmallMachines(t *testing.T) {
	for memory, want := range map[uint64]int{0: 100, 256 << 20: 20, 512 << 20: 35, 1 << 30: 71, 2 << 30: 100, 64 << 30: 100} {
		c := &collector{memory: memory, live: func() uint64 { return 90 << 20 }}
		if got := c.underLoad(); got != want {
			t.Errorf("with %d MiB under load %d %%, want %d", memory>>20, got, want)
		}
	}
	if machineMemory() < 64<<20 {
		t.Errorf("this machine has %d bytes", machineMemory())
	}
	runtime.GC()
	if live := measured("/gc/heap/live:bytes"); live == 0 {
		t.Error("nothing lives on the heap")
	}
}

// TestCollectionsAreSeen lets the real runtime collect.
func TestCollectionsAreSeen(t *testing.T) {
	happened := watchCollections()
	for range 3 {
		runtime.GC()
		select {
		case <-happened:
		case <-time.After(10 * time.Second):
			t.Fatal("a collection was not seen")
		}
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
