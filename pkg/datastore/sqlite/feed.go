package sqlite

import (
	"context"
	"errors"
	"sync"

	"github.com/k3s-io/kine/pkg/server"

	"skiff/internal/signal"
)

// feed hands committed events to subscribers, in the order of their revisions.
// The writer never waits for one: what a subscriber has not taken yet is
// queued for it. There are two in a running server, the watch hub and the
// expiry of leases, and neither waits for anybody.
type feed struct {
	mu   sync.Mutex
	subs map[*subscription]struct{}
}

// subscription is one receiver of all events of a range.
type subscription struct {
	feed     *feed
	key, end string
	queue    []*server.Event      // guarded by feed.mu
	wake     signal.Signal        // sent if queue may have something
	out      chan []*server.Event // closed at the end
}

// publish queues events for all subscribers.
func (f *feed) publish(events []*server.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for s := range f.subs {
		n := len(s.queue)
		for _, e := range events {
			if e.InRange(s.key, s.end) {
				s.queue = append(s.queue, e)
			}
		}
		if len(s.queue) > n {
			s.wake.Send()
		}
	}
}

func (f *feed) subscribe(key, end string) *subscription {
	s := &subscription{feed: f, key: key, end: end, wake: signal.New(), out: make(chan []*server.Event, 1)}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.subs[s] = struct{}{}
	return s
}

func (f *feed) unsubscribe(s *subscription) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.subs, s)
}

// run passes on what is queued until ctx ends.
func (s *subscription) run(ctx context.Context) {
	defer close(s.out)
	defer s.feed.unsubscribe(s)
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		}
		s.feed.mu.Lock()
		events := s.queue
		s.queue = nil
		s.feed.mu.Unlock()
		if len(events) == 0 {
			continue
		}
		select {
		case <-ctx.Done():
			return
		case s.out <- events:
		}
	}
}

// Watch implements server.Backend: all events of a range of keys from a
// revision on, first the past, which has been read when Watch returns and is
// delivered even if ctx has ended by then, and then what is committed. An
// empty key means all keys. The store does not close before ctx ends.
func (s *store) Watch(ctx context.Context, key, end string, revision int64) server.WatchResult {
	errc := make(chan error, 1)
	s.mu.RLock()
	// Nothing is published while the lock is held: the subscription has
	// everything after upTo.
	sub := s.feed.subscribe(key, end)
	upTo, compacted := s.current, s.compacted
	s.mu.RUnlock()

	fail := func(err error) server.WatchResult {
		s.feed.unsubscribe(sub)
		close(sub.out)
		result := server.WatchResult{Events: sub.out, Errorc: errc, CurrentRevision: upTo}
		if errors.Is(err, server.ErrCompacted) {
			result.CompactRevision = s.compactedRevision()
			return result
		}
		errc <- err
		return result
	}
	after := max(revision-1, 0)
	if revision <= 0 {
		after = upTo
	}
	if revision > 0 && after < compacted {
		return fail(server.ErrCompacted)
	}
	if after < upTo {
		past, err := s.events(ctx, key, end, after, upTo)
		if err == nil && revision > 0 && after < s.compactedRevision() {
			err = server.ErrCompacted
		}
		if err != nil {
			return fail(s.wireError("read past changes", err))
		}
		if len(past) > 0 {
			sub.out <- past
		}
	}
	s.working.Go(func() { sub.run(ctx) })
	return server.WatchResult{Events: sub.out, Errorc: errc, CurrentRevision: upTo}
}
