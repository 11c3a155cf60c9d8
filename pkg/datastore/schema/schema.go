// Package schema is what a new SQLite database of the datastore looks like:
// kine's table, so that K3s' databases and ours are read by the same code, with
// the one index that the engine needs. Whoever makes a database takes it from
// here; the package opens none itself. Start reading at Statements.
package schema

import (
	"fmt"
	"strings"
)

const (
	// PageSize of a new database, in bytes. Each write of the cluster touches
	// a handful of pages, each written whole: small pages write less. It has to
	// be set before the first page is written.
	PageSize = 1024

	// Version goes up with every change after which the version of skiff before
	// cannot use a database that this one has used. An upgrade that is taken back
	// then takes the database back as well (pkg/upgrade).
	Version = 1

	// Table is the name of the only table.
	Table = "kine"

	// CompactKey is the name of the row whose prev_revision is the revision up
	// to which history has been compacted.
	CompactKey = "compact_rev_key"
)

// Settings have to be made before the first page of a new database is written.
// Incremental vacuum costs a seventh more bytes for each change, and is the
// only way for a file to become smaller while it is in use.
var Settings = []string{fmt.Sprintf(`PRAGMA page_size = %d`, PageSize), `PRAGMA auto_vacuum = INCREMENTAL`}

// columns of the table besides the id, which is the revision.
var columns = [...]string{"name", "created", "deleted", "create_revision", "prev_revision", "lease", "value", "old_value"}

// Statements make the schema in an empty database, and change nothing in one
// that has it.
var Statements = []string{
	`CREATE TABLE IF NOT EXISTS kine (
		id INTEGER PRIMARY KEY,
		name TEXT,
		created INTEGER,
		deleted INTEGER,
		create_revision INTEGER,
		prev_revision INTEGER,
		lease INTEGER,
		value BLOB,
		old_value BLOB)`,
	`CREATE INDEX IF NOT EXISTS kine_name_id_index ON kine (name, id)`,
}

// Columns lists the table's columns in order, the id first.
func Columns() string { return "id, " + strings.Join(columns[:], ", ") }

// GapName is the name of the row that stands for a revision at which nothing
// was written, by kine's convention.
func GapName(revision int64) string { return fmt.Sprintf("gap-%d", revision) }
