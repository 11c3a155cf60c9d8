package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/k3s-io/kine/pkg/server"

	"skiff/internal/atomicfile"
	"skiff/internal/lockfile"
	"skiff/internal/signal"
	"skiff/pkg/datastore/expiry"
	"skiff/pkg/datastore/keyindex"
	"skiff/pkg/datastore/schema"
)

// maxKeys bounds the index in memory; a key takes about 150 bytes.
const maxKeys = 500_000

// store is an open database as etcd's clients see it, through kine's
// interface. Why an acknowledged write cannot be lost is in DESIGN.md.
type store struct {
	file       file
	lock       *lockfile.Lock
	logger     *slog.Logger
	metrics    *metrics
	durability Durability
	maxKeys    int
	pageSize   int64
	readers    *pool
	space      *guard
	feed       feed

	changes     chan *change
	tasks       chan task
	checkpoints signal.Signal // the log should be copied
	unsynced    signal.Signal // a commit was not synced
	compacting  chan struct{} // holds a token while a compaction runs
	closing     chan struct{} // closed when the store begins to close
	stopped     chan struct{} // closed when the writer has ended
	working     sync.WaitGroup
	settled     atomic.Bool
	unswept     atomic.Int64 // bytes of values since history was removed
	damaged     atomic.Bool  // a read has shown it
	torn        atomic.Bool  // the disk has failed: the log has to be written once more

	mu        sync.RWMutex
	keys      *keyindex.Index // nil if there are more than maxKeys
	tombs     *tombstones     // nil if keys is
	recent    recent
	current   int64 // the newest revision that is committed
	compacted int64 // revisions before it cannot be read
	swept     int64 // what only revisions before it need has been removed; the file says so
}

var _ server.Backend = (*store)(nil)

// open opens the database and serves it until close.
func open(ctx context.Context, o Options, m *metrics) (s *store, err error) {
	f := file{path: o.path(), boot: o.BootID, disposable: o.Disposable, notes: o.Notes, snapshot: o.Snapshot, logger: o.Logger}
	if f.boot == "" {
		f.boot = bootID()
	}
	lock, err := f.acquire()
	if err != nil {
		return nil, err
	}
	s = &store{
		file: f, lock: lock, logger: o.Logger, metrics: m, durability: o.Durability, maxKeys: maxKeys,
		space:       newGuard(f),
		feed:        feed{subs: map[*subscription]struct{}{}},
		changes:     make(chan *change, batchChanges),
		tasks:       make(chan task),
		checkpoints: signal.New(),
		unsynced:    signal.New(),
		compacting:  make(chan struct{}, 1),
		closing:     make(chan struct{}),
		stopped:     make(chan struct{}),
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, lock.Release())
			s = nil
		}
	}()
	write, check, err := s.mount(ctx, o)
	if isDamaged(err) {
		if err := f.replace(ctx, err); err != nil {
			return nil, err
		}
		write, check, err = s.mount(ctx, o)
	}
	if err != nil {
		return nil, err
	}
	s.serve(write, check)
	m.store.Store(s)
	return s, nil
}

// mount opens the file and reads what is kept in memory. On an error nothing
// is left open.
func (s *store) mount(ctx context.Context, o Options) (write, check *conn, err error) {
	st, err := s.file.prepare(ctx, o.Bootstrap)
	if err != nil {
		return nil, nil, err
	}
	s.settled.Store(st.Settled)
	s.space.restore()
	var conns []*conn
	defer func() {
		if err != nil {
			for _, c := range conns {
				err = errors.Join(err, c.close())
			}
		}
	}()
	for _, cache := range []int{writerCache, checkCache} {
		c, err := connect(s.file.path, fmt.Sprintf("_journal_mode=WAL&_synchronous=FULL&_busy_timeout=%d&_cache_size=-%d", restartWait, cache))
		if err != nil {
			return nil, nil, s.file.explain(err)
		}
		conns = append(conns, c)
		if err := c.script(fmt.Sprintf(`PRAGMA wal_autocheckpoint = 0; PRAGMA journal_size_limit = %d`, restartAt)); err != nil {
			return nil, nil, s.file.explain(err)
		}
	}
	if err := s.load(conns[0]); err != nil {
		return nil, nil, s.file.explain(err)
	}
	// The log is there now. SQLite makes its name durable when it syncs it for
	// the first time, which may be too late for a sync of ours.
	if err := atomicfile.SyncDir(filepath.Dir(s.file.path)); err != nil {
		return nil, nil, fmt.Errorf("sync directory of the database: %w", err)
	}
	if s.readers, err = openPool(s.file.path, o.readers()); err != nil {
		return nil, nil, s.file.explain(err)
	}
	return conns[0], conns[1], nil
}

// serve starts the goroutines that own the two connections.
func (s *store) serve(write, check *conn) {
	s.working.Go(func() {
		w := &writer{store: s, db: write, mode: syncFull}
		w.run()
		close(s.stopped)
		if err := write.close(); err != nil {
			s.logger.Warn("the database's writing connection did not close", "error", err)
		}
	})
	s.working.Go(func() {
		s.checkpointer(check)
		if err := check.close(); err != nil {
			s.logger.Warn("the database's checkpoint connection did not close", "error", err)
		}
	})
	if s.durability == Balanced {
		s.working.Go(s.syncer)
	}
}

