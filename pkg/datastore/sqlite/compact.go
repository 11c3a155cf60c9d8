package sqlite

import (
	"context"
	"database/sql/driver"
	"fmt"
	"time"

	"github.com/k3s-io/kine/pkg/server"
)

const (
	// compactSQL removes the rows that a row in (?1, ?2] replaces, and the
	// tombstones there. Earlier rows have been looked at by earlier
	// compactions: it costs what has changed, not what there is. The newest
	// row of all, ?3, stays: it says which revisions have been used.
	compactSQL = `DELETE FROM kine WHERE id IN (
		SELECT prev_revision FROM kine WHERE id > ?1 AND id <= ?2 AND prev_revision <> 0 AND name <> 'compact_rev_key'
		UNION ALL
		SELECT id FROM kine WHERE id >= ?1 AND id <= ?2 AND deleted <> 0 AND id < ?3)`

	compactedSQL = `UPDATE kine SET prev_revision = ?1 WHERE name = 'compact_rev_key'`

	// A slice of a compaction holds up writes, so it is kept short: sliceGoal
	// is how long one should take, sliceMin and sliceMax how many revisions it
	// may have.
	sliceGoal = 8 * time.Millisecond
	sliceMin  = 50
	sliceMax  = 4000
)

// compact removes what is not needed to read any revision from target on.
func (s *store) compact(ctx context.Context, target int64) error {
	select {
	case s.compacting <- struct{}{}:
		defer func() { <-s.compacting }()
	case <-ctx.Done():
		return ctx.Err()
	}
	s.mu.RLock()
	at, current := s.compacted, s.current
	s.mu.RUnlock()
	switch {
	case target > current:
		return server.ErrFutureRev
	case target <= at:
		return server.ErrCompacted
	}
	begin, from, slice := time.Now(), at, int64(4*sliceMin)
	for at < target {
		to := min(target, at+slice)
		var took time.Duration
		if err := s.task(ctx, func(w *writer) error {
			begin := time.Now()
			err := w.squeeze(func() error { return w.compactTo(at, to) })
			took = time.Since(begin)
			s.metrics.compaction.Observe(took.Seconds())
			return err
		}); isFull(err) && slice > sliceMin {
			slice = max(sliceMin, slice/4) // Less at a time needs less space.
			continue
		} else if err != nil {
			return err
		}
		at = to
		switch {
		case took > sliceGoal:
			slice = max(sliceMin, slice/2)
		case took < sliceGoal/4:
			slice = min(sliceMax, 2*slice)
		}
	}
	if err := s.shrink(ctx); err != nil {
		return err
	}
	s.logger.Debug("history has been compacted", "from", from, "to", target, "after", time.Since(begin))
	return nil
}

// compactTo does one slice of a compaction, in (from, to].
func (w *writer) compactTo(from, to int64) (err error) {
	w.store.mu.Lock()
	// Before the rows are gone: whoever reads a revision looks at compacted
	// when he has read.
	w.compacted = to
	newest := w.current
	w.store.mu.Unlock()
	defer func() {
		w.store.mu.Lock()
		defer w.store.mu.Unlock()
		switch {
		case err != nil:
			w.compacted = from
		case w.tombs != nil:
			w.tombs.compact(min(to, newest-1))
		}
	}()
	// What a power cut undoes of a compaction is done again by the next.
	if err := w.setMode(syncNormal); err != nil {
		return err
	}
	return w.transaction(func() error {
		removed, err := w.db.exec(compactSQL, args(from, to, newest)...)
		if err != nil {
			return err
		}
		w.wrote(removed, 0)
		_, err = w.db.exec(compactedSQL, args(to)...)
		return err
	})
}

// task runs do on the writer's goroutine, between two batches.
func (s *store) task(ctx context.Context, do func(*writer) error) error {
	t := task{do: do, done: make(chan error, 1)}
	select {
	case s.tasks <- t:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.closing:
		return errClosed
	}
	select {
	case err := <-t.done:
		return err
	case <-s.stopped:
	}
	select {
	case err := <-t.done:
		return err
	default:
		return errClosed
	}
}

const (
	// A file with more free pages than one in freeShare, and more than
	// freePages, gives them back, shrinkPages at a time.
	freeShare   = 4
	freePages   = 4096
	shrinkPages = 256
)

// shrink gives free pages at the end of the file back to the file system. In a
// database of K3s that is impossible, and changes nothing.
func (s *store) shrink(ctx context.Context) error {
	for {
		var more bool
		if err := s.task(ctx, func(w *writer) (err error) {
			more, err = w.shrink()
			return err
		}); err != nil || !more {
			return err
		}
	}
}

func (w *writer) shrink() (more bool, err error) {
	pages, err := w.db.number(`PRAGMA page_count`)
	if err != nil {
		return false, err
	}
	free, err := w.db.number(`PRAGMA freelist_count`)
	if err != nil || free <= freePages || free*freeShare <= pages {
		return false, err
	}
	if err := w.setMode(syncNormal); err != nil {
		return false, err
	}
	err = w.db.query(fmt.Sprintf(`PRAGMA incremental_vacuum(%d)`, shrinkPages), 0, func([]driver.Value) error { return nil })
	w.wrote(shrinkPages/rowPages, 0)
	if err != nil {
		return false, err
	}
	left, err := w.db.number(`PRAGMA page_count`)
	return err == nil && left < pages, err
}
