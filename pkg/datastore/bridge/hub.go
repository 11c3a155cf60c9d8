package bridge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/k3s-io/kine/pkg/server"
)

const (
	// recentEvents and recentBytes bound what the hub remembers. Watches that
	// begin, or have fallen behind, further back than that read the database.
	recentEvents = 512
	recentBytes  = 1 << 20

	// heartbeat is how often the hub looks for what no event has told it;
	// notifyBeats of them pass between progress notifications. Those only keep
	// a quiet watch resumable: compaction keeps five minutes.
	heartbeat   = time.Second
	notifyBeats = 60

	retryMin = 50 * time.Millisecond
	retryMax = 5 * time.Second
)

// hub hands the backend's events to all watches. There is one subscription to
// the backend, one lock, and one order: the revisions'.
//
// What always holds, under mu:
//   - a live watch has in its stream's queue, or has been sent, every event of
//     its range up to pos, and none after;
//   - recent holds every event after floor up to pos;
//   - a lagging watch has been sent, or has in the queue, every event before
//     its next; its stream reads the rest and makes it live again.
//
// So an idle stream without lagging watches may truthfully say "progress up to
// pos", and nobody ever waits for a slow client: its watches stop being live.
type hub struct {
	backend server.Backend
	logger  *slog.Logger

	mu        sync.Mutex
	pos       int64
	floor     int64
	compacted int64 // as far as this server has been asked to
	recent    []*event
	bytes     int // of recent
	live      map[*watch]struct{}
	streams   map[*stream]struct{}
}

// newHub returns a hub that begins at the backend's current revision.
func newHub(ctx context.Context, backend server.Backend, logger *slog.Logger) (*hub, error) {
	h := &hub{backend: backend, logger: logger, live: map[*watch]struct{}{}, streams: map[*stream]struct{}{}}
	var err error
	if h.pos, err = h.current(ctx); err != nil {
		return nil, err
	}
	h.floor = h.pos
	return h, nil
}

// current asks the database for its revision. Kine's CurrentRevision is from
// memory and may be behind by writes that have been acknowledged; the read of
// a key is not.
func (h *hub) current(ctx context.Context) (int64, error) {
	rev, _, err := h.backend.Get(ctx, server.HealthKey, 0, true)
	if err != nil {
		return 0, fmt.Errorf("read the datastore's revision: %w", err)
	}
	return rev, nil
}

// run feeds the hub until ctx ends. A backend that fails, or drops the hub, is
// subscribed to again from the last event on, so that nothing is missed.
func (h *hub) run(ctx context.Context) {
	retry := retryMin
	for {
		before := h.position()
		err := h.feed(ctx)
		if ctx.Err() != nil {
			return
		}
		if h.position() > before {
			retry = retryMin
		}
		h.logger.Warn("reading the datastore's changes again", "after", retry, "error", err)
		wait := time.NewTimer(retry)
		select {
		case <-ctx.Done():
			wait.Stop()
			return
		case <-wait.C:
		}
		retry = min(2*retry, retryMax)
	}
}

func (h *hub) position() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.pos
}

// feed publishes what comes after pos until the subscription ends.
func (h *hub) feed(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := h.backend.Watch(ctx, "", "", h.position()+1)
	if w.CompactRevision != 0 {
		return h.restart(ctx)
	}
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for beats := 1; ; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case events, ok := <-w.Events:
			if ok {
				h.publish(events)
				continue
			}
			select {
			case err := <-w.Errorc:
				return err
			default:
				return errors.New("the subscription ended")
			}
		case <-beat.C:
			if err := h.beat(ctx, beats%notifyBeats == 0); err != nil {
				return err
			}
			beats++
		}
	}
}

// publish takes the next events, in the order of their revisions.
func (h *hub) publish(events []*server.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range events {
		if e == nil || e.KV == nil || e.KV.ModRevision <= h.pos {
			continue
		}
		h.pos = e.KV.ModRevision
		if gap(e) {
			continue
		}
		ev := newEvent(e)
		h.remember(ev)
		for w := range h.live {
			if w.keys.contains(ev.key) {
				w.stream.push(w, ev)
			}
		}
	}
	h.wakeWaiting()
}

// remember appends to recent and forgets the oldest. Whoever holds an event
// keeps it alive, so forgetting half at a time costs nobody anything.
func (h *hub) remember(e *event) {
	h.recent = append(h.recent, e)
	h.bytes += e.size
	if len(h.recent) <= recentEvents && h.bytes <= recentBytes {
		return
	}
	n := len(h.recent)/2 + len(h.recent)%2
	h.floor = h.recent[n-1].revision
	h.recent = append(make([]*event, 0, recentEvents+1), h.recent[n:]...)
	h.bytes = 0
	for _, e := range h.recent {
		h.bytes += e.size
	}
}

// compact notes that history before a revision is gone: a watch that begins
// there has to be told so, though the hub may remember the events.
func (h *hub) compact(revision int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.compacted = max(h.compacted, revision)
}

// wakeWaiting wakes the streams that owe somebody a progress report.
func (h *hub) wakeWaiting() {
	for s := range h.streams {
		if s.progress > 0 && s.progress <= h.pos {
			s.wake.Send()
		}
	}
}

// beat passes over revisions that will not come as events, when somebody waits
// for them, and sometimes lets all streams report their progress.
func (h *hub) beat(ctx context.Context, notify bool) error {
	h.mu.Lock()
	pos, waiting := h.pos, false
	for s := range h.streams {
		waiting = waiting || s.progress > pos
		if notify {
			s.notify = true
			s.wake.Send()
		}
	}
	h.mu.Unlock()
	if !waiting {
		return nil
	}
	rows, compacted, err := h.history(ctx, "", "", pos+1)
	if err != nil || compacted != 0 {
		return err // The subscription finds out about a compaction, too.
	}
	// Everything else comes by the subscription; also what is missing between
	// two rows, which may be a transaction that has not ended yet.
	n := 0
	for n < len(rows) && gap(rows[n]) && rows[n].KV.ModRevision == pos+1+int64(n) {
		n++
	}
	h.publish(rows[:n])
	return nil
}

// restart skips to the current revision when what comes next has been
// compacted. The watches find out for themselves whether they have missed
// something.
func (h *hub) restart(ctx context.Context) error {
	rev, err := h.current(ctx)
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for w := range h.live {
		w.lag(h.pos + 1)
	}
	h.pos, h.floor, h.recent, h.bytes = rev, rev, nil, 0
	return errors.New("the next changes have been compacted")
}

// history reads the events of a range from a revision on. It is complete up to
// at least the revision that was current when it was called. If the database
// does not have all of that any more, compacted is the revision up to which it
// has been compacted.
func (h *hub) history(ctx context.Context, key, end string, from int64) (events []*server.Event, compacted int64, err error) {
	sub, cancel := context.WithCancel(ctx)
	defer cancel()
	w := h.backend.Watch(sub, key, end, from)
	// The backend has read the past before Watch returned. Ending the
	// subscription now makes it close the channel behind that.
	cancel()
	if w.CompactRevision != 0 {
		return nil, w.CompactRevision, nil
	}
	for {
		select {
		case <-ctx.Done():
			return nil, 0, ctx.Err()
		case batch, ok := <-w.Events:
			if !ok {
				select {
				case err := <-w.Errorc:
					return nil, 0, err
				default:
					return events, 0, ctx.Err()
				}
			}
			for _, e := range batch {
				if e != nil && e.KV != nil {
					events = append(events, e)
				}
			}
		}
	}
}
