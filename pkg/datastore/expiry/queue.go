package expiry

import (
	"container/heap"
	"time"
)

// entry is one leased key.
type entry struct {
	key      string
	revision int64
	due      time.Duration // since the start of Run
	index    int32         // in the heap
	tries    uint8         // deletions that failed
}

// queue holds the leased keys, the next one first.
type queue struct {
	byKey map[string]*entry
	byDue *dueHeap
}

func newQueue() queue { return queue{byKey: map[string]*entry{}, byDue: &dueHeap{}} }

// next returns the key that is due first.
func (q queue) next() (*entry, bool) {
	if len(*q.byDue) == 0 {
		return nil, false
	}
	return (*q.byDue)[0], true
}

// put notes that a key has been written with a lease. What is known of this
// revision or a later one stays: a lease does not begin again because it is
// seen again.
func (q queue) put(key string, revision int64, due time.Duration) {
	e := q.byKey[key]
	switch {
	case e == nil:
		e = &entry{key: key, revision: revision, due: due}
		q.byKey[key] = e
		heap.Push(q.byDue, e)
	case revision > e.revision:
		e.revision, e.due, e.tries = revision, due, 0
		heap.Fix(q.byDue, int(e.index))
	}
}

// drop forgets a key that has been deleted, or written without a lease, at
// this revision.
func (q queue) drop(key string, revision int64) {
	if e := q.byKey[key]; e != nil && revision >= e.revision {
		q.remove(e)
	}
}

// delay postpones a key whose deletion failed.
func (q queue) delay(e *entry, due time.Duration) {
	e.due = due
	if e.tries < 255 {
		e.tries++
	}
	heap.Fix(q.byDue, int(e.index))
}

// keep forgets the keys that are not in present.
func (q queue) keep(present map[string]struct{}) {
	for key, e := range q.byKey {
		if _, ok := present[key]; !ok {
			q.remove(e)
		}
	}
}

func (q queue) remove(e *entry) {
	delete(q.byKey, e.key)
	heap.Remove(q.byDue, int(e.index))
}

// dueHeap implements heap.Interface.
type dueHeap []*entry

var _ heap.Interface = (*dueHeap)(nil)

// Len implements heap.Interface.
func (h dueHeap) Len() int { return len(h) }

// Less implements heap.Interface.
func (h dueHeap) Less(i, j int) bool { return h[i].due < h[j].due }

// Swap implements heap.Interface.
func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = int32(i), int32(j)
}

// Push implements heap.Interface.
func (h *dueHeap) Push(x any) {
	e := x.(*entry)
	e.index = int32(len(*h))
	*h = append(*h, e)
}

// Pop implements heap.Interface.
func (h *dueHeap) Pop() any {
	last := len(*h) - 1
	e := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return e
}
