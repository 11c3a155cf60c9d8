package sqlite

import (
	"database/sql/driver"
	"errors"
	"time"

	"github.com/k3s-io/kine/pkg/server"

	"skiff/pkg/datastore/keyindex"
)

const (
	// batchChanges and batchBytes bound what one transaction commits.
	batchChanges = 256
	batchBytes   = 2 << 20

	// slowSync is how long a commit may take before it is worth a warning.
	slowSync = 500 * time.Millisecond

	insertSQL = `INSERT INTO kine (id, name, created, deleted, create_revision, prev_revision, lease, value) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)`
	latestSQL = `SELECT id, created, deleted, create_revision, lease FROM kine WHERE name = ?1 ORDER BY id DESC LIMIT 1`
)

// version is the newest version of a key, as the writer sees it.
type version struct {
	keyindex.Entry

	exists    bool
	tombstone int64 // revision of the row that removed the key, 0 if there is none
	value     []byte
	hasValue  bool
}

// writer owns the only connection that writes. It commits what has come in as
// one transaction; what comes in meanwhile is the next. It alone decides
// whether a change applies, so nobody's decision can be overtaken.
type writer struct {
	*store

	db     *conn
	mode   syncMode  // of the connection
	slow   bool      // a slow sync has been logged
	stuck  time.Time // when the log could not begin anew for lack of space
	logged int64     // bytes that went into the log since it was last copied, roughly
}

// step is one change of a batch that applies.
type step struct {
	*change

	event *server.Event
	after version
}

// task is something else to do on the writer's connection, between two
// batches.
type task struct {
	do   func(*writer) error
	done chan error
}

// run serves changes and tasks until the store closes.
func (w *writer) run() {
	for {
		select {
		case c := <-w.changes:
			w.commit(w.collect(c))
		case t := <-w.tasks:
			t.done <- t.do(w)
			w.trim()
			// One at a time: changes go first.
			select {
			case c := <-w.changes:
				w.commit(w.collect(c))
			default:
			}
		case <-w.closing:
			w.drain()
			return
		}
	}
}

// drain answers what was accepted before the store began to close.
func (w *writer) drain() {
	for {
		select {
		case c := <-w.changes:
			c.done <- outcome{err: errClosed}
		case t := <-w.tasks:
			t.done <- errClosed
		default:
			return
		}
	}
}

// collect takes what is waiting; it never waits itself.
func (w *writer) collect(first *change) []*change {
	batch, size := []*change{first}, len(first.value)
	for len(batch) < batchChanges && size < batchBytes {
		select {
		case c := <-w.changes:
			batch = append(batch, c)
			size += len(c.value)
		default:
			return batch
		}
	}
	return batch
}

// commit makes a batch of changes and answers them. If that fails, each is
// tried alone: one that cannot be made must not take the others with it.
func (w *writer) commit(batch []*change) {
	begin := time.Now()
	var steps []step
	var revision int64
	try := func() (err error) {
		steps, revision, err = w.try(batch)
		return err
	}
	var err error
	if len(batch) == 1 {
		err = w.squeeze(try)
	} else if err = try(); err != nil {
		for _, c := range batch {
			w.commit([]*change{c})
		}
		return
	}
	if err != nil {
		w.metrics.failed.Inc()
		batch[0].done <- outcome{err: err}
		return
	}
	w.apply(steps, revision)
	w.committed(steps, time.Since(begin))
	for _, st := range steps {
		st.answered = true
		st.done <- outcome{revision: st.event.KV.ModRevision, applied: true, prev: st.event.PrevKV}
	}
	for _, c := range batch {
		if !c.answered {
			c.done <- outcome{revision: revision}
		}
	}
	w.trim()
}

// squeeze does what needs space on the disk. If there is none, it makes some.
func (w *writer) squeeze(do func() error) error {
	err := do()
	if isFull(err) && w.rewind() {
		err = do()
	}
	if isFull(err) && w.space.release() {
		w.stuck = time.Time{}
		w.rewind()
		err = do()
	}
	return err
}

// committed notes what a commit has to be followed by.
func (w *writer) committed(steps []step, took time.Duration) {
	w.metrics.commit.Observe(took.Seconds())
	w.metrics.batch.Observe(float64(len(steps)))
	bytes := 0
	for _, st := range steps {
		bytes += len(st.value)
	}
	w.wrote(int64(len(steps)), bytes)
	w.unswept.Add(int64(bytes))
	if w.durability == Balanced {
		w.unsynced.Send()
	}
	if w.mode == syncFull && took > slowSync && !w.slow {
		w.slow = true
		w.logger.Warn("the disk is slow to sync: every change waits for it", "took", took.Round(time.Millisecond), "file", w.file.path)
	}
}

// try writes a batch in one transaction. It returns the changes that applied
// and the revision after them.
func (w *writer) try(batch []*change) (steps []step, revision int64, err error) {
	w.mu.RLock()
	revision = w.current
	w.mu.RUnlock()
	if err := w.setMode(w.store.mode(batch)); err != nil {
		return nil, 0, err
	}
	pending := map[string]version{}
	err = w.transaction(func() error {
		for _, c := range batch {
			now, ok := pending[c.key]
			if !ok {
				var err error
				if now, err = w.version(c.key); err != nil {
					return err
				}
			}
			if !c.applies(now) {
				continue
			}
			st, err := w.insert(c, now, revision+1)
			if err != nil {
				return err
			}
			revision++
			pending[c.key] = st.after
			steps = append(steps, st)
		}
		return nil
	})
	return steps, revision, err
}

