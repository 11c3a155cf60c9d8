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
	sliceGoal = 5 * time.Millisecond
	sliceMin  = 50
	sliceMax  = 4000
)

// sweepRevisions and sweepBytes are how much history is let pile up before
// its rows are removed. Row by row it would write almost as much as the
// changes themselves; together many of them are on one page.
const (
	sweepRevisions = 1000
	sweepBytes     = 4 << 20
)

// compact makes revisions before target unreadable. The rows that only they
// need are removed when it is worth it.
func (s *store) compact(ctx context.Context, target int64) error {
	select {
	case s.compacting <- struct{}{}:
		defer func() { <-s.compacting }()
	case <-ctx.Done():
		return ctx.Err()
	}
	s.mu.Lock()
	compacted, current, swept := s.compacted, s.current, s.swept
	if target > compacted && target <= current {
		s.compacted = target
	}
	s.mu.Unlock()
	switch {
	case target > current:
		return server.ErrFutureRev
	case target <= compacted:
		return server.ErrCompacted
	case target-swept < sweepRevisions && s.unswept.Load() < sweepBytes && !s.space.low.Load():
		return nil
	}
	begin := time.Now()
	s.unswept.Store(0)
	if err := s.sweep(ctx, target); err != nil {
		return err
	}
	if err := s.shrink(ctx); err != nil {
		return err
	}
	s.logger.Debug("history has been compacted", "from", swept, "to", target, "after", time.Since(begin))
	return nil
}

// sweep removes the rows that no revision from target on needs.
func (s *store) sweep(ctx context.Context, target int64) error {
	slice := int64(4 * sliceMin)
	for {
		s.mu.RLock()
		at := s.swept
		s.mu.RUnlock()
		if at >= target {
			return nil
		}
		var took time.Duration
		if err := s.task(ctx, func(w *writer) error {
			begin := time.Now()
			err := w.squeeze(func() error { return w.sweep(at, min(target, at+slice)) })
			took = time.Since(begin)
			s.metrics.compaction.Observe(took.Seconds())
			return err
		}); isFull(err) && slice > sliceMin {
			slice = max(sliceMin, slice/4) // Less at a time needs less space.
			continue
		} else if err != nil {
			return err
		}
		switch {
		case took > sliceGoal:
			slice = max(sliceMin, slice/2)
		case took < sliceGoal/4:
			slice = min(sliceMax, 2*slice)
		}
	}
}

// sweep removes what a row in (from, to] replaces. All of that is before
// compacted: whoever reads a revision looks at that when he has read.
func (w *writer) sweep(from, to int64) error {
	w.store.mu.RLock()
	newest := w.current
	w.store.mu.RUnlock()
	// What a power cut undoes of it is done again by the next.
	if err := w.setMode(syncNormal); err != nil {
		return err
	}
	err := w.transaction(func() error {
		removed, err := w.db.exec(compactSQL, args(from, to, newest)...)
		if err != nil {
			return err
		}
		w.wrote(removed, 0)
		_, err = w.db.exec(compactedSQL, args(to)...)
		return err
	})
	if err != nil {
		return err
	}
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	w.swept = to
	if w.tombs != nil {
		w.tombs.compact(min(to, newest-1))
	}
	return nil
}

// finishSweep removes what is left, so that the file says where history
// begins.
func (s *store) finishSweep() {
	s.mu.RLock()
	target := s.compacted
	s.mu.RUnlock()
	if err := s.sweep(context.Background(), target); err != nil {
		s.logger.Warn("old history stays in the database until it is compacted again", "error", err)
	}
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
