package shared

import (
	"slices"
	"strings"
	"sync"

	"github.com/k3s-io/kine/pkg/server"
)

const (
	// keptChanges and keptCounts bound the memory.
	keptChanges = 4096
	keptCounts  = 256
)

// counts knows how many keys are in ranges that have been counted before. A
// count is asked for with every page of a list, and with the limit of one by
// which the API server reads the revision; the database counts one by one.
//
// What always holds, under mu: changes has all keys that came and went after
// floor, up to the feed's position, in the order of their revisions.
type counts struct {
	mu      sync.Mutex
	floor   int64
	changes []change
	known   map[[2]string]counted
}

// change is a key that came (1) or went (-1).
type change struct {
	revision int64
	key      string
	by       int64
}

// counted is how many keys there were at a revision.
type counted struct{ revision, n int64 }

// reset forgets everything up to a revision.
func (c *counts) reset(floor int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.floor, c.changes, c.known = floor, nil, map[[2]string]counted{}
}

// note takes the next events.
func (c *counts) note(events []*server.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range events {
		if strings.HasPrefix(e.KV.Key, "gap-") || e.KV.Key == compactRow {
			continue
		}
		switch {
		case e.Delete:
			c.changes = append(c.changes, change{e.KV.ModRevision, e.KV.Key, -1})
		case e.Create:
			c.changes = append(c.changes, change{e.KV.ModRevision, e.KV.Key, 1})
		}
	}
	if len(c.changes) <= keptChanges {
		return
	}
	n := len(c.changes) - keptChanges/2
	c.floor = c.changes[n-1].revision
	c.changes = slices.Clone(c.changes[n:])
	for key, k := range c.known {
		if k.revision < c.floor {
			delete(c.known, key)
		}
	}
}

// learn takes a count of the database.
func (c *counts) learn(key, end string, revision, n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if revision < c.floor {
		return
	}
	if len(c.known) >= keptCounts {
		clear(c.known)
	}
	c.known[[2]string{key, end}] = counted{revision, n}
}

// at is the count at a revision up to the feed's position.
func (c *counts) at(key, end string, revision int64) (int64, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k, ok := c.known[[2]string{key, end}]
	if !ok || revision < c.floor {
		return 0, false
	}
	index := func(revision int64) int { // of the first change after it
		i, _ := slices.BinarySearchFunc(c.changes, revision+1, func(c change, r int64) int { return int(c.revision - r) })
		return i
	}
	from, to := index(k.revision), index(revision)
	sign := int64(1)
	if from > to {
		from, to, sign = to, from, -1
	}
	n := k.n
	for _, ch := range c.changes[from:to] {
		if ch.key >= key && (end == "\x00" || ch.key < end) {
			n += sign * ch.by
		}
	}
	if revision > k.revision {
		c.known[[2]string{key, end}] = counted{revision, n}
	}
	return n, true
}
