// Package repair works on a SQLite file of the datastore from outside: it
// checks one, copies one that is in use, reads what is left of a damaged one,
// and moves its revisions on so that nobody goes on with what he remembers.
// Except for Backup no engine may have the file open meanwhile. The package
// knows kine's table and nothing of Kubernetes. Start reading at Check; DESIGN.md
// says how Salvage reads a damaged file.
package repair

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/mattn/go-sqlite3"

	"skiff/internal/atomicfile"
)

// DamagedError says that a file is not a sound database.
type DamagedError struct {
	Path   string
	Detail string // in SQLite's words
}

// Error names the file and what SQLite says about it.
func (e *DamagedError) Error() string {
	return fmt.Sprintf("database %s is damaged: %s", e.Path, e.Detail)
}

// Check looks through the whole file, and through its write-ahead log, for
// damage. It returns a *DamagedError if there is some. That the indexes agree
// with the table is not looked at: that takes many times as long.
func Check(ctx context.Context, path string) error { return check(ctx, path, "quick_check") }

func check(ctx context.Context, path, pragma string) (err error) {
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("check database: %w", err)
	}
	db := open(path, "mode=rw&_busy_timeout=5000")
	defer func() { err = errors.Join(err, db.Close()) }()
	rows, err := db.QueryContext(ctx, "PRAGMA "+pragma+"(10)")
	if err != nil {
		return explain("check", path, err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	var found []string
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			return explain("check", path, err)
		}
		if line != "ok" {
			found = append(found, strings.TrimSpace(line))
		}
	}
	if err := rows.Err(); err != nil {
		return explain("check", path, err)
	}
	if len(found) > 0 {
		return &DamagedError{Path: path, Detail: strings.Join(found, "; ")}
	}
	return nil
}

// explain turns SQLite's error into one that says what was done to which file,
// or into a *DamagedError.
func explain(verb, path string, err error) error {
	e, ok := errors.AsType[sqlite3.Error](err)
	if !ok {
		return fmt.Errorf("%s database %s: %w", verb, path, err)
	}
	switch e.Code {
	case sqlite3.ErrNotADB, sqlite3.ErrCorrupt, sqlite3.ErrFormat:
		return &DamagedError{Path: path, Detail: e.Error()}
	case sqlite3.ErrFull:
		return fmt.Errorf("%s database %s: no space left in %s: %w", verb, path, filepath.Dir(path), err)
	}
	return fmt.Errorf("%s database %s: %w", verb, path, err)
}

// open returns one connection to a file. Errors come with its first use.
func open(path, params string) *sql.DB {
	dsn := (&url.URL{Scheme: "file", Path: path, OmitHost: true, RawQuery: params}).String()
	db := sql.OpenDB(&connector{dsn: dsn, driver: &sqlite3.SQLiteDriver{}})
	db.SetMaxOpenConns(1)
	return db
}

// connector opens connections to one DSN without registering a driver.
type connector struct {
	dsn    string
	driver *sqlite3.SQLiteDriver
}

var _ driver.Connector = (*connector)(nil)

// Connect implements driver.Connector.
func (c *connector) Connect(context.Context) (driver.Conn, error) { return c.driver.Open(c.dsn) }

// Driver implements driver.Connector.
func (c *connector) Driver() driver.Driver { return c.driver }

// draft is a database that is written under a name of its own, and gets its
// real one when it is whole and on the disk.
type draft struct{ path, tmp string }

// newDraft removes what an interrupted attempt has left.
func newDraft(path string) (draft, error) {
	d := draft{path: path, tmp: path + ".tmp"}
	return d, d.discard()
}

// discard removes the draft with everything SQLite may have put beside it.
func (d draft) discard() error {
	var errs []error
	for _, suffix := range []string{"", "-journal", "-wal", "-shm"} {
		if err := os.Remove(d.tmp + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// publish checks the draft, syncs it and renames it.
func (d draft) publish(ctx context.Context) error {
	if err := syncFile(d.tmp); err != nil {
		return err
	}
	if err := check(ctx, d.tmp, "integrity_check"); err != nil {
		return fmt.Errorf("check what was written: %w", err)
	}
	if err := os.Rename(d.tmp, d.path); err != nil {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(d.path))
}

func syncFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
