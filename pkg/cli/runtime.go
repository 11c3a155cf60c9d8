package cli

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// How far the heap may grow beyond what lives on it before it is collected, in
// percent (GOGC). The control plane's heap is large and mostly caches: at rest
// a small surplus costs next to nothing, under load a large one saves CPU.
const (
	gcAtRest = 25
	gcUnder  = 100 // load

	// gcStarting is low although a start would be quicker with few collections:
	// what stays is scattered over all the memory the heap has had, and Go
	// never moves it together (in use at rest, for 85 MB of live objects: 122
	// MB after a start with 50, 133 after 100, 149 after 200). A memory limit
	// instead, at what is needed in the end, keeps it together but costs half
	// as much CPU again.
	gcStarting = 50

	// gcInterval is how often the load is looked at.
	gcInterval = 10 * time.Second
	// gcBusy is how many collections in one interval are load.
	gcBusy = 3
	// gcQuiet is how many intervals without a collection are rest.
	gcQuiet = 3
)

// collector adapts Go's garbage collection to what the process is doing: few
// collections under load, little surplus memory at rest. The functions are
// Go's; tests have their own.
type collector struct {
	cycles  func() uint64 // collections so far
	percent func(int)     // sets GOGC
	release func()        // collects, and returns free memory to the system
}

// newCollector returns the collector of this process, set up for the start, or
// nil when the user has set GOGC, which the runtime has then read by itself.
func newCollector() *collector {
	if os.Getenv("GOGC") != "" {
		return nil
	}
	c := &collector{
		cycles:  collections,
		percent: func(p int) { debug.SetGCPercent(p) },
		release: debug.FreeOSMemory,
	}
	c.percent(gcStarting)
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
	tick := time.NewTicker(gcInterval)
	defer tick.Stop()
	c.rest()
	last, quiet, resting := c.cycles(), 0, true
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := c.cycles()
		switch n := now - last; {
		case resting && n >= gcBusy:
			c.percent(gcUnder)
			resting, quiet = false, 0
		case !resting && n == 0:
			if quiet++; quiet == gcQuiet {
				c.rest()
				resting, now = true, c.cycles()
			}
		case !resting:
			quiet = 0
		}
		last = now
	}
}

func (c *collector) rest() {
	c.percent(gcAtRest)
	c.release()
}

// collections counts the collections that the heap's growth has caused.
func collections() uint64 {
	sample := []metrics.Sample{{Name: "/gc/cycles/automatic:gc-cycles"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
