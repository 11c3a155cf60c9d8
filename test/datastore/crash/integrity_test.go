package crash

import (
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	_ "github.com/mattn/go-sqlite3" // SQLite's own opinion about a file
)

// integrityWithLog checks a database as it was left, write-ahead log and all,
// in a copy: opening it would tidy up what the next start should find.
func integrityWithLog(dir string) error {
	to, err := os.MkdirTemp(filepath.Dir(dir), "copy-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(to)
	if err := os.CopyFS(filepath.Join(to, "db"), os.DirFS(dir)); err != nil {
		return err
	}
	return integrity(filepath.Join(to, "db"))
}

// integrity asks SQLite itself about a database that nobody has open.
func integrity(dir string) (err error) {
	db, err := sql.Open("sqlite3", "file:"+filepath.Join(dir, "state.db")+"?mode=rw")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	var result string
	if err := db.QueryRow("PRAGMA integrity_check").Scan(&result); err != nil {
		return fmt.Errorf("check integrity: %w", err)
	}
	if result != "ok" {
		return fmt.Errorf("check integrity: %s", result)
	}
	return nil
}
