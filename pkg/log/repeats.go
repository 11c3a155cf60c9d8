package log

import (
	"sync"
	"time"
)

// How often upstream may say the same: while it waits for something it does so
// ten times a second, which buries what tells why, and wears out a disk.
const (
	repeatWindow = 30 * time.Second
	repeatMost   = 5 // lines in a window
	repeatKept   = 512
)

// repeats counts lines that say the same.
type repeats struct {
	mu   sync.Mutex
	seen map[string]repeated // guarded by mu
}

// repeated is one message in its present window.
type repeated struct {
	began time.Time
	lines int
	left  int // lines that were left out since the last one that was not
}

// take reports whether a line is to be written, and how many of its kind were
// left out before it.
func (r *repeats) take(message string, now time.Time) (ok bool, left int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	one, known := r.seen[message]
	if !known && len(r.seen) >= repeatKept || r.seen == nil {
		r.seen = map[string]repeated{} // what was left out is not told then
	}
	if since := now.Sub(one.began); since >= repeatWindow || since < 0 {
		one.began, one.lines = now, 0
	}
	one.lines++
	if ok = one.lines <= repeatMost; ok {
		left, one.left = one.left, 0
	} else {
		one.left++
	}
	r.seen[message] = one
	return ok, left
}
