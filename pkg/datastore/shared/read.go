package shared

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/k3s-io/kine/pkg/server"
)

// state is what a statement says about the database besides its rows.
type state struct {
	current   int64 // newest revision
	compacted int64
	unsettled bool // a revision below current may still come
}

// stateScan receives stateSQL.
type stateScan struct{ current, compacted, since sql.NullInt64 }

func (s *stateScan) dest() []any { return []any{&s.current, &s.compacted, &s.since} }

// state interprets what was read with the parameter pos.
func (s *stateScan) state(pos int64) state {
	current := max(s.current.Int64, s.compacted.Int64)
	return state{
		current: current, compacted: s.compacted.Int64,
		unsettled: current > pos && current-pos != s.since.Int64,
	}
}

const (
	// countOnly as the limit of Range reads no keys.
	countOnly = -1
	// compactRow is kine's own, not a key.
	compactRow = "compact_rev_key"
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
	q := newQuery(key, end)
	q.limit, q.keysOnly = limit, keysOnly
	at, kvs, err := s.read(ctx, q, revision)
	return at, kvs, s.dialect.wire("list keys", err)
}

// Count implements server.Backend.
func (s *store) Count(ctx context.Context, key, end string, revision int64) (int64, int64, error) {
	at, _, count, err := s.Range(ctx, key, end, countOnly, revision, true)
	return at, count, err
}

// CurrentRevision implements server.Backend. It is read from the database, and
// nothing below it is still to come.
func (s *store) CurrentRevision(ctx context.Context) (int64, error) {
	at, _, err := s.Get(ctx, server.HealthKey, 0, true)
	return at, err
}

// DbSize implements server.Backend.
func (s *store) DbSize(ctx context.Context) (int64, error) { //nolint:staticcheck // ST1003: the interface is kine's.
	var size sql.NullInt64
	err := s.db.QueryRowContext(ctx, s.dialect.sizeSQL).Scan(&size)
	return size.Int64, s.dialect.wire("read the size of the database", err)
}

// Range reads the keys from key up to but without end, or one key if end is
// empty, or all from key on if end is "\x00", as they were at a revision, 0
// for now. It returns up to limit of them (0 for all), how many there are, and
// the revision of the database.
func (s *store) Range(ctx context.Context, key, end string, limit, revision int64, keysOnly bool) (at int64, kvs []*server.KeyValue, count int64, err error) {
	q := newQuery(key, end)
	q.keysOnly, q.count = keysOnly, limit == countOnly
	if limit > 0 {
		q.limit = limit + 1 // One more says whether there are more.
	}
	if at, kvs, err = s.read(ctx, q, revision); err != nil {
		return at, nil, 0, s.dialect.wire("read keys", err)
	}
	switch {
	case q.count:
		return at, nil, q.counted, nil
	case q.limit == 0 || int64(len(kvs)) < q.limit:
		return at, kvs, int64(len(kvs)), nil
	}
	if revision == 0 {
		revision = at
	}
	count, err = s.countAt(ctx, key, end, revision)
	if errors.Is(err, server.ErrCompacted) {
		// Just now. That there are more is what matters.
		count, err = limit+1, nil
	}
	return at, kvs[:limit], count, s.dialect.wire("count keys", err)
}

// countAt counts the keys of a range at a revision that is there.
func (s *store) countAt(ctx context.Context, key, end string, revision int64) (int64, error) {
	if err := s.settle(ctx, revision); err != nil {
		return 0, err
	}
	if n, ok := s.counts.at(key, end, revision); ok {
		return n, nil
	}
	q := newQuery(key, end)
	q.count = true
	_, _, err := s.read(ctx, q, revision)
	if err == nil {
		s.counts.learn(key, end, revision, q.counted)
	}
	return q.counted, err
}

// read runs a query at a revision, 0 for now. If a transaction may still bring
// a revision below the newest, that is waited for, and the state then read is
// that of the newest revision when the question was asked: what came later may
// have such holes again.
func (s *store) read(ctx context.Context, q *query, revision int64) (at int64, kvs []*server.KeyValue, err error) {
	for ctx.Err() == nil {
		q.revision = revision
		st, kvs, err := s.ask(ctx, q)
		if err != nil {
			return 0, nil, err
		}
		if at = st.current; st.unsettled {
			if err := s.settle(ctx, at); err != nil {
				return 0, nil, err
			}
			if revision == 0 || revision > at {
				q.revision = at
			}
			if st, kvs, err = s.ask(ctx, q); err != nil {
				return 0, nil, err
			}
		}
		if revision == 0 && at < st.compacted {
			continue
		}
		s.committed(at)
		switch {
		case revision > at:
			return at, nil, server.ErrFutureRev
		case revision > 0 && revision < st.compacted:
			return at, nil, server.ErrCompacted
		}
		return at, kvs, nil
	}
	return 0, nil, ctx.Err()
}

