package repair

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"skiff/pkg/datastore/schema"
)

const (
	// presentSQL reads the newest row of every key that has not been deleted.
	presentSQL = `SELECT kv.id, kv.name, kv.created, kv.create_revision, kv.prev_revision, kv.lease, kv.value FROM kine AS kv
		JOIN (SELECT MAX(id) AS newest FROM kine GROUP BY name) AS n ON kv.id = n.newest
		WHERE kv.deleted = 0 ORDER BY kv.id`

	// countedSQL is what SQLite's own counter knows of the revision; K3s'
	// databases have one.
	countedSQL = `SELECT COALESCE(MAX(seq), 0) FROM sqlite_sequence WHERE name = 'kine'`
	counterSQL = `SELECT COUNT(*) FROM sqlite_master WHERE name = 'sqlite_sequence'`
)

// A Copy is a private copy of another's database, whose files are only read.
type Copy struct{ path string }

// Borrow copies a database that nobody uses, with its write-ahead log, to the
// new file to, and checks the copy.
func Borrow(ctx context.Context, from, to string) (*Copy, error) {
	for _, suffix := range []string{"", "-wal"} {
		err := copyFile(from+suffix, to+suffix)
		if err != nil && (suffix == "" || !errors.Is(err, os.ErrNotExist)) {
			return nil, fmt.Errorf("copy database %s: %w", from, roomIn(to, err))
		}
	}
	if err := Check(ctx, to); err != nil {
		return nil, fmt.Errorf("check the copy of %s: %w", from, err)
	}
	return &Copy{to}, nil
}

func copyFile(from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	_, err = io.Copy(out, in)
	return err
}

// Remove removes the copy.
func (c *Copy) Remove() error {
	var errs []error
	for _, suffix := range []string{"", "-wal", "-shm", "-journal"} {
		if err := os.Remove(c.path + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Each calls fn with every key that is there and its value, in the order of
// their last changes.
func (c *Copy) Each(ctx context.Context, fn func(key string, value []byte) error) (err error) {
	db := open(c.path, "mode=rw&_busy_timeout=30000")
	defer func() { err = errors.Join(err, db.Close()) }()
	return present(ctx, db, func(r row) error { return fn(r.name, r.value) })
}

// row is one row of the table.
type row struct {
	id                                  int64
	name                                string
	created, createRevision, prev, rent int64
	value                               []byte
}

func present(ctx context.Context, db *sql.DB, fn func(row) error) (err error) {
	rows, err := db.QueryContext(ctx, presentSQL)
	if err != nil {
		return fmt.Errorf("read keys: %w", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var r row
		if err := rows.Scan(&r.id, &r.name, &r.created, &r.createRevision, &r.prev, &r.rent, &r.value); err != nil {
			return fmt.Errorf("read keys: %w", err)
		}
		if strings.HasPrefix(r.name, schema.CompactKey) || strings.HasPrefix(r.name, "gap-") {
			continue
		}
		if err := fn(r); err != nil {
			return err
		}
	}
	return rows.Err()
}

// WriteTo makes a new database of ours from the keys that are there: decide
// says with which value, and which not. Objects keep their revisions, the
// history does not come along, and the revision moves on by jump, so that
// whoever has watched the old one begins anew. It returns how many keys the new
// one has.
func (c *Copy) WriteTo(ctx context.Context, to string, jump int64, decide func(key string, value []byte) (as []byte, keep bool)) (keys int, err error) {
	d, err := newDraft(to)
	if err != nil {
		return 0, fmt.Errorf("prepare new database: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.discard())
		}
	}()
	if keys, err = c.copyRows(ctx, d.tmp, decide); err != nil {
		return 0, fmt.Errorf("write database %s: %w", to, roomIn(to, err))
	}
	if err := d.publish(ctx); err != nil {
		return 0, fmt.Errorf("write database %s: %w", to, roomIn(to, err))
	}
	if _, err := Bump(ctx, to, jump); err != nil {
		return 0, err
	}
	return keys, nil
}

func (c *Copy) copyRows(ctx context.Context, to string, decide func(string, []byte) ([]byte, bool)) (keys int, err error) {
	from := open(c.path, "mode=rw&_busy_timeout=30000")
	defer func() { err = errors.Join(err, from.Close()) }()
	newest, err := newestOf(ctx, from)
	if err != nil {
		return 0, err
	}
	if err := create(to); err != nil {
		return 0, err
	}
	// Nobody reads the file before it is whole and synced.
	db := open(to, "mode=rw&_synchronous=OFF&_journal_mode=OFF")
	defer func() { err = errors.Join(err, db.Close()) }()
	for _, stmt := range slices.Concat(schema.Settings, schema.Statements) {
		if _, err := db.ExecContext(ctx, stmt); err != nil {
			return 0, err
		}
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			_ = tx.Rollback() // It is over already if the commit was what failed.
		}
	}()
	insert, err := tx.PrepareContext(ctx, `INSERT INTO kine (`+schema.Columns()+`) VALUES (?, ?, ?, 0, ?, ?, ?, ?, NULL)`)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, insert.Close()) }()
	err = present(ctx, from, func(r row) error {
		value, keep := decide(r.name, r.value)
		if !keep {
			return nil
		}
		keys++
		_, err := insert.ExecContext(ctx, r.id, r.name, r.created, r.createRevision, r.prev, r.rent, value)
		return err
	})
	if err != nil {
		return 0, err
	}
	// Bump goes on from the highest revision there is, and no row may have it.
	if err := compacted(ctx, tx, newest+2); err != nil {
		return 0, err
	}
	return keys, tx.Commit()
}

// newestOf is the highest revision that a database has given out.
func newestOf(ctx context.Context, db *sql.DB) (int64, error) {
	var newest, counters, counted int64
	if err := db.QueryRowContext(ctx, newestSQL, schema.CompactKey).Scan(&newest); err != nil {
		return 0, err
	}
	if err := db.QueryRowContext(ctx, counterSQL).Scan(&counters); err != nil || counters == 0 {
		return newest, err
	}
	err := db.QueryRowContext(ctx, countedSQL).Scan(&counted)
	return max(newest, counted), err
}
