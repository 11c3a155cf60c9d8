package sqlite

import (
	"cmp"
	"context"
	"database/sql/driver"
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/k3s-io/kine/pkg/server"

	"skiff/pkg/datastore/keyindex"
)

const (
	valueSQL = `SELECT value FROM kine WHERE id = ?1`

	// valuesSQL reads rows in the order of a list of revisions, which is the
	// order in which they are in the file.
	valuesSQL   = `SELECT kine.id, kine.value FROM json_each(?1) AS wanted CROSS JOIN kine ON kine.id = wanted.value`
	valuesBatch = 1000

	// The state at a revision: of each key the last row up to it, unless that
	// removes the key.
	pastColumns = `id, name, created, create_revision, lease`
	pastOfKey   = ` FROM (SELECT * FROM kine WHERE name = ?1 AND id <= ?2 ORDER BY id DESC LIMIT 1) AS kv WHERE deleted = 0`
	pastFromKey = ` FROM kine AS kv WHERE name >= ?1 AND id <= ?3 AND deleted = 0 AND name <> 'compact_rev_key' AND ?2 IS NOT NULL
		AND NOT EXISTS (SELECT 1 FROM kine AS later WHERE later.name = kv.name AND later.id > kv.id AND later.id <= ?3)`
	pastOfRange = ` FROM kine AS kv WHERE name >= ?1 AND name < ?2 AND id <= ?3 AND deleted = 0 AND name <> 'compact_rev_key'
		AND NOT EXISTS (SELECT 1 FROM kine AS later WHERE later.name = kv.name AND later.id > kv.id AND later.id <= ?3)`
)

// Get implements server.Backend: the version of a key at a revision, 0 for
// now.
func (s *store) Get(ctx context.Context, key string, revision int64, keysOnly bool) (int64, *server.KeyValue, error) {
	at, kvs, _, err := s.Range(ctx, key, "", 1, revision, keysOnly)
	if err != nil || len(kvs) == 0 {
		return at, nil, err
	}
	return at, kvs[0], nil
}

// List implements server.Backend.
func (s *store) List(ctx context.Context, key, end string, limit, revision int64, keysOnly bool) (int64, []*server.KeyValue, error) {
	at, kvs, _, err := s.Range(ctx, key, end, limit, revision, keysOnly)
	return at, kvs, err
}

// Count implements server.Backend.
func (s *store) Count(ctx context.Context, key, end string, revision int64) (int64, int64, error) {
	at, _, count, err := s.Range(ctx, key, end, countOnly, revision, true)
	return at, count, err
}

// countOnly as the limit of Range reads no keys.
const countOnly = -1

// Range reads the keys from key up to but without end, or one key if end is
// empty, or all from key on if end is "\x00", as they were at a revision, 0
// for now. It returns up to limit of them (0 for all), how many there are, and
// the store's revision. An error says server.ErrCompacted or
// server.ErrFutureRev if the revision cannot be read.
func (s *store) Range(ctx context.Context, key, end string, limit, revision int64, keysOnly bool) (at int64, kvs []*server.KeyValue, count int64, err error) {
	begin := time.Now()
	defer func() {
		if time.Since(begin) > slowRead {
			s.metrics.slow.Inc()
		}
	}()
	for {
		at, kvs, count, err = s.tryRange(ctx, key, end, limit, revision, keysOnly)
		// What was current has been replaced and compacted since.
		if gone := errors.Is(err, errVanished) || errors.Is(err, server.ErrCompacted); gone && revision == 0 && ctx.Err() == nil {
			continue
		}
		if errors.Is(err, errVanished) {
			err = server.ErrCompacted
		}
		return at, kvs, count, s.wireError("read", err)
	}
}

func (s *store) tryRange(ctx context.Context, key, end string, limit, revision int64, keysOnly bool) (int64, []*server.KeyValue, int64, error) {
	r := keyindex.Range{Key: key, End: end, Unbounded: end == "\x00"}
	if end == "" {
		r.End = key + "\x00"
	}
	s.mu.RLock()
	at, compacted, indexed := s.current, s.compacted, s.keys != nil
	var kvs []*server.KeyValue
	var missing []int
	var count int64
	if indexed && (revision == 0 || revision == at) {
		kvs, missing, count = s.look(r, end == "", limit, keysOnly)
	}
	s.mu.RUnlock()
	switch {
	case revision > at:
		return at, nil, 0, server.ErrFutureRev
	case revision != 0 && revision < compacted:
		return at, nil, 0, server.ErrCompacted
	case !indexed || (revision != 0 && revision != at):
		kvs, count, err := s.past(ctx, r, end == "", limit, cmp.Or(revision, at), keysOnly)
		return at, kvs, count, err
	case keysOnly || len(missing) == 0:
		return at, kvs, count, nil
	}
	return at, kvs, count, s.values(ctx, kvs, missing)
}

