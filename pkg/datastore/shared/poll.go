package shared

import (
	"context"
	"database/sql"
	"strconv"
	"strings"
	"time"

	"github.com/k3s-io/kine/pkg/server"
)

const (
	// pollRows bounds one look for new events; after one that failed the
	// next is smaller, since values may be large and the connection slow.
	// fillRows is how many revisions are filled at once.
	pollRows = 500
	minRows  = 4
	fillRows = 1000
	// pollTimeout bounds the statements of the poller, so that a server that
	// has gone silent is noticed.
	pollTimeout = 10 * time.Second
	// gapGrace is how long a missing revision may come by itself. Filling it
	// sooner makes its transaction start again.
	gapGrace = 3 * time.Millisecond

	pollRetryMin = 50 * time.Millisecond
	pollRetryMax = 2 * time.Second
)

// follow hands out new events until ctx ends.
func (s *store) follow(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	failures := 0
	for told := false; ; {
		found, err := s.catchUp(ctx)
		wait := s.pace.next(found, told)
		if ctx.Err() != nil {
			return
		}
		wake := s.wake
		if err != nil {
			wait = min(pollRetryMin<<min(failures, 10), pollRetryMax)
			failures++
			s.logger.Warn("new changes could not be read from the database", "after", wait, "error", err)
			wake = nil // Being asked does not make it better.
		} else if failures > 0 {
			failures = 0
			s.logger.Info("changes are read from the database again")
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return
		case <-wake:
			told = true
		case <-timer.C:
			told = false
		}
	}
}

// catchUp looks for events until there are no more; found says whether there
// were any.
func (s *store) catchUp(ctx context.Context) (found bool, err error) {
	for ctx.Err() == nil {
		some, err := s.poll(ctx)
		if err != nil {
			return found, err
		}
		if !some {
			return found, nil
		}
		found = true
	}
	return found, nil
}

// poll hands out the next events, or gets closer to that; more is false if
// there is nothing to wait for.
func (s *store) poll(ctx context.Context) (more bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	pos := s.feed.position()
	events, compacted, err := s.events(ctx, "", "", pos, 0, s.batch)
	if err != nil {
		s.batch = max(s.batch/4, minRows)
		return false, err
	}
	if compacted > pos {
		// Another server has removed what was still to be told.
		s.logger.Warn("the database was compacted beyond what has been read", "compacted", compacted, "read", pos)
		s.jump(compacted)
		return true, nil
	}
	full := len(events) == s.batch
	s.batch = pollRows
	n := 0
	for n < len(events) && events[n].KV.ModRevision == pos+1+int64(n) {
		n++
	}
	s.counts.note(events[:n])
	s.feed.publish(events[:n])
	if n == len(events) {
		return full || n > 0 && s.asked.Load() > pos+int64(n), nil
	}
	first, last := pos+1+int64(n), events[n].KV.ModRevision-1
	return true, s.close(ctx, first, last)
}

// jump goes on at a revision, without the events before.
func (s *store) jump(pos int64) {
	s.counts.reset(pos)
	s.feed.jump(pos)
}

// gap is a hole in the revisions: the sequence has given them out, but there
// are no rows. Either the transaction has not ended yet, or it was rolled back.
type gap struct {
	first int64
	since time.Time
}

// close gives the gap a moment, and then fills it. It never passes over one: a
// revision that was filled can not be committed any more, and its transaction
// is begun again with another.
func (s *store) close(ctx context.Context, first, last int64) error {
	if s.gap.first != first {
		s.gap = gap{first: first, since: time.Now()}
		pauseFor(ctx, gapGrace)
		return nil
	}
	last = min(last, first+fillRows-1)
	err := s.dialect.fill(ctx, s.db, first, last)
	if waited := time.Since(s.gap.since); waited > slow {
		s.logger.Warn("a transaction holds up all later changes: look for one that has not ended", "revision", first, "waited", waited.Round(time.Millisecond), "error", err)
	}
	if err != nil && s.dialect.kind(err) != kindRetry {
		return err
	}
	s.announce(last)
	return nil
}

// events reads the rows of a range after a revision, unless upTo is 0 up to
// another, and unless limit is 0 only the first; and how far the history has
// been compacted, by the same look at the database if there is a row.
func (s *store) events(ctx context.Context, key, end string, after, upTo int64, limit int) (events []*server.Event, compacted int64, err error) {
	defer s.timed("read changes", time.Now())
	where, args := []string{`kv.id > ?`}, []any{after}
	if upTo > 0 {
		where, args = append(where, `kv.id <= ?`), append(args, upTo)
	}
	if key != "" {
		q := newQuery(key, end)
		if q.single {
			q.where = `kv.name = ?`
		}
		where, args = append(where, q.where), append(args, q.args...)
	}
	statement := words(`SELECT`, compactedSQL+`,`, columnsSQL+`,`, `kv.value, kv.prev_revision, CASE WHEN kv.created = 0
		THEN COALESCE(kv.old_value, (SELECT old.value FROM kine AS old WHERE old.id = kv.prev_revision)) END
		FROM kine AS kv WHERE`, strings.Join(where, " AND "), `ORDER BY kv.id`)
	if limit > 0 {
		statement += ` LIMIT ` + strconv.Itoa(limit)
	}
	rows, err := s.db.QueryContext(ctx, s.dialect.sql(statement), args...)
	if err != nil {
		return nil, 0, err
	}
	defer func() { _ = rows.Close() }()
	var scan eventScan
	dest := scan.dest()
	for rows.Next() {
		if err := rows.Scan(dest...); err != nil {
			return nil, 0, err
		}
		events = append(events, scan.event())
	}
	// Behind a broken connection there may be more: those before are not all.
	if err := rows.Err(); err != nil {
		return nil, 0, err
	}
	if len(events) == 0 {
		_, compacted, err = s.revisions(ctx)
		return nil, compacted, err
	}
	return events, scan.compacted.Int64, nil
}

// eventScan receives a row of events.
type eventScan struct {
	row

	compacted, prev sql.NullInt64
	old             []byte
}

func (s *eventScan) dest() []any {
	return append(append([]any{&s.compacted}, s.row.dest()...), &s.prev, &s.old)
}

func (s *eventScan) event() *server.Event {
	e := &server.Event{Create: s.created.Int64 != 0, Delete: s.deleted.Int64 != 0, KV: s.keyValue()}
	if !e.Create {
		e.PrevKV = &server.KeyValue{Key: e.KV.Key, Value: s.old, ModRevision: s.prev.Int64, CreateRevision: e.KV.CreateRevision, Lease: e.KV.Lease}
	}
	s.old = nil
	return e
}
