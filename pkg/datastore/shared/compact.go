package shared

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/k3s-io/kine/pkg/server"
)

const (
	// compactRevisions is how many revisions one transaction compacts.
	compactRevisions = 1000
	compactTimeout   = 30 * time.Second
)

// Compact implements server.Backend: afterwards the history begins at a
// revision, exactly. Several servers may do that at once, also kine's.
func (s *store) Compact(ctx context.Context, revision int64) (int64, error) {
	current, compacted, err := s.revisions(ctx)
	switch {
	case err != nil:
		return 0, s.dialect.wire("read the revision of the database", err)
	case revision > current:
		return current, server.ErrFutureRev
	case revision <= compacted:
		return current, server.ErrCompacted
	}
	// A transaction that has yet to bring one of these revisions would write
	// into history, and this server's own watches have to be told first.
	if err := s.settle(ctx, revision); err != nil {
		return current, err
	}
	begin, from, deleted := time.Now(), compacted, int64(0)
	for compacted < revision {
		next, n, err := s.compactBatch(ctx, revision)
		if err != nil {
			return current, s.dialect.wire("compact", err)
		}
		compacted, deleted = next, deleted+n
	}
	s.logger.Debug("compacted", "from", from, "to", revision, "rows", deleted, "took", time.Since(begin).Round(time.Millisecond))
	return current, nil
}

// compactBatch goes some revisions further, in one transaction.
func (s *store) compactBatch(ctx context.Context, revision int64) (compacted, deleted int64, err error) {
	defer s.timed("compact", time.Now())
	pause := firstPause
	for n := 1; ; n++ {
		compacted, deleted, err = s.tryCompact(ctx, revision)
		if err == nil || s.dialect.kind(err) != kindRetry || n == attempts || !pauseFor(ctx, pause) {
			return compacted, deleted, err
		}
		pause *= 2
	}
}

func (s *store) tryCompact(ctx context.Context, revision int64) (compacted, deleted int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, compactTimeout)
	defer cancel()
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = tx.Rollback() }() // After a commit it does nothing.
	// The row is locked: servers take turns.
	var at sql.NullInt64
	err = tx.QueryRowContext(ctx, `SELECT prev_revision FROM kine WHERE name = 'compact_rev_key' ORDER BY prev_revision DESC LIMIT 1 FOR UPDATE`).Scan(&at)
	if err != nil {
		return 0, 0, fmt.Errorf("lock the row compact_rev_key: %w", err)
	}
	from := at.Int64
	if from >= revision {
		return from, 0, nil
	}
	to := min(revision, from+compactRevisions)
	result, err := tx.ExecContext(ctx, s.dialect.sql(s.dialect.compactSQL), from, to, from, to)
	if err != nil {
		return 0, 0, err
	}
	if deleted, err = result.RowsAffected(); err != nil {
		return 0, 0, err
	}
	if _, err = tx.ExecContext(ctx, s.dialect.sql(`UPDATE kine SET prev_revision = ? WHERE name = 'compact_rev_key'`), to); err != nil {
		return 0, 0, err
	}
	return to, deleted, tx.Commit()
}

// WaitForSyncTo implements server.Backend.
func (s *store) WaitForSyncTo(revision int64) {
	// The interface has no context; kine's own Watch, which waits here, is not
	// used by pkg/datastore/bridge.
	_ = s.settle(context.Background(), revision)
}
