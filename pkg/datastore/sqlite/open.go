package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"

	"github.com/mattn/go-sqlite3"
)

const (
	// connections bounds the pool: each holds a page cache, and many readers
	// keep the write-ahead log from being checkpointed.
	connections = 8
	// pageSize of a new database, in bytes. Each row of the cluster touches a
	// handful of pages, each written whole: small pages write less.
	pageSize = 1024

	dsnCreate = "_synchronous=FULL&_busy_timeout=30000"
	dsnServe  = "_journal_mode=WAL&_synchronous=FULL&_busy_timeout=30000&_txlock=immediate&_stmt_cache_size=20&_cache_size=-1024"
)

// schema is kine's table with the two indexes its queries need; kine itself
// makes six, each of which is written on every change.
var schema = []string{
	`CREATE TABLE IF NOT EXISTS kine (
		id INTEGER PRIMARY KEY AUTOINCREMENT,
		name TEXT,
		created INTEGER,
		deleted INTEGER,
		create_revision INTEGER,
		prev_revision INTEGER,
		lease INTEGER,
		value BLOB,
		old_value BLOB)`,
	`CREATE INDEX IF NOT EXISTS kine_name_id_index ON kine (name, id)`,
	`CREATE UNIQUE INDEX IF NOT EXISTS kine_name_prev_revision_uindex ON kine (name, prev_revision)`,
}

// file is the database on disk.
type file struct {
	path   string
	logger *slog.Logger
}

func (f file) dsn(params string) string {
	return (&url.URL{Scheme: "file", Path: f.path, OmitHost: true, RawQuery: params}).String()
}

// marker is a file that says the database has been created, so that its loss
// is noticed.
func (f file) marker() string { return f.path + ".created" }

// prepare creates the database, or checks that what is there is usable. It is
// cheap after a clean stop; otherwise the whole file is checked.
func (f file) prepare(ctx context.Context) (err error) {
	if err := os.MkdirAll(filepath.Dir(f.path), 0o700); err != nil {
		return fmt.Errorf("create directory of the database: %w", err)
	}
	size, err := sizeOf(f.path)
	if err != nil {
		return fmt.Errorf("look at database: %w", err)
	}
	if _, merr := os.Stat(f.marker()); merr == nil && size == 0 {
		return fmt.Errorf("database %s is gone or empty although it has been created before: restore a backup to that place, or move the directory %s away to start with an empty cluster", f.path, filepath.Dir(f.path))
	}
	wal, err := sizeOf(f.path + "-wal")
	if err != nil {
		return fmt.Errorf("look at database: %w", err)
	}

	db := sql.OpenDB(newConnector(f.dsn(dsnCreate)))
	db.SetMaxOpenConns(1)
	defer func() { err = errors.Join(err, db.Close()) }()
	if size > 0 && wal > 0 {
		f.logger.Info("the database was not closed cleanly, checking it", "file", f.path)
		if err := f.check(ctx, db); err != nil {
			return err
		}
	}
	stmts := append([]string{fmt.Sprintf("PRAGMA page_size = %d", pageSize)}, schema...)
	// Only after the schema: the page size is fixed when the first page is
	// written or write-ahead mode is entered.
	for _, s := range append(stmts, `PRAGMA journal_mode = WAL`) {
		if _, err := db.ExecContext(ctx, s); err != nil {
			return f.explain(err)
		}
	}
	if err := os.WriteFile(f.marker(), nil, 0o600); err != nil {
		return fmt.Errorf("mark database as created: %w", err)
	}
	return nil
}

// check runs SQLite's own check over the whole file.
func (f file) check(ctx context.Context, db *sql.DB) error {
	var result string
	if err := db.QueryRowContext(ctx, `PRAGMA quick_check(1)`).Scan(&result); err != nil {
		return f.explain(err)
	}
	if result != "ok" {
		return f.damaged(errors.New(result))
	}
	return nil
}

// checkpoint moves the write-ahead log into the database, so that a stopped
// server leaves one self-contained file.
func (f file) checkpoint(ctx context.Context, db *sql.DB) error {
	if _, err := db.ExecContext(ctx, `PRAGMA wal_checkpoint(TRUNCATE)`); err != nil {
		return f.explain(err)
	}
	return nil
}

// explain turns SQLite's error into one that says which file, and what to do.
func (f file) explain(err error) error {
	e, ok := errors.AsType[sqlite3.Error](err)
	if !ok {
		return fmt.Errorf("use database %s: %w", f.path, err)
	}
	switch e.Code {
	case sqlite3.ErrNotADB, sqlite3.ErrCorrupt, sqlite3.ErrFormat:
		return f.damaged(err)
	case sqlite3.ErrFull:
		return fmt.Errorf("write database %s: no space left on the disk: %w", f.path, err)
	case sqlite3.ErrReadonly, sqlite3.ErrCantOpen, sqlite3.ErrPerm:
		return fmt.Errorf("write database %s: the file or its directory is read-only or not accessible: %w", f.path, err)
	}
	return fmt.Errorf("use database %s: %w", f.path, err)
}

func (f file) damaged(err error) error {
	return fmt.Errorf("database %s is damaged, it has been left as it is: restore a backup to that place, or move the directory %s away to start with an empty cluster: %w", f.path, filepath.Dir(f.path), err)
}

// sizeOf returns the size of a file, 0 if there is none.
func sizeOf(path string) (int64, error) {
	fi, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return 0, nil
	case err != nil:
		return 0, err
	}
	return fi.Size(), nil
}

// connector opens connections to one DSN without registering a driver.
type connector struct {
	dsn    string
	driver *sqlite3.SQLiteDriver
}

var _ driver.Connector = (*connector)(nil)

func newConnector(dsn string) *connector {
	return &connector{dsn: dsn, driver: &sqlite3.SQLiteDriver{}}
}

// Connect implements driver.Connector.
func (c *connector) Connect(context.Context) (driver.Conn, error) { return c.driver.Open(c.dsn) }

// Driver implements driver.Connector.
func (c *connector) Driver() driver.Driver { return c.driver }
