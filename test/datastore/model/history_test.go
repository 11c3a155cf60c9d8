package model

import (
	"fmt"
	"slices"
	"sort"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// change is one event of the history.
type change struct {
	revision int64
	key      string
	deleted  bool
	now      pair
	prev     pair
}

func changeOf(e *clientv3.Event) change {
	c := change{revision: e.Kv.ModRevision, key: string(e.Kv.Key), deleted: e.Type == clientv3.EventTypeDelete}
	if !c.deleted {
		c.now = pairOf(e.Kv)
	}
	if e.PrevKv != nil {
		c.prev = pairOf(e.PrevKv)
	}
	return c
}

func (c change) String() string {
	if c.deleted {
		return fmt.Sprintf("%d: delete %q, was %.40q of %d", c.revision, c.key, c.prev.value, c.prev.mod)
	}
	return fmt.Sprintf("%d: put %q=%.40q (created %d), was %.40q of %d", c.revision, c.key, c.now.value, c.now.create, c.prev.value, c.prev.mod)
}

// history is all changes, by revision, and the versions of each key.
type history struct {
	events []change
	byKey  map[string][]change
	last   int64
}

// add appends what has been watched, and checks that it follows.
func (h *history) add(t *testing.T, events []change, dense bool, last int64) {
	t.Helper()
	for _, c := range events {
		if c.revision <= h.last || (dense && h.last > 0 && c.revision != h.last+1) {
			t.Fatalf("event %s comes after revision %d", c, h.last)
		}
		h.last = c.revision
		before := h.at(c.key, c.revision-1)
		if c.prev != before {
			t.Fatalf("event %s has the wrong previous version, want %.40q of %d (created %d)", c, before.value, before.mod, before.create)
		}
		if c.deleted && before == (pair{}) {
			t.Fatalf("event %s removes what is not there", c)
		}
		if want := created(before, c.revision); !c.deleted && (c.now.create != want || c.now.mod != c.revision) {
			t.Fatalf("event %s: created %d, modified %d, want %d and %d", c, c.now.create, c.now.mod, want, c.revision)
		}
		h.events = append(h.events, c)
		h.byKey[c.key] = append(h.byKey[c.key], c)
	}
	if dense && h.last != last {
		t.Fatalf("the events end at %d, but the store is at %d", h.last, last)
	}
	h.last = last
}

func created(before pair, revision int64) int64 {
	if before == (pair{}) {
		return revision
	}
	return before.create
}

// at is the version of a key at a revision.
func (h *history) at(key string, revision int64) pair {
	all := h.byKey[key]
	n := sort.Search(len(all), func(i int) bool { return all[i].revision > revision })
	if n == 0 {
		return pair{}
	}
	return all[n-1].now
}

// existed reports whether there was a key at any revision of a range.
func (h *history) existed(key string, from, to int64) bool {
	for _, c := range h.byKey[key] {
		if c.revision > from && c.revision <= to && !c.deleted {
			return true
		}
	}
	return h.at(key, from) != pair{}
}

// state is what is in a range at a revision, in the order of the keys.
func (h *history) state(key, end string, revision int64) (keys []string, pairs []pair) {
	for k := range h.byKey {
		if inRange(k, key, end) && h.at(k, revision) != (pair{}) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	for _, k := range keys {
		pairs = append(pairs, h.at(k, revision))
	}
	return keys, pairs
}

func inRange(k, key, end string) bool {
	switch end {
	case "":
		return k == key
	case "\x00":
		return k >= key
	}
	return k >= key && k < end
}

// change returns the change of a revision.
func (h *history) change(revision int64) (change, bool) {
	n := sort.Search(len(h.events), func(i int) bool { return h.events[i].revision >= revision })
	if n == len(h.events) || h.events[n].revision != revision {
		return change{}, false
	}
	return h.events[n], true
}
