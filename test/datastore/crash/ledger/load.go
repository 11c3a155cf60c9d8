package ledger

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Load is a number of clients that write like an API server and its components
// until they are stopped, or the store is gone.
type Load struct {
	Ledger   *Ledger
	Client   *clientv3.Client
	Position func() int
	Seed     uint64
	// Writers write pods of all sizes, Renewers leases and events.
	Writers, Renewers int
	Keys              int // of each
	// Big is the size of the largest values; most are small, unless Heavy.
	Big   int
	Heavy bool
	// Compact compacts, again and again.
	Compact bool
	// Short also writes keys that go away by themselves.
	Short bool
	// Stubborn goes on after an error, once it knows what has become of the
	// write.
	Stubborn bool
	// Pause is how long a client rests between two writes.
	Pause time.Duration
}

// leaseTTL is that of keys that stay, in seconds; kine makes it the lease's ID.
const leaseTTL, shortTTL = 3600, 2

// Run runs the load until ctx ends. The errors of the end are not told: what
// must not happen is in the ledger.
func (l Load) Run(ctx context.Context) {
	var lease, short int64
	if g, err := l.Client.Grant(ctx, leaseTTL); err == nil {
		lease = int64(g.ID)
	}
	if g, err := l.Client.Grant(ctx, shortTTL); err == nil {
		short = int64(g.ID)
	}
	if lease == 0 || short == 0 {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	start := func(n int, prefix string, lease int64) {
		r := rand.New(rand.NewPCG(l.Seed, uint64(n)))
		wg.Go(func() { l.write(ctx, cancel, r, fmt.Sprintf("%s%d-", prefix, n), lease) })
	}
	for i := range l.Writers {
		start(i, Pods+"default/w", 0)
	}
	for i := range l.Renewers {
		start(100+i, []string{Leases + "node-", Events + "default/e"}[i%2], []int64{0, lease}[i%2])
	}
	if l.Short {
		start(200, Short, short)
	}
	if l.Compact {
		wg.Go(func() { l.compact(ctx, rand.New(rand.NewPCG(l.Seed, 300))) })
	}
	wg.Wait()
}

// write changes the keys of one client until the store is gone.
func (l Load) write(ctx context.Context, gone func(), r *rand.Rand, prefix string, lease int64) {
	for n := 0; ctx.Err() == nil; n++ {
		key := fmt.Sprintf("%s%d", prefix, r.IntN(l.Keys))
		if strings.HasPrefix(key, Short) {
			key = fmt.Sprintf("%s%d-%d", prefix, l.Seed, n)
		}
		if err := l.Change(ctx, key, l.value(r, key), lease); err != nil {
			if ctx.Err() == nil {
				gone()
			}
			return
		}
		if l.Pause > 0 || strings.HasPrefix(key, Short) {
			select {
			case <-time.After(l.Pause + time.Duration(r.IntN(int(time.Millisecond)))):
			case <-ctx.Done():
			}
		}
	}
}

// value returns a new value for a key, or nil for its removal.
func (l Load) value(r *rand.Rand, key string) []byte {
	last, ok := l.Ledger.Last(key)
	if ok && !last.Deleted && r.IntN(6) == 0 {
		return nil
	}
	size := 400
	switch kind := r.IntN(24); {
	case kind == 0 || l.Heavy && kind < 12:
		size = r.IntN(l.Big + 1)
	case kind < 3:
		size = r.IntN(5000)
	}
	// No two values are equal, so that each says which write it comes from.
	v := fmt.Appendf(nil, "%s %x %x ", key, l.Seed, r.Uint64())
	for len(v) < size {
		v = fmt.Appendf(v, "%016x", r.Uint64())
	}
	return v
}

// Change writes or, with a nil value, removes a key that nobody else writes,
// as the API server does.
func (l Load) Change(ctx context.Context, key string, value []byte, lease int64) error {
	last, ok := l.Ledger.Last(key)
	var expected int64
	if ok && !last.Deleted {
		expected = last.Revision
	}
	op := clientv3.OpDelete(key)
	if value != nil {
		op = clientv3.OpPut(key, string(value), clientv3.WithLease(clientv3.LeaseID(lease)))
	}
	w := l.Ledger.Begin(key, value, lease, l.Position())
	txn := l.Client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", expected)).Then(op)
	if expected != 0 {
		txn = txn.Else(clientv3.OpGet(key))
	}
	r, err := txn.Commit()
	if err != nil {
		if errors.Is(err, rpctypes.ErrNoSpace) || strings.Contains(err.Error(), "ResourceExhausted") {
			l.Ledger.Refused(w)
		} else if l.Stubborn && ctx.Err() == nil {
			return l.resolve(ctx, w, value)
		}
		return fmt.Errorf("change %s: %w", key, err)
	}
	position := l.Position()
	if !r.Succeeded {
		l.Ledger.Refused(w)
		l.Ledger.Blame("a change of %s at revision %d, which nobody else writes, was a conflict: %v", key, expected, r.Responses)
		return fmt.Errorf("change %s: conflict", key)
	}
	revision := r.Header.Revision
	if revision <= expected {
		l.Ledger.Blame("a change of %s at revision %d has got revision %d", key, expected, revision)
	}
	l.Ledger.Acknowledged(w, revision, position)
	return nil
}

// resolve looks what has become of a write that got an error.
func (l Load) resolve(ctx context.Context, w *Write, value []byte) error {
	r, err := l.Client.Get(ctx, w.Key)
	if err != nil {
		return fmt.Errorf("read %s after an error: %w", w.Key, err)
	}
	switch {
	case value == nil && len(r.Kvs) == 0, len(r.Kvs) > 0 && Sum(r.Kvs[0].Value) == w.Sum && value != nil:
		l.Ledger.Blame("a write of %s that got an error has been made all the same", w.Key)
	default:
		l.Ledger.Failed(w)
	}
	return nil
}

// compact compacts to a revision of the recent past, again and again.
func (l Load) compact(ctx context.Context, r *rand.Rand) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Duration(20+r.IntN(80)) * time.Millisecond):
		}
		if to := l.Ledger.Highest(l.Position()) - int64(r.IntN(300)); to > 0 {
			_, err := l.Client.Compact(ctx, to)
			if err != nil && ctx.Err() == nil && !errors.Is(err, rpctypes.ErrCompacted) {
				return // the writers say whether the store is gone
			}
		}
	}
}

