// Package shared is kine's server.Backend on a database that several servers
// write: Postgres, MySQL and MariaDB. It keeps kine's table, so that servers of
// K3s may use the same database, and replaces kine's log over it: every error
// is one, events come in the order of the revisions without a hole, and a
// change is seen as soon as it is committed. It must not know how to connect
// to a database, nor what the keys mean. Start reading at DESIGN.md, then at
// New, read.go (Range), write.go and poll.go.
package shared

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/k3s-io/kine/pkg/server"

	"skiff/internal/signal"
	"skiff/pkg/datastore/expiry"
)

// Options is what New needs.
type Options struct {
	DB      *sql.DB // with kine's table
	Dialect Dialect
	// Listen, which may be nil, calls up once it hears of what other servers
	// commit, and then committed for each revision it is told, until ctx or
	// the connection ends.
	Listen func(ctx context.Context, up func(), committed func(revision int64)) error
	Logger *slog.Logger
	// Working counts what runs until the context of Start has ended.
	Working *sync.WaitGroup
}

// store implements server.Backend.
type store struct {
	db      *sql.DB
	dialect Dialect
	listen  func(ctx context.Context, up func(), committed func(revision int64)) error
	logger  *slog.Logger
	working *sync.WaitGroup

	feed   feed
	counts counts
	gap    gap // this and batch are the poller's
	batch  int
	pace   pace // when to look without being told
	notes  signal.Signal
	noted  atomic.Int64 // the newest revision to tell others of
	wake   signal.Signal
	asked  atomic.Int64 // a revision known to be committed
}

var _ server.Backend = (*store)(nil)

// New returns the backend. It works once Start has returned.
func New(o Options) server.Backend {
	s := &store{
		db: o.DB, dialect: o.Dialect, listen: o.Listen, logger: o.Logger, working: o.Working,
		notes: signal.New(), wake: signal.New(), batch: pollRows,
	}
	s.feed.init()
	s.counts.reset(0)
	s.pace.init(o.Listen != nil)
	return s
}

// lookBack is how many of the newest revisions are looked through at the
// start: a transaction that was begun before may still take one of them.
const lookBack = 1000

// Start implements server.Backend. What it starts ends with ctx.
func (s *store) Start(ctx context.Context) error {
	if err := s.prepare(ctx); err != nil {
		return s.dialect.wire("prepare the database", err)
	}
	current, compacted, err := s.revisions(ctx)
	if err != nil {
		return s.dialect.wire("read the revision of the database", err)
	}
	s.jump(max(compacted, current-lookBack, 0))
	s.working.Go(func() { s.follow(ctx) })
	if s.listen != nil {
		s.working.Go(func() { s.hear(ctx) })
		s.working.Go(func() { s.tell(ctx) })
	}
	if err := s.feed.wait(ctx, current); err != nil {
		return fmt.Errorf("read the newest changes of the database: %w", err)
	}
	// What the API server looks at to see whether etcd is well.
	if _, err := s.Create(ctx, server.HealthKey, []byte(server.HealthVal), 0); err != nil && err != server.ErrKeyExists { //nolint:errorlint // Create returns it as it is.
		return fmt.Errorf("write the key %s: %w", server.HealthKey, err)
	}
	s.working.Go(func() { expiry.Run(ctx, s, s.logger) })
	return nil
}

// prepare makes the row that says how far the history has been compacted. Old
// releases of kine have made two: the one that is ahead counts.
func (s *store) prepare(ctx context.Context) error {
	if _, err := s.db.ExecContext(ctx, insertCompactSQL); err != nil && s.dialect.kind(err) != kindConflict {
		return err
	}
	rows, err := s.db.QueryContext(ctx, `SELECT id FROM kine WHERE name = 'compact_rev_key' ORDER BY prev_revision DESC, id DESC`)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	var ids []int64
	for rows.Next() {
		var id int64
		if err := rows.Scan(&id); err != nil {
			return err
		}
		ids = append(ids, id)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	for _, id := range ids[min(1, len(ids)):] {
		if _, err := s.db.ExecContext(ctx, s.dialect.sql(`DELETE FROM kine WHERE id = ?`), id); err != nil {
			return err
		}
	}
	return nil
}

// revisions reads the newest revision there is, whether or not one below it is
// still to come, and how far the history has been compacted.
func (s *store) revisions(ctx context.Context) (current, compacted int64, err error) {
	var c, k sql.NullInt64
	err = s.db.QueryRowContext(ctx, `SELECT `+currentSQL+`, `+compactedSQL).Scan(&c, &k)
	return max(c.Int64, k.Int64), k.Int64, err
}

// slow is how long a statement may take before the log says so.
const slow = time.Second

// timed logs a statement that takes long.
func (s *store) timed(what string, begin time.Time) {
	if took := time.Since(begin); took > slow {
		s.logger.Warn("the database was slow", "statement", what, "took", took.Round(time.Millisecond))
	}
}

// committed notes that a revision is in the database, so that it is looked for.
func (s *store) committed(revision int64) {
	for {
		known := s.asked.Load()
		if revision <= known {
			return
		}
		if s.asked.CompareAndSwap(known, revision) {
			break
		}
	}
	if revision > s.feed.position() {
		s.wake.Send()
	}
}

// words joins parts of a statement.
func words(parts ...string) string { return strings.Join(parts, " ") }