// settleTimeout bounds how long a request waits for somebody else's
// transaction; the client asks again.
const settleTimeout = 10 * time.Second

// settle waits until the poller has passed a revision.
func (s *store) settle(ctx context.Context, revision int64) error {
	s.committed(revision)
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	return s.feed.wait(ctx, revision)
}

// query is a question about a range of keys.
type query struct {
	where    string // of the name
	args     []any
	single   bool
	count    bool
	keysOnly bool
	limit    int64
	revision int64

	counted int64 // the answer, if count
}

// newQuery makes the condition of a range. A bound that ends in a zero byte is
// the first key after the one without: no database here stores that byte.
func newQuery(key, end string) *query {
	if end == "" {
		return &query{single: true, args: []any{key}}
	}
	q := &query{}
	from, after := strings.CutSuffix(key, "\x00")
	switch {
	case after && from != "":
		q.where = `kv.name > ?`
	default:
		q.where = `kv.name >= ?`
	}
	q.args = append(q.args, from)
	if end != "\x00" {
		to, upTo := strings.CutSuffix(end, "\x00")
		if upTo {
			q.where += ` AND kv.name <= ?`
		} else {
			q.where += ` AND kv.name < ?`
		}
		q.args = append(q.args, to)
	}
	if key <= compactRow && (end == "\x00" || end > compactRow) {
		q.where += ` AND kv.name <> '` + compactRow + `'`
	}
	return q
}

// ask runs the query once.
func (s *store) ask(ctx context.Context, q *query) (state, []*server.KeyValue, error) {
	defer s.timed("read keys", time.Now())
	switch {
	case q.single:
		return s.askOne(ctx, q)
	case q.count:
		return s.askCount(ctx, q)
	}
	asked := s.askAll
	if q.limit > 0 {
		asked = s.askPage
	}
	st, kvs, found, err := asked(ctx, q)
	for err == nil && !found {
		// Without a row nothing is known about the revision. A count always
		// says it, and confirms that there is none.
		if st, _, err = s.askCount(ctx, q); err != nil || q.counted == 0 {
			break
		}
		st, kvs, found, err = asked(ctx, q)
	}
	return st, kvs, err
}

// last says which rows are the last ones of their keys, at the revision.
func (q *query) last() string {
	bound := ``
	if q.revision > 0 {
		bound = ` AND kv.id <= ?`
	}
	return `SELECT MAX(kv.id) AS id FROM kine AS kv WHERE ` + q.where + bound + ` GROUP BY kv.name`
}

// params are those of stateSQL and last.
func (q *query) params(pos int64) []any {
	args := append([]any{pos}, q.args...)
	if q.revision > 0 {
		args = append(args, q.revision)
	}
	return args
}

func (q *query) columns() string {
	if q.keysOnly {
		return columnsSQL + `, NULL`
	}
	return columnsSQL + `, kv.value`
}

// askAll reads all keys; found is false if there is none. They are sorted
// here: the database would sort the values with them, and that on disk.
func (s *store) askAll(ctx context.Context, q *query) (st state, kvs []*server.KeyValue, found bool, err error) {
	statement := words(`SELECT`, stateSQL+`,`, q.columns(), `FROM kine AS kv INNER JOIN (`+q.last()+`) AS last ON last.id = kv.id WHERE kv.deleted = 0`)
	st, err = s.rows(ctx, statement, q, func(r *row) { kvs = append(kvs, r.keyValue()) })
	slices.SortFunc(kvs, func(a, b *server.KeyValue) int { return strings.Compare(a.Key, b.Key) })
	return st, kvs, len(kvs) > 0, err
}