// transaction commits what do writes, or nothing.
func (w *writer) transaction(do func() error) (err error) {
	if err := w.mend(); err != nil {
		return err
	}
	defer func() { w.unsure(err) }()
	if _, err := w.db.exec(`BEGIN IMMEDIATE`); err != nil {
		return err
	}
	err = do()
	if err == nil {
		_, err = w.db.exec(`COMMIT`)
	}
	if err == nil || w.db.c.AutoCommit() {
		return err // SQLite itself ends some transactions that fail.
	}
	_, rollback := w.db.exec(`ROLLBACK`)
	return errors.Join(err, rollback)
}

// setMode says how the next commit is synced.
func (w *writer) setMode(m syncMode) error {
	if w.mode == m {
		return nil
	}
	if err := w.db.script(`PRAGMA synchronous = ` + string(m)); err != nil {
		return err
	}
	w.mode = m
	return nil
}

// version looks up the newest version of a key.
func (w *writer) version(key string) (v version, err error) {
	w.mu.RLock()
	indexed := w.keys != nil
	if indexed {
		v.Entry, v.exists = w.keys.Get(key)
		v.tombstone = w.tombs.of[key]
	}
	w.mu.RUnlock()
	if indexed {
		return v, nil
	}
	err = w.db.query(latestSQL, 5, func(row []driver.Value) error {
		id := integer(row[0])
		if integer(row[2]) != 0 {
			v.tombstone = id
			return nil
		}
		v.exists = true
		v.Entry = keyindex.Entry{Key: key, Mod: id, Create: created(row[1], row[3], id), Lease: integer(row[4])}
		return nil
	}, args(key)...)
	return v, err
}

func (c *change) applies(now version) bool {
	switch c.kind {
	case createKey:
		return !now.exists
	case updateKey:
		return now.exists && now.Mod == c.expect
	default:
		return now.exists && (c.expect == anyRevision || now.Mod == c.expect)
	}
}

// insert writes the row of a change.
func (w *writer) insert(c *change, now version, revision int64) (step, error) {
	st := step{change: c, event: &server.Event{
		Create: c.kind == createKey,
		Delete: c.kind == deleteKey,
		KV:     &server.KeyValue{Key: c.key, Value: c.value, Lease: c.lease, ModRevision: revision, CreateRevision: revision},
	}}
	prev := now.tombstone
	if !st.event.Create {
		value, err := w.replaced(c, now)
		if err != nil {
			return st, err
		}
		prev = now.Mod
		st.event.PrevKV = &server.KeyValue{Key: c.key, Value: value, Lease: now.Lease, CreateRevision: now.Create, ModRevision: now.Mod}
		st.event.KV.CreateRevision = now.Create
	}
	_, err := w.db.exec(insertSQL, args(revision, c.key, int64(b2i(st.event.Create)), int64(b2i(st.event.Delete)),
		createdColumn(st.event), prev, c.lease, c.value)...)
	if st.event.Delete {
		st.after = version{tombstone: revision}
	} else {
		st.after = version{
			Entry:  keyindex.Entry{Key: c.key, Create: st.event.KV.CreateRevision, Mod: revision, Lease: c.lease},
			exists: true, value: c.value, hasValue: true,
		}
	}
	return st, err
}

// createdColumn is what kine keeps in create_revision: nothing in the row that
// creates the key.
func createdColumn(e *server.Event) int64 {
	if e.Create {
		return 0
	}
	return e.KV.CreateRevision
}

// replaced is the value that a change replaces.
func (w *writer) replaced(c *change, now version) (value []byte, err error) {
	if now.hasValue {
		return now.value, nil
	}
	if c.known != nil && c.known.ModRevision == now.Mod {
		return c.known.Value, nil
	}
	found := false
	err = w.db.query(valueSQL, 1, func(row []driver.Value) error {
		value, found = blob(row[0]), true
		return nil
	}, args(now.Mod)...)
	if err == nil && !found {
		err = w.lost(now.Mod)
	}
	return value, err
}

// apply makes committed changes visible, all at once, and announces them.
func (w *writer) apply(steps []step, revision int64) {
	if len(steps) == 0 {
		return
	}
	events := make([]*server.Event, len(steps))
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	for i, st := range steps {
		events[i] = st.event
		w.recent.add(st.event.KV.ModRevision, st.value)
		if w.keys == nil {
			continue
		}
		if st.event.Delete {
			w.keys.Delete(st.key)
			w.tombs.add(st.key, st.event.KV.ModRevision)
		} else {
			w.keys.Put(st.after.Entry)
			w.tombs.clear(st.key)
		}
	}
	if w.keys != nil && w.keys.Len() > w.maxKeys {
		w.logger.Warn("more keys than are kept in memory: reads take longer from now on", "keys", w.keys.Len(), "max", w.maxKeys)
		w.keys, w.tombs = nil, nil
	}
	w.current = revision
	w.feed.publish(events)
}
