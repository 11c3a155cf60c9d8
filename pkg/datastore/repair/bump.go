package repair

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"skiff/pkg/datastore/schema"
)

const (
	// newestSQL is the highest revision that the database knows of, be it
	// that of a row or one up to which history has been removed.
	newestSQL = `SELECT MAX(
		COALESCE((SELECT MAX(id) FROM kine), 0),
		COALESCE((SELECT MAX(prev_revision) FROM kine WHERE name = ?), 0))`

	// historySQL removes deletion markers and rows that a later one replaces.
	historySQL = `DELETE FROM kine WHERE name <> ? AND (deleted <> 0
		OR EXISTS (SELECT 1 FROM kine AS newer WHERE newer.name = kine.name AND newer.id > kine.id))`

	insertSQL = `INSERT INTO kine (id, name, created, deleted, create_revision, prev_revision, lease, value)
		VALUES (?, ?, ?, ?, 0, ?, 0, ?)`
)

// Bump moves the database's revision on by at least two, and removes all
// history: who asks for a revision from before, to read or to watch on from
// it, is told that it has been compacted and starts anew. It is for a database
// that may lack revisions which somebody has seen. The new revision is on the
// disk when Bump returns.
func Bump(ctx context.Context, path string, by int64) (revision int64, err error) {
	if by < 2 {
		return 0, fmt.Errorf("move the revision of %s by %d: want at least 2", path, by)
	}
	db := open(path, "mode=rw&_busy_timeout=30000&_synchronous=FULL&_txlock=immediate")
	defer func() { err = errors.Join(err, db.Close()) }()
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return 0, explain("open", path, err)
	}
	defer func() {
		if err != nil {
			_ = tx.Rollback() // It is over already if the commit was what failed.
			err = explain("move the revision of", path, err)
		}
	}()
	var newest int64
	if err := tx.QueryRowContext(ctx, newestSQL, schema.CompactKey).Scan(&newest); err != nil {
		return 0, err
	}
	if _, err := tx.ExecContext(ctx, historySQL, schema.CompactKey); err != nil {
		return 0, err
	}
	revision = newest + by
	if err := compacted(ctx, tx, revision); err != nil {
		return 0, err
	}
	if _, err := tx.ExecContext(ctx, insertSQL, revision, schema.GapName(revision), 0, 1, 0, nil); err != nil {
		return 0, err
	}
	if err := tx.Commit(); err != nil {
		return 0, err
	}
	return revision, nil
}

// compacted sets the revision up to which there is no history. A new row for
// it takes the revision below, which nobody has been told of.
func compacted(ctx context.Context, tx *sql.Tx, revision int64) error {
	var id sql.NullInt64
	if err := tx.QueryRowContext(ctx, `SELECT MAX(id) FROM kine WHERE name = ?`, schema.CompactKey).Scan(&id); err != nil {
		return err
	}
	if !id.Valid {
		_, err := tx.ExecContext(ctx, insertSQL, revision-1, schema.CompactKey, 1, 0, revision, []byte{})
		return err
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM kine WHERE name = ? AND id <> ?`, schema.CompactKey, id.Int64); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, `UPDATE kine SET prev_revision = ? WHERE id = ?`, revision, id.Int64)
	return err
}
