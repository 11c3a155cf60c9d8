package shared

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Dialect is what differs between the databases.
type Dialect struct {
	numbered  bool // parameters are $1, $2 …; otherwise ?
	returning bool // INSERT … RETURNING is known
	casts     bool // parameters need a type

	// createSQL writes a key that does not exist, behind the tombstone if there
	// is one, which it locks; create says the order of its parameters.
	createSQL string
	create    func(name string, lease int64, value []byte) []any

	fillSQL    string // see dialect.fill
	compactSQL string // see compactBatch; parameters: from, to, from, to
	sizeSQL    string
	notifySQL  string // tells others of a revision; empty if that cannot be done

	classify func(error) (kind, bool) // false if the error is not the database's
}

// kind is what an error means for whoever asked.
type kind int

const (
	kindOther    kind = iota
	kindConflict      // a unique index says that somebody was quicker
	kindRetry         // rolled back for no fault of its own
	kindFull          // no space left
	kindDown          // the server stops or starts, or the connection is lost
	kindReadOnly      // the server is a standby now
	kindRefused       // a missing permission
	kindInvalid       // the value cannot be stored
)

var grpcCodes = map[kind]codes.Code{
	kindOther: codes.Internal, kindConflict: codes.Aborted, kindRetry: codes.Unavailable, kindFull: codes.ResourceExhausted,
	kindDown: codes.Unavailable, kindReadOnly: codes.Unavailable, kindRefused: codes.PermissionDenied, kindInvalid: codes.InvalidArgument,
}

// The parts of the statements that all databases share. What a reader has to
// know besides the rows comes in the same statement, since only then it is
// about the same state.
const (
	currentSQL   = `(SELECT MAX(id) FROM kine)`
	compactedSQL = `(SELECT MAX(prev_revision) FROM kine WHERE name = 'compact_rev_key')`
	// stateSQL has one parameter, the revision up to which all is known. It
	// counts only as far as is cheap, also in a planner's estimate: Postgres
	// plans a statement each time that seems to be better than the last plan.
	stateSQL = currentSQL + `, ` + compactedSQL + `, (SELECT COUNT(*) FROM (SELECT id FROM kine WHERE id > ? ORDER BY id LIMIT 30) AS since)`

	columnsSQL = `kv.id, kv.name, kv.created, kv.deleted, kv.create_revision, kv.lease`

	insertSQL        = `INSERT INTO kine (name, created, deleted, create_revision, prev_revision, lease, value, old_value)`
	insertCompactSQL = insertSQL + ` SELECT 'compact_rev_key', 1, 0, 0, 0, 0, NULL, NULL
		FROM (SELECT 1 AS one) AS one WHERE NOT EXISTS (SELECT 1 FROM kine WHERE name = 'compact_rev_key')`

	// updateSQL and deleteSQL replace the row of a key if it is the last one.
	// Should two do so at once, the unique index on name and prev_revision
	// stops the second. A removal keeps the lease, to tell it to watches.
	updateSQL = insertSQL + ` SELECT kv.name, 0, 0, ` + createdSQL + `, kv.id, %s, %s, kv.value` + ofLastSQL
	deleteSQL = insertSQL + ` SELECT kv.name, 0, 1, ` + createdSQL + `, kv.id, kv.lease, NULL, kv.value` + ofLastSQL

	createdSQL = `CASE WHEN kv.created <> 0 THEN kv.id ELSE kv.create_revision END`
	// ofLastSQL has the parameters revision, name, name, revision.
	ofLastSQL = ` FROM kine AS kv WHERE kv.id = ? AND kv.name = ? AND kv.deleted = 0
		AND NOT EXISTS (SELECT 1 FROM kine AS later WHERE later.name = ? AND later.id > ?)`
)

// sql gives a statement the database's kind of parameters.
func (d *Dialect) sql(s string) string {
	if !d.numbered {
		return s
	}
	var b strings.Builder
	for n := 1; ; n++ {
		before, after, found := strings.Cut(s, "?")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		b.WriteString("$" + strconv.Itoa(n))
		s = after
	}
}

// param is a parameter whose type the database cannot see from where it stands.
func (d *Dialect) param(as string) string {
	if d.casts {
		return "CAST(? AS " + as + ")"
	}
	return "?"
}

// insert runs an INSERT that may find nothing to do; then id is 0. With
// returning, the row's create_revision, lease and old_value are read as well.
func (d *Dialect) insert(ctx context.Context, db *sql.DB, returning bool, statement string, args ...any) (id int64, row written, err error) {
	if d.returning {
		columns, dest := ` RETURNING id`, []any{&id}
		if returning {
			columns, dest = ` RETURNING id, create_revision, lease, old_value`, []any{&id, &row.create, &row.lease, &row.old}
		}
		err = db.QueryRowContext(ctx, d.sql(statement+columns), args...).Scan(dest...)
		if errors.Is(err, sql.ErrNoRows) {
			return 0, row, nil
		}
		return id, row, err
	}
	result, err := db.ExecContext(ctx, d.sql(statement), args...)
	if err != nil {
		return 0, row, err
	}
	if n, err := result.RowsAffected(); err != nil || n == 0 {
		return 0, row, err
	}
	if id, err = result.LastInsertId(); err != nil || !returning {
		return id, row, err
	}
	err = db.QueryRowContext(ctx, d.sql(`SELECT create_revision, lease, old_value FROM kine WHERE id = ?`), id).Scan(&row.create, &row.lease, &row.old)
	if errors.Is(err, sql.ErrNoRows) {
		err = nil // Replaced and compacted since; it has been written.
	}
	return id, row, err
}

// written is what a new row has from the one before.
type written struct {
	create int64
	lease  int64
	old    []byte
}

// fill writes rows that say that the revisions from first to last are nobody's.
// A row that is there, stays; one that a transaction is about to commit is
// waited for, by the primary key.
func (d *Dialect) fill(ctx context.Context, db *sql.DB, first, last int64) error {
	var b strings.Builder
	b.WriteString(d.fillSQL)
	for id := first; id <= last; id++ {
		if id > first {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "(%d, 'gap-%d', 0, 1, 0, 0, 0, NULL, NULL)", id, id)
	}
	if d.numbered {
		b.WriteString(" ON CONFLICT DO NOTHING")
	}
	_, err := db.ExecContext(ctx, b.String())
	return err
}

// kind says what an error means. One that is not the database's is the
// connection's.
func (d *Dialect) kind(err error) kind {
	if k, ok := d.classify(err); ok {
		return k
	}
	return kindDown
}

// wire gives an error the code that an etcd client can act on.
func (d *Dialect) wire(doing string, err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return status.FromContextError(err).Err()
	}
	k := d.kind(err)
	if k == kindFull {
		return status.Errorf(codes.ResourceExhausted, "etcdserver: mvcc: database space exceeded: %s: %v", doing, err)
	}
	return status.Errorf(grpcCodes[k], "%s: %v", doing, err)
}