const (
	// keysSQL reads all rows without their values, the newest of a key last.
	keysSQL = `SELECT id, name, created, deleted, create_revision, lease FROM kine ORDER BY id`

	// newestSQL is the newest revision that has ever been used: the row may
	// have been compacted, and in a database of K3s the table counts them
	// itself.
	newestSQL     = `SELECT MAX(COALESCE((SELECT MAX(id) FROM kine), 0), COALESCE((SELECT MAX(prev_revision) FROM kine WHERE name = 'compact_rev_key'), 0))`
	sequenceSQL   = `SELECT COUNT(*) FROM sqlite_master WHERE name = 'sqlite_sequence'`
	nextSQL       = `SELECT COALESCE(MAX(seq), 0) FROM sqlite_sequence WHERE name = 'kine'`
	compactRevSQL = `SELECT MAX(prev_revision) FROM kine WHERE name = 'compact_rev_key'`
	pageSizeSQL   = `PRAGMA page_size`

	markCompactSQL = `INSERT INTO kine (id, name, created, deleted, create_revision, prev_revision, lease, value)
		SELECT ?1, 'compact_rev_key', 1, 0, 0, 0, 0, x'' WHERE NOT EXISTS (SELECT 1 FROM kine WHERE name = 'compact_rev_key')`
)

// load reads the index and the counters.
func (s *store) load(c *conn) (err error) {
	if s.current, err = c.number(newestSQL); err != nil {
		return err
	}
	if counted, err := c.number(sequenceSQL); err != nil {
		return err
	} else if counted > 0 {
		next, err := c.number(nextSQL)
		if err != nil {
			return err
		}
		s.current = max(s.current, next)
	}
	if added, err := c.exec(markCompactSQL, args(s.current+1)...); err != nil {
		return err
	} else if added > 0 {
		s.current++
	}
	if s.compacted, err = c.number(compactRevSQL); err != nil {
		return err
	}
	s.swept = s.compacted
	if s.pageSize, err = c.number(pageSizeSQL); err != nil {
		return err
	}
	s.keys, s.tombs = keyindex.New(), newTombstones()
	return c.query(keysSQL, 6, func(row []driver.Value) error {
		id, key := integer(row[0]), text(row[1])
		switch {
		case s.keys == nil || internal(key):
		case integer(row[3]) != 0:
			s.keys.Delete(key)
			s.tombs.add(key, id)
		default:
			s.keys.Put(keyindex.Entry{Key: key, Mod: id, Create: created(row[2], row[4], id), Lease: integer(row[5])})
			s.tombs.clear(key)
		}
		if s.keys != nil && s.keys.Len() > s.maxKeys {
			s.keys, s.tombs = nil, nil
		}
		return nil
	})
}

// internal reports whether a row is kine's own and no key of a client's.
func internal(key string) bool {
	return key == schema.CompactKey || strings.HasPrefix(key, gapPrefix)
}

// gapPrefix begins the names of rows that only fill a hole in the revisions.
const gapPrefix = "gap-"

// Start implements server.Backend: keys are removed when their lease is over
// from now on, until ctx ends.
func (s *store) Start(ctx context.Context) error {
	if _, err := s.Create(ctx, server.HealthKey, []byte(server.HealthVal), 0); err != nil && !errors.Is(err, server.ErrKeyExists) {
		// A full disk is no reason not to start: reading works.
		s.logger.Warn("the datastore's health key could not be created", "error", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	s.working.Go(func() {
		<-s.closing
		cancel()
	})
	s.working.Go(func() { expiry.Run(ctx, s, s.logger) })
	return nil
}

// settle ends the first start of a cluster: what has been written is synced,
// and so is every write from now on.
func (s *store) settle(ctx context.Context) error {
	if s.settled.Load() {
		return nil
	}
	err := s.task(ctx, func(w *writer) error {
		// A checkpoint would not do: it leaves the log unsynced if a reader
		// keeps it from copying.
		if err := syncLog(w.file.path); err != nil {
			return err
		}
		s.settled.Store(true)
		return nil
	})
	if err != nil {
		return fmt.Errorf("sync the first state of the cluster: %w", err)
	}
	return s.file.writeState(state{Boot: s.file.boot, Open: true, Settled: true})
}

// close ends what serves the store, and leaves one self-contained file.
func (s *store) close(context.Context) error {
	s.finishSweep()
	close(s.closing)
	<-s.stopped
	err := s.readers.close()
	s.working.Wait()
	c, cerr := connect(s.file.path, fmt.Sprintf("_synchronous=FULL&_busy_timeout=%d", busyMilliseconds))
	if cerr == nil {
		_, _, cerr = copyLog(c, "TRUNCATE")
		cerr = errors.Join(cerr, c.close())
	}
	if cerr == nil {
		cerr = s.file.writeState(state{Boot: s.file.boot, Open: s.damaged.Load(), Settled: s.settled.Load()})
	} else {
		cerr = s.file.explain(cerr)
	}
	return errors.Join(err, cerr, s.lock.Release())
}

// CurrentRevision implements server.Backend.
func (s *store) CurrentRevision(context.Context) (int64, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.current, nil
}

// WaitForSyncTo implements server.Backend: what is committed has been handed
// to the watches.
func (s *store) WaitForSyncTo(int64) {}

// sizeSQL is the size of the live part of the database, in bytes.
const sizeSQL = `SELECT (c.page_count - f.freelist_count) * s.page_size
	FROM pragma_page_count() AS c, pragma_freelist_count() AS f, pragma_page_size() AS s`

// DbSize implements server.Backend.
func (s *store) DbSize(ctx context.Context) (size int64, err error) { //nolint:staticcheck // ST1003: the interface is kine's.
	err = s.readers.use(ctx, func(c *conn) error {
		size, err = c.number(sizeSQL)
		return err
	})
	return size, s.wireError("read size", err)
}
