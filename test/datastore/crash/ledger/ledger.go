// Package ledger keeps an exact account of what clients have asked a datastore
// to write and what they were told, and compares with it what the store holds
// after an accident. Time is counted in positions: whatever number the test
// gives, for instance the length of the recorder's log. Start reading at
// Ledger; Load is a load of clients that keeps one, Check the comparison.
package ledger

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Prefixes of keys that are treated differently.
const (
	Pods   = "/registry/pods/"
	Leases = "/registry/leases/" // may be lost in a power cut
	Events = "/registry/events/" // may be lost in a power cut
	Short  = "/registry/short/"  // go away by themselves
	All    = "/registry/"
)

// Durable reports whether an acknowledged write to a key must survive a power
// cut at the default durability.
func Durable(key string) bool {
	return !strings.HasPrefix(key, Leases) && !strings.HasPrefix(key, Events)
}

// Unknown is the position of something that has not happened, as far as is
// known.
const Unknown = -1

// Write is one change of one key.
type Write struct {
	Key      string
	Sum      uint64 // of the value
	Deleted  bool
	Lease    int64
	Revision int64 // 0 while unknown
	Sent     int   // position before it was sent
	Known    int   // position after somebody was told, or Unknown
	When     time.Time
}

// Ledger is the account of one store. Its methods may be called from any
// goroutine.
type Ledger struct {
	mu      sync.Mutex
	keys    map[string][]*Write // guarded by mu, as all below; a key's writes in order
	byRev   map[int64]*Write
	seen    []sighting // revisions that only grow
	void    map[string][]attempt
	wrong   []error
	acks    int
	highest int64
}

// sighting says that a client knew of a revision at a position.
type sighting struct {
	revision int64
	position int
}

// attempt is a write that got an error and was not made. After an accident it
// may have been made all the same: nobody was told that it was not.
type attempt struct {
	*Write

	after int // how many of the key's writes were made before it
}

// New returns an empty account.
func New() *Ledger {
	return &Ledger{keys: map[string][]*Write{}, byRev: map[int64]*Write{}, void: map[string][]attempt{}}
}

// Sum identifies a value.
func Sum(value []byte) uint64 {
	h := fnv.New64a()
	_, _ = h.Write(value)
	return h.Sum64()
}

// Begin notes that a write is about to be sent. A nil value deletes.
func (l *Ledger) Begin(key string, value []byte, lease int64, position int) *Write {
	w := &Write{Key: key, Sum: Sum(value), Deleted: value == nil, Lease: lease, Sent: position, Known: Unknown}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.keys[key] = append(l.keys[key], w)
	return w
}

// Acknowledged notes the answer to a write.
func (l *Ledger) Acknowledged(w *Write, revision int64, position int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acks++
	l.know(w, revision, position)
}

// Refused takes a write back that was certainly not done.
func (l *Ledger) Refused(w *Write) {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := l.keys[w.Key]
	if n := len(all) - 1; n >= 0 && all[n] == w {
		l.keys[w.Key] = all[:n]
	}
}

// Failed takes a write back that got an error, and that nobody sees.
func (l *Ledger) Failed(w *Write) {
	l.Refused(w)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.void[w.Key] = append(l.void[w.Key], attempt{w, len(l.keys[w.Key])})
}

// know notes that somebody knows about a write. It needs the lock.
func (l *Ledger) know(w *Write, revision int64, position int) {
	if w.Known == Unknown {
		w.Known, w.When = position, time.Now()
	}
	l.sight(revision, position)
	switch other := l.byRev[revision]; {
	case w.Revision != 0 && w.Revision != revision:
		l.blame("write of %s has revision %d and revision %d", w.Key, w.Revision, revision)
	case other != nil && other != w:
		l.blame("revision %d stands for a write of %s and for one of %s", revision, other.Key, w.Key)
	}
	w.Revision = revision
	l.byRev[revision] = w
}

// Seen notes that a client was told of a revision.
func (l *Ledger) Seen(revision int64, position int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sight(revision, position)
}

func (l *Ledger) sight(revision int64, position int) {
	if revision > l.highest {
		l.highest = revision
		l.seen = append(l.seen, sighting{revision, position})
	}
}

// Highest returns the highest revision that anybody knew of at a position.
func (l *Ledger) Highest(position int) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	var highest int64
	for _, s := range l.seen {
		// Not always in order: two answers may be noted the wrong way round.
		if s.position <= position {
			highest = max(highest, s.revision)
		}
	}
	return highest
}

// Last returns the newest write of a key.
func (l *Ledger) Last(key string) (Write, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := l.keys[key]
	if len(all) == 0 {
		return Write{}, false
	}
	return *all[len(all)-1], true
}

// Event compares an event of a watch with the account and notes what it tells.
func (l *Ledger) Event(e *clientv3.Event, position int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	revision := e.Kv.ModRevision
	key := string(e.Kv.Key)
	if key == health || strings.HasPrefix(key, Short) && e.Type == clientv3.EventTypeDelete {
		l.sight(revision, position)
		return
	}
	w := l.find(key, Sum(e.Kv.Value), e.Type == clientv3.EventTypeDelete, revision)
	if w == nil {
		l.blame("an event tells of a write of %s at revision %d that nobody has sent, or that has another revision", key, revision)
		return
	}
	l.know(w, revision, position)
}

// find returns the write that explains a state: the one with that revision, or
// the newest one whose revision is not known yet and may be this one. That of
// a removal that was adopted comes late, with a watch from the past.
func (l *Ledger) find(key string, sum uint64, deleted bool, revision int64) *Write {
	all := l.keys[key]
	if w := l.byRev[revision]; w != nil {
		if w.Key == key && w.Deleted == deleted && (deleted || w.Sum == sum) {
			return w
		}
		return nil
	}
	for i, w := range slices.Backward(all) {
		if w.Revision == 0 && w.Deleted == deleted && (deleted || w.Sum == sum) && !newer(all[:i], revision) {
			return w
		}
	}
	return nil
}

// newer reports whether one of a key's writes has a higher revision.
func newer(all []*Write, revision int64) bool {
	return slices.ContainsFunc(all, func(w *Write) bool { return w.Revision > revision })
}

// Blame notes something that must not happen.
func (l *Ledger) Blame(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.blame(format, args...)
}

func (l *Ledger) blame(format string, args ...any) {
	if len(l.wrong) < 20 {
		l.wrong = append(l.wrong, fmt.Errorf(format, args...))
	}
}

// Wrong returns what must not have happened while the account was kept.
func (l *Ledger) Wrong() []error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]error(nil), l.wrong...)
}

// Acks is the number of answers, Keys that of keys.
func (l *Ledger) Acks() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acks
}

// Positions returns when writes that survive were acknowledged.
func (l *Ledger) Positions() []int {
	l.mu.Lock()
	defer l.mu.Unlock()
	var at []int
	for _, all := range l.keys {
		for _, w := range all {
			if w.Known > 0 {
				at = append(at, w.Known)
			}
		}
	}
	return at
}
