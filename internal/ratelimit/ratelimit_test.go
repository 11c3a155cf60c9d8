package ratelimit

import (
	"testing"
	"time"
)

func TestKeyed(t *testing.T) {
	now := time.Unix(1000, 0)
	l := &Keyed[string]{Rate: 2, Burst: 3, Keys: 2, Now: func() time.Time { return now }}
	for i := range 3 {
		if ok, _ := l.Take("a"); !ok {
			t.Fatalf("take %d of a full bucket", i)
		}
	}
	if ok, wait := l.Take("a"); ok || wait != 500*time.Millisecond {
		t.Errorf("empty: %v, %s", ok, wait)
	}
	if ok, _ := l.Take("b"); !ok {
		t.Error("the bucket of another is empty too")
	}
	now = now.Add(500 * time.Millisecond)
	if ok, _ := l.Take("a"); !ok {
		t.Error("not filled again")
	}
	l.Return("a")
	if ok, _ := l.Take("a"); !ok {
		t.Error("what was returned is not there")
	}
	now = now.Add(time.Hour)
	for i := range 3 {
		if ok, _ := l.Take("a"); !ok {
			t.Errorf("take %d after an hour", i)
		}
	}
	if ok, _ := l.Take("a"); ok {
		t.Error("an hour filled the bucket above its size")
	}
	now = now.Add(-2 * time.Hour) // The clock is set back: nothing is gained or lost.
	if ok, _ := l.Take("a"); ok {
		t.Error("a clock that goes back fills buckets")
	}
}

func TestKeyedIsBounded(t *testing.T) {
	now := time.Unix(1000, 0)
	l := &Keyed[int]{Rate: 0.001, Burst: 5, Keys: 100, Now: func() time.Time { return now }}
	for i := range 10000 {
		now = now.Add(time.Millisecond)
		l.Take(i)
		if len(l.buckets) > l.Keys {
			t.Fatalf("%d buckets", len(l.buckets))
		}
	}
	for range 5 { // The most recent one is still known.
		l.Take(9999)
	}
	if ok, _ := l.Take(9999); ok {
		t.Error("the newest key was forgotten")
	}
}
