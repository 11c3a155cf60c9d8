package sqlite

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"sync"

	"github.com/k3s-io/kine/pkg/logstructured"
	"github.com/k3s-io/kine/pkg/server"
)

// queueLength is how many batches of events wait for a watcher that does not
// keep up; with one more its watch ends, and the API server starts another.
const queueLength = 256

// store is kine's backend with watches of its own, which keep one promise that
// kine's break on a busy machine: when WaitForSyncTo returns, every event up to
// that revision is in the channel of each watch that wants it. Kine passes
// events through three goroutines per watch and asks only the last of them, so
// that "you have seen all up to revision 7" could overtake event 7. The API
// server's watch cache believes it, and whoever starts to watch at that moment
// never hears of the object.
type store struct {
	*logstructured.LogStructured

	log    *history
	logger *slog.Logger
	wg     *sync.WaitGroup

	mu      sync.Mutex
	moved   *sync.Cond // signals changes of reached
	reached int64      // all events up to here have been handed out
	subs    map[*subscriber]struct{}
	// All below mu are guarded by it.
}

var _ server.Backend = (*store)(nil)

// subscriber is one watch.
type subscriber struct {
	key, end string
	out      chan []*server.Event
	waiting  []*server.Event // what happens until the past is in out
	live     bool            // the past is in out
	known    int64           // the past ends with this revision
}

func newStore(log *history, wg *sync.WaitGroup, logger *slog.Logger) *store {
	s := &store{LogStructured: logstructured.New(log), log: log, wg: wg, logger: logger, subs: map[*subscriber]struct{}{}}
	s.moved = sync.NewCond(&s.mu)
	return s
}

// Start implements server.Backend.
func (s *store) Start(ctx context.Context) error {
	if err := s.LogStructured.Start(ctx); err != nil {
		return err
	}
	events, err := s.follow(ctx)
	if err != nil {
		return err
	}
	s.wg.Go(func() { s.run(ctx, events) })
	return nil
}

// follow starts to read all new events. Those up to the revision at which it
// starts are for nobody: each watch reads what precedes it.
func (s *store) follow(ctx context.Context) (<-chan server.Events, error) {
	events := s.log.Watch(ctx, "", "")
	if events == nil {
		return nil, errors.New("read the log of changes: it cannot be polled")
	}
	revision, err := s.log.CurrentRevision(ctx)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end(func(*subscriber) bool { return true })
	s.reach(revision)
	return events, nil
}

// run hands out events until ctx ends.
func (s *store) run(ctx context.Context, events <-chan server.Events) {
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.end(func(*subscriber) bool { return true })
		s.reach(math.MaxInt64) // Nobody is left waiting.
	}()
	for {
		for batch := range events {
			s.publish(batch)
		}
		if ctx.Err() != nil {
			return
		}
		// The poll loop was faster than this goroutine for a hundred batches.
		s.logger.Warn("changes were read too slowly, all watches start again")
		var err error
		if events, err = s.follow(ctx); err != nil {
			if ctx.Err() == nil {
				s.logger.Error("watches have stopped", "err", err)
			}
			return
		}
	}
}

// publish puts a batch into the channels of the watches that want it.
func (s *store) publish(batch server.Events) {
	if len(batch) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end(func(sub *subscriber) bool { return !sub.offer(batch) })
	s.reach(batch[len(batch)-1].KV.ModRevision)
}

// reach raises reached. It is called with mu held.
func (s *store) reach(revision int64) {
	if revision > s.reached {
		s.reached = revision
		s.moved.Broadcast()
	}
}

// end ends the watches that over chooses. It is called with mu held.
func (s *store) end(over func(*subscriber) bool) {
	for sub := range s.subs {
		if over(sub) {
			close(sub.out)
			delete(s.subs, sub)
		}
	}
}

// WaitForSyncTo implements server.Backend. Row ids of SQLite have no gaps (a
// failed insert takes its id back), so every revision arrives as an event.
func (s *store) WaitForSyncTo(revision int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.reached < revision {
		s.moved.Wait()
	}
}

// Watch implements server.Backend: events of the keys from key to end (of key
// alone without end), beginning with those of the revision itself.
func (s *store) Watch(ctx context.Context, key, end string, revision int64) server.WatchResult {
	sub := &subscriber{key: key, end: end, out: make(chan []*server.Event, queueLength)}
	errs := make(chan error, 1)
	result := server.WatchResult{Events: sub.out, Errorc: errs}
	s.mu.Lock()
	s.subs[sub] = struct{}{}
	s.mu.Unlock()
	context.AfterFunc(ctx, func() { s.remove(sub) })

	// After excludes the revision it is given, but 0 and 1 mean the beginning.
	after := revision
	if after > 1 {
		after--
	}
	current, past, err := s.log.After(ctx, key, end, after, 0)
	if err != nil {
		s.fail(ctx, sub, err, &result, errs)
		result.CurrentRevision = current
		return result
	}
	if len(past) > 0 {
		after = max(after, current)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.subs[sub]; ok {
		sub.begin(past, after)
	}
	return result
}

// fail ends a watch whose past cannot be read.
func (s *store) fail(ctx context.Context, sub *subscriber, err error, result *server.WatchResult, errs chan<- error) {
	switch {
	case ctx.Err() != nil:
	case errors.Is(err, server.ErrCompacted):
		if compacted, err := s.log.CompactRevision(ctx); err == nil {
			result.CompactRevision = compacted
		}
	default:
		s.logger.Error("cannot read the changes a watch starts with", "key", sub.key, "err", err)
		errs <- server.ErrGRPCUnhealthy
	}
	s.remove(sub)
}

func (s *store) remove(sub *subscriber) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.subs[sub]; ok {
		close(sub.out)
		delete(s.subs, sub)
	}
}

// begin delivers the past, which ends with a revision, and what has happened
// since it was read.
func (sub *subscriber) begin(past []*server.Event, revision int64) {
	if len(past) > 0 {
		sub.out <- past
	}
	sub.live, sub.known = true, revision
	sub.offer(sub.waiting)
	sub.waiting = nil
}

// offer delivers what of a batch is of interest, and reports false when the
// channel is full.
func (sub *subscriber) offer(batch server.Events) bool {
	var mine []*server.Event
	for _, e := range batch {
		if e.InRange(sub.key, sub.end) && e.KV.ModRevision > sub.known {
			mine = append(mine, e)
		}
	}
	switch {
	case len(mine) == 0:
	case !sub.live:
		sub.waiting = append(sub.waiting, mine...)
	default:
		select {
		case sub.out <- mine:
		default:
			return false
		}
	}
	return true
}
