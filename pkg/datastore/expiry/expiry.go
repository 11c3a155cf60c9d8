// Package expiry deletes keys when their lease is over. A lease, as kine has
// it, is a number of seconds that stands beside the key. The package knows a
// store that can list, watch and delete, and nothing about which one. Start
// reading at Run, then queue.go for what is remembered of each key.
//
// Time is counted on the monotonic clock from when the key was first seen: a
// wall clock that jumps expires nothing early or late, and a process that
// starts gives every key its full time once more, since nothing in the store
// says how much of it has passed.
package expiry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/k3s-io/kine/pkg/server"
)

const (
	// firstKey and lastKey enclose all keys that are written in ASCII; the
	// SQL databases take no others. Kubernetes' own begin with a slash.
	firstKey, lastKey = " ", "~"
	pageSize          = 1000

	// retryMin and retryMax bound the pause after a deletion that failed,
	// whoever's it was: the next one would fail as well.
	retryMin = 100 * time.Millisecond
	retryMax = 5 * time.Second
	// keyRetryMin and keyRetryMax bound the pause until the same key is tried
	// again, so that one that can never be deleted does not hold up others.
	keyRetryMin = time.Second
	keyRetryMax = 30 * time.Second
	// listMin and listMax bound the pause before the keys are listed again. A
	// subscription that lasted listMax has been a good one.
	listMin = 100 * time.Millisecond
	listMax = 30 * time.Second
)

// Store is what is needed of kine's server.Backend.
type Store interface {
	List(ctx context.Context, key, end string, limit, revision int64, keysOnly bool) (int64, []*server.KeyValue, error)
	Watch(ctx context.Context, key, end string, revision int64) server.WatchResult
	Delete(ctx context.Context, key string, revision int64) (int64, *server.KeyValue, bool, error)
}

// Run deletes the leased keys of b in their time, until ctx ends. Several
// processes may do that for the same store: a key is deleted only at the
// revision that was seen, and whoever is late has nothing to do.
func Run(ctx context.Context, b Store, logger *slog.Logger) {
	r := &runner{store: b, logger: logger, start: time.Now(), queue: newQueue(), listPause: listMin}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		now := r.now()
		if r.events == nil && now >= r.listAt {
			r.subscribe(ctx)
			continue
		}
		wait := r.wait(now)
		if wait == 0 {
			r.expire(ctx, now)
			// Events come first, so that a key that has just been renewed is
			// not deleted only to find out.
			select {
			case events, ok := <-r.events:
				r.learn(ctx, events, ok)
			default:
			}
			continue
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
		case events, ok := <-r.events:
			r.learn(ctx, events, ok)
		case <-timer.C:
		}
	}
	r.unsubscribe()
}

// runner is the state of Run. Times are counted from start.
type runner struct {
	store  Store
	logger *slog.Logger
	start  time.Time
	queue  queue

	events     <-chan []*server.Event // nil while there is no subscription
	errs       <-chan error
	end        context.CancelFunc // of the subscription
	subscribed time.Duration      // when it began
	listAt     time.Duration      // when to list and subscribe again
	listPause  time.Duration

	pausedUntil time.Duration // no deletions before
	failures    int           // in a row
}

// now is the time since start, which is monotonic.
func (r *runner) now() time.Duration { return time.Since(r.start) }

// wait says how long there is nothing to do; zero means that a key is due.
func (r *runner) wait(now time.Duration) time.Duration {
	wait := time.Hour
	if next, ok := r.queue.next(); ok {
		wait = max(0, max(next.due, r.pausedUntil)-now)
	}
	if r.events == nil {
		wait = min(wait, r.listAt-now)
	}
	return wait
}

// subscribe lists the leased keys and asks for what changes after that.
func (r *runner) subscribe(ctx context.Context) {
	revision, err := r.list(ctx)
	if err != nil {
		r.again(ctx, err)
		return
	}
	sub, cancel := context.WithCancel(ctx)
	w := r.store.Watch(sub, "", "", revision+1)
	if w.CompactRevision != 0 || w.Events == nil {
		cancel()
		r.again(ctx, server.ErrCompacted)
		return
	}
	r.events, r.errs, r.end, r.subscribed = w.Events, w.Errorc, cancel, r.now()
}

// list brings the queue in line with the store. The pages need not be of one
// revision: what changes after the first is told by the watch.
func (r *runner) list(ctx context.Context) (revision int64, err error) {
	present := map[string]struct{}{}
	for from := firstKey; ; {
		rev, kvs, err := r.store.List(ctx, from, lastKey, pageSize, 0, true)
		if err != nil {
			return 0, fmt.Errorf("list keys from %q: %w", from, err)
		}
		if revision == 0 {
			revision = rev
		}
		now := r.now()
		for _, kv := range kvs {
			if kv.Lease > 0 {
				present[kv.Key] = struct{}{}
				r.queue.put(kv.Key, kv.ModRevision, now+ttl(kv.Lease))
			}
		}
		if len(kvs) < pageSize {
			break
		}
		from = kvs[len(kvs)-1].Key + "\x00"
	}
	r.queue.keep(present)
	return revision, nil
}

// learn takes what the subscription says, or that it has ended.
func (r *runner) learn(ctx context.Context, events []*server.Event, ok bool) {
	if !ok {
		r.lost(ctx)
		return
	}
	now := r.now()
	for _, e := range events {
		switch {
		case e == nil || e.KV == nil:
		case e.Delete || e.KV.Lease <= 0:
			r.queue.drop(e.KV.Key, e.KV.ModRevision)
		default:
			r.queue.put(e.KV.Key, e.KV.ModRevision, now+ttl(e.KV.Lease))
		}
	}
}

// lost notes that the subscription has ended.
func (r *runner) lost(ctx context.Context) {
	err := errors.New("the subscription ended")
	select {
	case e := <-r.errs:
		err = e
	default:
	}
	if r.now()-r.subscribed >= listMax {
		r.listPause = listMin
	}
	r.unsubscribe()
	r.again(ctx, err)
}

func (r *runner) unsubscribe() {
	if r.end != nil {
		r.end()
	}
	r.events, r.errs, r.end = nil, nil, nil
}

// again plans the next listing. Keys that are known go on expiring meanwhile.
func (r *runner) again(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	r.logger.Warn("reading the leased keys again", "after", r.listPause, "error", err)
	r.listAt = r.now() + r.listPause
	r.listPause = min(2*r.listPause, listMax)
}

// expire deletes the key that is due, unless it has changed since.
func (r *runner) expire(ctx context.Context, now time.Duration) {
	e, ok := r.queue.next()
	if !ok || e.due > now {
		return
	}
	_, _, _, err := r.store.Delete(ctx, e.key, e.revision)
	if err == nil {
		// Deleted, or changed by somebody: then the watch tells, or has told.
		r.queue.drop(e.key, e.revision)
		r.failures = 0
		return
	}
	if ctx.Err() != nil {
		return
	}
	pause := backoff(retryMin, retryMax, r.failures)
	r.failures++
	now = r.now()
	r.pausedUntil = now + pause
	r.queue.delay(e, now+backoff(keyRetryMin, keyRetryMax, int(e.tries)))
	r.logger.Warn("a key could not be deleted when its lease was over", "key", e.key, "after", pause, "error", err)
}

// backoff is the pause after a number of failures.
func backoff(shortest, longest time.Duration, failures int) time.Duration {
	return min(shortest<<min(failures, 16), longest)
}

// ttl is a lease as a duration. More than a century would overflow.
func ttl(seconds int64) time.Duration {
	return time.Duration(min(seconds, 1<<32)) * time.Second
}
