package shared

import (
	"context"
	"sync"

	"github.com/k3s-io/kine/pkg/server"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"skiff/internal/signal"
)

// feed hands events to subscribers in the order of their revisions. What
// always holds, under mu: every revision up to pos has either been handed to
// all subscribers that were there, or will never be anybody's.
//
// Nobody waits for a subscriber: what it has not taken is queued. There are
// two in a running server, the watch hub and the expiry, which never stop
// taking.
type feed struct {
	mu    sync.Mutex
	pos   int64
	moved chan struct{} // closed when pos has changed
	subs  map[*subscription]struct{}
}

// subscription is one receiver.
type subscription struct {
	feed     *feed
	key, end string
	queue    []*server.Event      // guarded by feed.mu
	err      error                // guarded by feed.mu; why it has ended
	wake     signal.Signal        // holds a token if there is something to do
	out      chan []*server.Event // closed at the end
	errc     chan error
}

func (f *feed) init() {
	f.moved, f.subs = make(chan struct{}), map[*subscription]struct{}{}
}

func (f *feed) position() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.pos
}

// publish hands out the events that come after pos.
func (f *feed) publish(events []*server.Event) {
	if len(events) == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for s := range f.subs {
		before := len(s.queue)
		for _, e := range events {
			// Gap rows are nobody's key, but tell how far the feed is.
			if e.InRange(s.key, s.end) {
				s.queue = append(s.queue, e)
			}
		}
		if len(s.queue) > before {
			s.wake.Send()
		}
	}
	f.move(events[len(events)-1].KV.ModRevision)
}

// jump goes on at pos. Whoever wanted the events between has missed them and
// is told.
func (f *feed) jump(pos int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for s := range f.subs {
		s.err = server.ErrCompacted
		s.wake.Send()
	}
	clear(f.subs)
	f.move(pos)
}

// move needs mu.
func (f *feed) move(pos int64) {
	f.pos = pos
	close(f.moved)
	f.moved = make(chan struct{})
}

// wait returns once all revisions up to one have been settled.
func (f *feed) wait(ctx context.Context, revision int64) error {
	for {
		f.mu.Lock()
		pos, moved := f.pos, f.moved
		f.mu.Unlock()
		if pos >= revision {
			return nil
		}
		select {
		case <-ctx.Done():
			return status.Errorf(codes.Unavailable, "revision %d of the database is not settled yet, %d is: %v", revision, pos, ctx.Err())
		case <-moved:
		}
	}
}

// subscribe begins after the position that is returned.
func (f *feed) subscribe(key, end string) (*subscription, int64) {
	s := &subscription{feed: f, key: key, end: end, wake: signal.New(), out: make(chan []*server.Event, 1), errc: make(chan error, 1)}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.subs[s] = struct{}{}
	return s, f.pos
}

// run passes on what is queued until ctx ends, or the feed jumps.
func (s *subscription) run(ctx context.Context) {
	defer close(s.out)
	defer func() {
		s.feed.mu.Lock()
		defer s.feed.mu.Unlock()
		delete(s.feed.subs, s)
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		}
		s.feed.mu.Lock()
		events, err := s.queue, s.err
		s.queue = nil
		s.feed.mu.Unlock()
		if len(events) > 0 {
			select {
			case <-ctx.Done():
				return
			case s.out <- events:
			}
		}
		if err != nil {
			s.errc <- err
			return
		}
	}
}

// Watch implements server.Backend: the events of a range from a revision on,
// 0 for what comes from now on. When it returns, the past up to a revision
// that was current after the call began has been read, and is delivered even
// if ctx has ended by then. An empty key means all keys; gap rows are among
// them.
func (s *store) Watch(ctx context.Context, key, end string, revision int64) server.WatchResult {
	result, err := s.watch(ctx, key, end, revision)
	if err != nil {
		closed, errc := make(chan []*server.Event), make(chan error, 1)
		close(closed)
		errc <- s.dialect.wire("read past changes", err)
		result.Events, result.Errorc = closed, errc
	}
	return result
}

func (s *store) watch(ctx context.Context, key, end string, revision int64) (result server.WatchResult, err error) {
	current, compacted, err := s.revisions(ctx)
	if err != nil {
		return result, err
	}
	if err := s.settle(ctx, current); err != nil {
		return result, err
	}
	sub, pos := s.feed.subscribe(key, end)
	defer func() {
		if err != nil {
			ended, cancel := context.WithCancel(ctx)
			cancel()
			sub.run(ended)
		}
	}()
	result = server.WatchResult{CurrentRevision: pos, Events: sub.out, Errorc: sub.errc}
	after := max(revision-1, 0)
	if revision <= 0 {
		after = pos
	}
	var past []*server.Event
	if after >= compacted && after < pos {
		past, compacted, err = s.events(ctx, key, end, after, pos, 0)
	}
	switch {
	case err != nil:
		return result, err
	case revision > 0 && after < compacted:
		result.CompactRevision = compacted
		return result, server.ErrCompacted
	}
	if len(past) > 0 {
		sub.out <- past
	}
	s.working.Go(func() { sub.run(ctx) })
	return result, nil
}
