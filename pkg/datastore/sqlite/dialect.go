package sqlite

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/k3s-io/kine/pkg/drivers/generic"
	"github.com/k3s-io/kine/pkg/query"
	"github.com/k3s-io/kine/pkg/server"
	"github.com/mattn/go-sqlite3"
)

const (
	// sizeSQL is the size of the live part of the database, in bytes.
	sizeSQL = `SELECT (c.page_count - f.freelist_count) * s.page_size
		FROM pragma_page_count() AS c, pragma_freelist_count() AS f, pragma_page_size() AS s`

	// compactSQL removes, up to a revision, deletion markers and the rows that
	// a later row replaces. Rows up to the last compacted revision have been
	// looked at before: leaving them out makes a compaction cost what has
	// changed since, not what there is.
	compactSQL = `DELETE FROM kine WHERE id IN (
		SELECT newer.prev_revision FROM kine AS newer
			WHERE newer.id > (SELECT MAX(prev_revision) FROM kine WHERE name = 'compact_rev_key')
			AND newer.id <= ? AND newer.prev_revision <> 0 AND newer.name <> 'compact_rev_key'
		UNION ALL
		SELECT gone.id FROM kine AS gone
			WHERE gone.id > (SELECT MAX(prev_revision) FROM kine WHERE name = 'compact_rev_key')
			AND gone.id <= ? AND gone.deleted <> 0)`

	// insertSQL leaves old_value empty, where kine writes the previous value
	// once more: a lease then fits into one small page. The eighth parameter
	// is the previous revision.
	insertSQL = `INSERT INTO kine (name, created, deleted, create_revision, prev_revision, lease, value, old_value)
		VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, NULLIF(?8, ?8))`

	// afterSQL reads events in the columns that kine wants. The row that one
	// replaces is there as long as the event can be asked for: a compaction
	// removes it only together with the right to ask.
	afterSQL = `SELECT
			(SELECT MAX(id) FROM kine),
			(SELECT MAX(prev_revision) FROM kine WHERE name = 'compact_rev_key'),
			new.id, new.name, new.created, new.deleted, new.create_revision, new.prev_revision, new.lease,
			new.value, COALESCE(new.old_value, old.value)
		FROM kine AS new LEFT JOIN kine AS old ON old.id = new.prev_revision
		WHERE %s new.id > ? ORDER BY new.id ASC`
)

// adapt completes kine's generic SQL with what is SQLite's.
func adapt(g *generic.Generic) {
	named := func(sql, name string) *query.Named { return query.New(sql, "?", false, name) }
	g.LastInsertID = true
	g.GetSizeSQL = named(sizeSQL, "GetSize")
	g.InsertLastInsertIDSQL = named(insertSQL, "InsertLastInsertID")
	g.AfterAllOldValSQL = named(fmt.Sprintf(afterSQL, ""), "AfterAllOldVal")
	g.AfterOldValSQL = named(fmt.Sprintf(afterSQL, "new.name >= ? AND new.name < ? AND"), "AfterOldVal")
	g.AfterSingleOldValSQL = named(fmt.Sprintf(afterSQL, "new.name = ? AND"), "AfterSingleOldVal")
	g.CompactSQL = named(compactSQL, "Compact")
	g.PostCompactSQL = named(`PRAGMA wal_checkpoint(FULL)`, "PostCompact")
	g.TranslateErr = func(err error) error {
		if e, ok := errors.AsType[sqlite3.Error](err); ok && e.ExtendedCode == sqlite3.ErrConstraintUnique {
			return server.ErrKeyExists
		}
		return err
	}
	g.ErrCode = func(err error) string {
		if err == nil {
			return ""
		}
		if e, ok := errors.AsType[sqlite3.Error](err); ok {
			return strconv.Itoa(int(e.ExtendedCode))
		}
		return err.Error()
	}
}
