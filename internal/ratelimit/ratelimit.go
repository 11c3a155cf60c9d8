// Package ratelimit counts what each of many callers does and says when it is
// too much. It keeps a bounded number of callers and knows nothing of who they
// are. Start reading at Keyed.
package ratelimit

import (
	"math"
	"sync"
	"time"
)

// Keyed gives every key a bucket of Burst tokens that fills with Rate tokens a
// second. Of more than Keys keys it forgets those that have not been seen for
// longest; a forgotten key begins with a full bucket. Set the fields before the
// first call.
type Keyed[K comparable] struct {
	Rate  float64
	Burst int
	Keys  int
	// Now is the clock; default time.Now.
	Now func() time.Time

	mu      sync.Mutex
	buckets map[K]*bucket // guarded by mu
}

type bucket struct {
	tokens float64
	at     time.Time // when tokens was right
}

// Take takes a token. If there is none it says how long it takes until there
// is one again.
func (l *Keyed[K]) Take(key K) (ok bool, wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.fill(key)
	if b.tokens >= 1 {
		b.tokens--
		return true, 0
	}
	return false, time.Duration(math.Ceil((1 - b.tokens) / l.Rate * float64(time.Second)))
}

// Return gives a token back that turned out not to be owed.
func (l *Keyed[K]) Return(key K) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.fill(key)
	b.tokens = min(b.tokens+1, float64(l.Burst))
}

// fill returns the bucket of a key as it is now. The caller holds mu.
func (l *Keyed[K]) fill(key K) *bucket {
	now := time.Now()
	if l.Now != nil {
		now = l.Now()
	}
	if l.buckets == nil {
		l.buckets = make(map[K]*bucket)
	}
	b := l.buckets[key]
	if b == nil {
		if len(l.buckets) >= l.Keys {
			l.forget(now)
		}
		b = &bucket{tokens: float64(l.Burst), at: now}
		l.buckets[key] = b
	}
	if passed := now.Sub(b.at); passed > 0 {
		b.tokens = min(b.tokens+passed.Seconds()*l.Rate, float64(l.Burst))
	}
	b.at = now
	return b
}

// forget drops the buckets that are full again, and if that is not enough the
// half of them that is oldest. The caller holds mu.
func (l *Keyed[K]) forget(now time.Time) {
	var oldest, newest time.Time
	for key, b := range l.buckets {
		if b.tokens+now.Sub(b.at).Seconds()*l.Rate >= float64(l.Burst) {
			delete(l.buckets, key)
			continue
		}
		if oldest.IsZero() || b.at.Before(oldest) {
			oldest = b.at
		}
		if b.at.After(newest) {
			newest = b.at
		}
	}
	if len(l.buckets) < l.Keys {
		return
	}
	middle := oldest.Add(newest.Sub(oldest) / 2)
	for key, b := range l.buckets {
		if !b.at.After(middle) {
			delete(l.buckets, key)
		}
	}
}