// look reads the index, and the values that are in memory. missing says which
// values are not. It needs s.mu.
func (s *store) look(r keyindex.Range, single bool, limit int64, keysOnly bool) (kvs []*server.KeyValue, missing []int, count int64) {
	take := func(e keyindex.Entry) {
		kv := &server.KeyValue{Key: e.Key, CreateRevision: e.Create, ModRevision: e.Mod, Lease: e.Lease}
		if !keysOnly {
			value, ok := s.recent.get(e.Mod)
			kv.Value = value
			if !ok {
				missing = append(missing, len(kvs))
			}
		}
		kvs = append(kvs, kv)
	}
	if single {
		if e, ok := s.keys.Get(r.Key); ok {
			take(e)
			count = 1
		}
		return kvs, missing, count
	}
	s.keys.Walk(r, func(e keyindex.Entry) bool {
		if limit == 0 || count < limit {
			take(e)
		}
		count++
		return true
	})
	return kvs, missing, count
}

// values reads the values of kvs[i] for every i in missing.
func (s *store) values(ctx context.Context, kvs []*server.KeyValue, missing []int) error {
	return s.readers.use(ctx, func(c *conn) error {
		if len(missing) == 1 {
			kv := kvs[missing[0]]
			found := false
			err := c.query(valueSQL, 1, func(row []driver.Value) error {
				kv.Value, found = blob(row[0]), true
				return nil
			}, args(kv.ModRevision)...)
			if err == nil && !found {
				return s.vanished(kv.ModRevision)
			}
			return err
		}
		slices.SortFunc(missing, func(a, b int) int { return cmp.Compare(kvs[a].ModRevision, kvs[b].ModRevision) })
		for batch := range slices.Chunk(missing, valuesBatch) {
			if err := s.valuesOf(ctx, c, kvs, batch); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *store) valuesOf(ctx context.Context, c *conn, kvs []*server.KeyValue, batch []int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	list := make([]byte, 0, 10*len(batch))
	for i, n := range batch {
		list = append(list, ",["[b2i(i == 0)])
		list = strconv.AppendInt(list, kvs[n].ModRevision, 10)
	}
	list = append(list, ']')
	next := 0
	err := c.query(valuesSQL, 2, func(row []driver.Value) error {
		kv := kvs[batch[next]]
		if integer(row[0]) != kv.ModRevision {
			return s.vanished(kv.ModRevision)
		}
		kv.Value = blob(row[1])
		next++
		return nil
	}, args(string(list))...)
	if err == nil && next < len(batch) {
		return s.vanished(kvs[batch[next]].ModRevision)
	}
	return err
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// vanished tells a row that has been compacted from one that the file has
// lost.
func (s *store) vanished(revision int64) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.compacted >= revision {
		return errVanished
	}
	return s.lost(revision)
}

// past reads the state at a revision from the database.
func (s *store) past(ctx context.Context, r keyindex.Range, single bool, limit, revision int64, keysOnly bool) (kvs []*server.KeyValue, count int64, err error) {
	from, params := pastOfRange, args(r.Key, r.End, revision)
	switch {
	case single:
		from, params = pastOfKey, args(r.Key, revision)
	case r.Unbounded:
		from = pastFromKey
	}
	columns, n := pastColumns, 5
	if !keysOnly {
		columns, n = pastColumns+", value", 6
	}
	err = s.readers.use(ctx, func(c *conn) error {
		if limit == countOnly || limit > 0 && !single {
			if count, err = c.number(`SELECT COUNT(*)`+from, params...); err != nil || limit == countOnly {
				return err
			}
		}
		sql := `SELECT ` + columns + from
		if !single {
			sql += ` ORDER BY name`
		}
		if limit > 0 && !single {
			sql += ` LIMIT ?4`
			params = append(params, driver.NamedValue{Ordinal: 4, Value: limit})
		}
		return c.query(sql, n, func(row []driver.Value) error {
			id := integer(row[0])
			kv := &server.KeyValue{Key: text(row[1]), ModRevision: id, CreateRevision: created(row[2], row[3], id), Lease: integer(row[4])}
			if !keysOnly {
				kv.Value = blob(row[5])
			}
			kvs = append(kvs, kv)
			return nil
		}, params...)
	})
	if err == nil && revision < s.compactedRevision() {
		return nil, 0, server.ErrCompacted
	}
	return kvs, max(count, int64(len(kvs))), err
}

func (s *store) compactedRevision() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.compacted
}
