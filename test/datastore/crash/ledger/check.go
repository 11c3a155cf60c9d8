package ledger

import (
	"context"
	"fmt"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// State is what a store holds.
type State struct {
	Revision int64 // of the answer
	Keys     map[string]Found
}

// Found is one key in a store.
type Found struct {
	Sum      uint64
	Created  int64
	Revision int64
	Lease    int64
}

// health is the store's own, the only key that nobody writes.
const health = "/registry/health"

// Read lists everything below All.
func Read(ctx context.Context, c *clientv3.Client) (State, error) {
	r, err := c.Get(ctx, All, clientv3.WithPrefix())
	if err != nil {
		return State{}, fmt.Errorf("list: %w", err)
	}
	if r.Count != int64(len(r.Kvs)) {
		return State{}, fmt.Errorf("list: %d keys, but the answer says %d", len(r.Kvs), r.Count)
	}
	s := State{Revision: r.Header.Revision, Keys: map[string]Found{}}
	for _, kv := range r.Kvs {
		if string(kv.Key) == health {
			continue
		}
		s.Keys[string(kv.Key)] = Found{Sum(kv.Value), kv.CreateRevision, kv.ModRevision, kv.Lease}
	}
	return s, nil
}

// Accident says what a state is compared with.
type Accident struct {
	// At is the position of the accident: what was known then has to be there.
	At int
	// Lost says which keys may have lost their last writes; nil: none.
	Lost func(key string) bool
	// Before, if it is set, forgives the loss of what was acknowledged later.
	Before time.Time
}

// Check compares a state that was read after an accident with the account:
// nothing that had been acknowledged is missing, nothing is there that nobody
// wrote, and if a write is there, all before it are.
func (l *Ledger) Check(s State, a Accident) []error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var wrong []error
	add := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(format, args...)) }
	holds := map[string]int{} // which of a key's writes it holds
	byRev := map[int64]string{}
	var newest int64
	for key, f := range s.Keys {
		if other, twice := byRev[f.Revision]; twice {
			add("%s and %s have the same revision %d", key, other, f.Revision)
		}
		byRev[f.Revision] = key
		w := l.find(key, f.Sum, false, f.Revision)
		if at, ok := l.attempted(key, f.Sum, a.At); w == nil && ok {
			holds[key] = at
			continue
		}
		switch {
		case w == nil:
			add("%s at revision %d is nothing that was ever written", key, f.Revision)
			continue
		case w.Sent > a.At:
			add("%s at revision %d was written after the accident: the recorder is broken", key, f.Revision)
		case w.Lease != f.Lease:
			add("%s has the lease %d, want %d", key, f.Lease, w.Lease)
		case f.Created > f.Revision || f.Created <= 0:
			add("%s at revision %d says it was created at %d", key, f.Revision, f.Created)
		}
		newest = max(newest, f.Revision)
		holds[key] = index(l.keys[key], w)
	}
	if newest > s.Revision {
		add("a key has revision %d, but the list is of revision %d", newest, s.Revision)
	}
	for key, all := range l.keys {
		if strings.HasPrefix(key, Short) {
			continue
		}
		l.checkKey(key, all, s, a, holds, newest, add)
	}
	return wrong
}

// checkKey looks whether a key is at least as new as it has to be.
func (l *Ledger) checkKey(key string, all []*Write, s State, a Accident, holds map[string]int, newest int64, add func(string, ...any)) {
	need := -1
	for i, w := range all {
		known := w.Known != Unknown && w.Known <= a.At && (a.Before.IsZero() || w.When.Before(a.Before))
		if known && (a.Lost == nil || !a.Lost(key)) || w.Revision != 0 && w.Revision <= newest {
			need = i
		}
	}
	if need < 0 {
		return
	}
	w := all[need]
	said := "not acknowledged, but older than other writes that are there"
	if w.Known != Unknown && w.Known <= a.At {
		said = fmt.Sprintf("acknowledged at %d", w.Known)
	}
	if f, there := s.Keys[key]; there {
		if at, ok := holds[key]; ok && at < need {
			add("%s is at revision %d, but revision %d was written (%s; the newest there is %d)", key, f.Revision, w.Revision, said, newest)
		}
		return
	}
	for _, later := range all[need:] {
		if later.Deleted && later.Sent <= a.At {
			return
		}
	}
	for _, v := range l.void[key] {
		if v.Deleted && v.Sent <= a.At && v.after > need {
			return
		}
	}
	add("%s is missing, but revision %d was written (%s; the newest there is %d)", key, w.Revision, said, newest)
}

// attempted looks for a write that somebody tried to make before an accident
// and of which nobody knew by then whether it was, in a store whose disk has
// failed. It is then of whatever revision it had when that was tried.
func (l *Ledger) attempted(key string, sum uint64, at int) (index int, ok bool) {
	if len(l.void) == 0 {
		return 0, false
	}
	for _, w := range l.void[key] {
		if w.Sum == sum && !w.Deleted && w.Sent <= at {
			return w.after - 1, true
		}
	}
	for i, w := range l.keys[key] {
		if w.Sum == sum && !w.Deleted && w.Sent <= at && (w.Known == Unknown || w.Known > at) {
			return i, true
		}
	}
	return 0, false
}

func index(all []*Write, w *Write) int {
	for i := range all {
		if all[i] == w {
			return i
		}
	}
	return -1
}

// Inherit begins the account of a store that holds something already, all of it
// known at a position, as is a revision that was known before.
func (l *Ledger) Inherit(s State, known int64, position int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for key, f := range s.Keys {
		w := &Write{Key: key, Sum: f.Sum, Lease: f.Lease, Sent: position, Known: Unknown}
		l.keys[key] = []*Write{w}
		l.know(w, f.Revision, position)
	}
	l.sight(known, position)
}

// Adopt takes a state that a store has now for the truth about the writes
// whose outcome nobody knew. Call it after Check, before there are new writes.
func (l *Ledger) Adopt(s State, position int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sight(s.Revision, position)
	for key, all := range l.keys {
		f, there := s.Keys[key]
		var kept []*Write
		for i, w := range all {
			switch {
			case w.Known != Unknown:
				kept = append(kept, w)
			case there && l.find(key, f.Sum, false, f.Revision) == w:
				l.know(w, f.Revision, position)
				kept = append(kept, w)
			case w.Deleted && !there && i == len(all)-1:
				w.Known, w.When = position, time.Now()
				kept = append(kept, w)
			}
		}
		l.keys[key] = kept
	}
}
