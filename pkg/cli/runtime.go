package cli

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"golang.org/x/sys/unix"

	"skiff/internal/signal"
)

// How far the heap may grow beyond what lives on it before it is collected, in
// percent (GOGC). The control plane's heap is large and mostly caches: at rest
// a small surplus costs next to nothing, under load a large one saves CPU.
const (
	gcAtRest = 20
	gcUnder  = 100 // load
	// gcShare of the machine's memory is what the surplus may take under load: one
	// part in so many. With 512 MiB it is 32, beside 90 that live. More would push
	// out of memory what runs: pages of the executable, which a card reads slowly.
	gcShare = 16

	// gcStarting is low although a start would be quicker with few collections:
	// what stays is scattered over all the memory the heap has had, and Go
	// never moves it together (in use at rest, for 85 MB of live objects: 122
	// MB after a start with 50, 133 after 100, 149 after 200; 25 saves another
	// 14 with all services). A memory limit instead, at what is needed in the
	// end, keeps it together but costs half as much CPU again.
	gcStarting = 25

	// gcBusy collections within gcBurst are load.
	gcBusy  = 2
	gcBurst = 3 * time.Second
	// gcQuiet without a collection is rest. It is looked for every gcInterval.
	gcQuiet    = 3
	gcInterval = 10 * time.Second

	// profileRate is one sample of the heap profile per so many bytes. What the
	// samples themselves take is never given back, with Go's own rate 2 MB.
	profileRate = 4 << 20
)

// collector adapts Go's garbage collection to what the process is doing: few
// collections under load, little surplus memory at rest. The functions are
// Go's; tests have their own.
type collector struct {
	happened <-chan struct{} // says, soon after it, that there was a collection
	cycles   func() uint64   // collections so far
	live     func() uint64   // bytes in use, as the last collection has found
	memory   uint64          // bytes the machine has; 0 is unknown
	percent  func(int)       // sets GOGC
	release  func()          // collects, and returns free memory to the system
}

// newCollector returns the collector of this process, set up for the start, or
// nil when the user has set GOGC, which the runtime has then read by itself.
func newCollector() *collector {
	if os.Getenv("GOGC") != "" {
		return nil
	}
	c := &collector{
		happened: watchCollections(),
		cycles:   func() uint64 { return measured("/gc/cycles/automatic:gc-cycles") }, // those the heap's growth has caused
		live:     func() uint64 { return measured("/gc/heap/live:bytes") },
		memory:   machineMemory(),
		percent:  func(p int) { debug.SetGCPercent(p) },
		release:  debug.FreeOSMemory,
	}
	c.percent(gcStarting)
	runtime.MemProfileRate = profileRate
	return c
}

// run waits for ready and then follows the load until ctx ends.
func (c *collector) run(ctx context.Context, ready <-chan struct{}) {
	if c == nil {
		return
	}
	select {
	case <-ctx.Done():
		return
	case <-ready:
	}
	for c.untilLoad(ctx) {
		c.percent(c.underLoad())
		if !c.untilQuiet(ctx) {
			return
		}
	}
}

// underLoad is the GOGC for load on this machine.
func (c *collector) underLoad() int {
	if c.memory == 0 {
		return gcUnder
	}
	fits := c.memory / gcShare * 100 / max(c.live(), 1)
	return int(min(max(fits, gcAtRest), gcUnder)) //nolint:gosec // It is between both.
}

// machineMemory is what the kernel says, in bytes, or 0.
func machineMemory() uint64 {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0
	}
	return info.Totalram * uint64(info.Unit)
}

// untilLoad rests until there is load, and returns false if ctx ends before. A
// load is noticed by its own collections: a burst of requests should not run
// with a small heap until a timer looks.
func (c *collector) untilLoad(ctx context.Context) bool {
	c.percent(gcAtRest)
	c.release()
	last, since, burst := c.cycles(), time.Time{}, uint64(0)
	for {
		select {
		case <-ctx.Done():
			return false
		case <-c.happened:
		}
		now, n := time.Now(), c.cycles()-last // none: it was asked for
		last += n
		if now.Sub(since) > gcBurst {
			since, burst = now, 0
		}
		if burst += n; burst >= gcBusy {
			return true
		}
	}
}

// untilQuiet waits for the end of a load, and returns false if ctx ends before.
func (c *collector) untilQuiet(ctx context.Context) bool {
	tick := time.NewTicker(gcInterval)
	defer tick.Stop()
	last, quiet := c.cycles(), 0
	for quiet < gcQuiet {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
		now := c.cycles()
		if quiet++; now != last {
			last, quiet = now, 0
		}
	}
	return true
}

// watchCollections returns a channel that gets a value after each collection.
// The runtime has no other sign of one: an object that nothing refers to is
// found by each.
func watchCollections() <-chan struct{} {
	out := signal.New()
	leave(out)
	return out
}

// sentinel is an object for the collector to find.
type sentinel struct{ out signal.Signal }

func leave(out signal.Signal) {
	runtime.AddCleanup(&sentinel{out}, func(out signal.Signal) {
		out.Send()
		leave(out)
	}, out)
}

// measured is one of the runtime's own figures.
func measured(name string) uint64 {
	sample := []metrics.Sample{{Name: name}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