// Watch follows all keys from a revision on until the watch ends, and compares
// its events with the ledger. It returns the revision of the last one, and
// true if the store says that the wanted revision is compacted.
func (l Load) Watch(ctx context.Context, from int64, ready func()) (last int64, compacted bool) {
	last = from - 1
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	for r := range l.Client.Watch(ctx, All, clientv3.WithPrefix(), clientv3.WithRev(from), clientv3.WithCreatedNotify()) {
		position := l.Position()
		if r.Created && ready != nil {
			ready()
		}
		if r.CompactRevision != 0 {
			if r.CompactRevision < from {
				l.Ledger.Blame("a watch from %d was ended because of compaction up to %d", from, r.CompactRevision)
			}
			return last, true
		}
		for _, e := range r.Events {
			if e.Kv.ModRevision <= last {
				l.Ledger.Blame("a watch tells of revision %d (%s) after revision %d", e.Kv.ModRevision, e.Kv.Key, last)
			}
			l.Ledger.missed(last, e.Kv.ModRevision)
			last = e.Kv.ModRevision
			l.Ledger.Event(e, position)
		}
	}
	return last, false
}

// missed blames a watch that goes from one revision to another if somebody was
// told of a write in between.
func (l *Ledger) missed(from, to int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for rev := from + 1; rev < to && rev < from+10000; rev++ {
		if w := l.byRev[rev]; w != nil {
			l.blame("a watch goes from revision %d to %d, and leaves out revision %d of %s", from, to, rev, w.Key)
		}
	}
}