// askPage reads the first keys. How many there are can be said to the database
// only before it looks at which of them have been removed, so that more may
// have to be asked for.
func (s *store) askPage(ctx context.Context, q *query) (st state, kvs []*server.KeyValue, found bool, err error) {
	part, first := *q, true
	for {
		last, n := "", int64(0)
		statement := words(`SELECT`, stateSQL+`,`, q.columns(), `FROM kine AS kv INNER JOIN (`+part.last(),
			`ORDER BY kv.name LIMIT `+strconv.FormatInt(q.limit, 10)+`) AS last ON last.id = kv.id ORDER BY kv.name`)
		now, err := s.rows(ctx, statement, &part, func(r *row) {
			last, n = r.name.String, n+1
			if r.deleted.Int64 == 0 && int64(len(kvs)) < q.limit {
				kvs = append(kvs, r.keyValue())
			}
		})
		if err != nil {
			return st, nil, false, err
		}
		if !found {
			st, found = now, n > 0
		}
		if n < q.limit || int64(len(kvs)) == q.limit {
			if first {
				return st, kvs, found, nil
			}
			// What has been compacted since the first part is missing in the
			// others.
			now, _, err := s.askOne(ctx, newQuery(server.HealthKey, ""))
			st.compacted = max(st.compacted, now.compacted)
			return st, kvs, found, err
		}
		first = false
		if part.revision == 0 {
			part.revision = st.current
		}
		part.where = q.where + ` AND kv.name > ?`
		part.args = append(slices.Clone(q.args), last)
	}
}

// rows runs a statement that begins with stateSQL, and calls each with what
// columns says.
func (s *store) rows(ctx context.Context, statement string, q *query, each func(*row)) (st state, err error) {
	pos := s.feed.position()
	rows, err := s.db.QueryContext(ctx, s.dialect.sql(statement), q.params(pos)...)
	if err != nil {
		return st, err
	}
	defer func() { _ = rows.Close() }()
	var scan stateScan
	var row row
	dest := append(scan.dest(), row.dest()...)
	for rows.Next() {
		if err := rows.Scan(dest...); err != nil {
			return st, err
		}
		each(&row)
	}
	// A connection that breaks ends the rows, too: those before are no list.
	return scan.state(pos), rows.Err()
}

func (s *store) askCount(ctx context.Context, q *query) (state, []*server.KeyValue, error) {
	pos := s.feed.position()
	statement := words(`SELECT`, stateSQL+`,`, `COUNT(*) FROM kine AS kv INNER JOIN (`+q.last()+`) AS last ON last.id = kv.id WHERE kv.deleted = 0`)
	var scan stateScan
	err := s.db.QueryRowContext(ctx, s.dialect.sql(statement), q.params(pos)...).Scan(append(scan.dest(), &q.counted)...)
	return scan.state(pos), nil, err
}

// askOne reads the last row of one key, which may be that of its removal. There
// is always an answer.
func (s *store) askOne(ctx context.Context, q *query) (state, []*server.KeyValue, error) {
	pos := s.feed.position()
	last := `SELECT MAX(id) FROM kine WHERE name = ?`
	if q.revision > 0 {
		last += ` AND id <= ?`
	}
	statement := words(`SELECT`, stateSQL+`,`, q.columns(), `FROM (SELECT 1 AS one) AS one LEFT JOIN kine AS kv ON kv.id = (`+last+`)`)
	var scan stateScan
	var row row
	err := s.db.QueryRowContext(ctx, s.dialect.sql(statement), q.params(pos)...).Scan(append(scan.dest(), row.dest()...)...)
	q.counted = 0
	if err != nil || !row.id.Valid || row.deleted.Int64 != 0 {
		return scan.state(pos), nil, err
	}
	q.counted = 1
	return scan.state(pos), []*server.KeyValue{row.keyValue()}, nil
}

// row receives columnsSQL and the value.
type row struct {
	id, created, deleted, create, lease sql.NullInt64
	name                                sql.NullString
	value                               []byte
}

func (r *row) dest() []any {
	return []any{&r.id, &r.name, &r.created, &r.deleted, &r.create, &r.lease, &r.value}
}

func (r *row) keyValue() *server.KeyValue {
	kv := &server.KeyValue{Key: r.name.String, Value: r.value, ModRevision: r.id.Int64, CreateRevision: r.create.Int64, Lease: r.lease.Int64}
	if r.created.Int64 != 0 {
		kv.CreateRevision = kv.ModRevision
	}
	r.value = nil
	return kv
}
