package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mattn/go-sqlite3"

	"skiff/internal/atomicfile"
	"skiff/internal/lockfile"
	"skiff/pkg/datastore/repair"
	"skiff/pkg/datastore/schema"
	"skiff/pkg/status"
)

// jump is how far the revision is moved on when revisions may have been lost:
// more than can have been used between two syncs.
const jump = 1_000_000

const tableSQL = `SELECT COUNT(*) FROM sqlite_master WHERE type = 'table' AND name = 'kine'`

// file is the database on disk.
type file struct {
	path   string
	boot   string // identity of the running boot, "" if it is not known
	logger *slog.Logger

	disposable bool // what is lost with it is not worth an interruption
	notes      status.Notes
	// snapshot is Options.Snapshot.
	snapshot func(ctx context.Context, to string) (string, int64, error)
}

// marker is a file that says the database has been created, so that its loss
// is noticed.
func (f file) marker() string { return f.path + ".created" }

// acquire makes the directory and takes the database for this process.
func (f file) acquire() (*lockfile.Lock, error) {
	if err := makeDir(filepath.Dir(f.path)); err != nil {
		return nil, fmt.Errorf("create directory of the database: %w", err)
	}
	lock, err := lockfile.Acquire(f.path + ".lock")
	if held, ok := errors.AsType[*lockfile.HeldError](err); ok {
		return nil, fmt.Errorf("database %s is in use by another skiff; stop process %d first: %w", f.path, held.PID, err)
	}
	if err != nil {
		return nil, fmt.Errorf("take database: %w", err)
	}
	return lock, nil
}

// prepare creates the database, or checks that what is there is usable, and
// notes that it is open. It is cheap after a clean stop; otherwise the whole
// file is checked. bootstrap says that the owner will report when the first
// start is complete.
func (f file) prepare(ctx context.Context, bootstrap bool) (state, error) {
	if err := f.finish(); err != nil {
		return state{}, err
	}
	last, err := f.readState()
	if err != nil {
		return state{}, err
	}
	size, err := f.sizes()
	if err != nil {
		return state{}, err
	}
	_, merr := os.Stat(f.marker())
	if merr == nil && size.db == 0 {
		return state{}, &repair.DamagedError{Path: f.path, Detail: "it is gone or empty although it has been created before"}
	}
	now := state{Boot: f.boot, Open: true, Settled: size.db > 0 || !bootstrap}
	if last != nil {
		now.Settled = last.Settled || !bootstrap
	}
	unclean := size.wal > 0 || last != nil && last.Open
	if size.db > 0 && unclean {
		if err := f.recover(ctx, last); err != nil {
			return state{}, err
		}
	}
	if merr == nil {
		if made, err := f.hasTable(); err != nil {
			return state{}, err
		} else if !made {
			return state{}, &repair.DamagedError{Path: f.path, Detail: "it holds nothing although it has been created before"}
		}
	}
	if err := f.writeState(now); err != nil {
		return state{}, err
	}
	return now, f.create()
}

// recover checks a database that was not closed. After a power cut it moves
// the revision on: acknowledged changes that were not waited for to be synced,
// such as renewals of leases, are gone, and their revisions must not be used
// again.
func (f file) recover(ctx context.Context, last *state) error {
	f.logger.Info("the database was not closed cleanly, checking it", "file", f.path)
	// If the kernel has lived on, so has every write.
	same := last != nil && last.Boot == f.boot && f.boot != ""
	if same {
		damaged, err := repair.LogDamaged(f.path)
		if err != nil {
			return f.explain(err)
		}
		if damaged {
			return &repair.DamagedError{Path: f.path, Detail: "its write-ahead log is damaged"}
		}
		// Its sync may have failed in the process before.
		if err := rewriteLog(f.path); err != nil {
			return f.explain(err)
		}
	}
	if err := repair.Check(ctx, f.path); err != nil {
		return f.explain(err)
	}
	if same {
		return nil
	}
	if made, err := f.hasTable(); err != nil || !made {
		return err // Without the table, the first start was cut short before it took a write.
	}
	revision, err := repair.Bump(ctx, f.path, jump)
	if err != nil {
		return f.explain(err)
	}
	f.logger.Info("the machine was not shut down cleanly: revisions continue above all that may have been in use", "revision", revision)
	return nil
}

// hasTable reports whether the table of keys is there.
func (f file) hasTable() (made bool, err error) {
	c, err := connect(f.path, "_busy_timeout=30000")
	if err != nil {
		return false, f.explain(err)
	}
	defer func() { err = errors.Join(err, c.close()) }()
	n, err := c.number(tableSQL)
	if err != nil {
		return false, f.explain(err)
	}
	return n > 0, nil
}

// create makes what is missing of the schema. A database of K3s has it all.
func (f file) create() (err error) {
	// SQLite would let everybody read it, and gives its log the same mode.
	made, err := os.OpenFile(f.path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("create database: %w", err)
	}
	if err := made.Close(); err != nil {
		return fmt.Errorf("create database: %w", err)
	}
	c, err := connect(f.path, "_synchronous=FULL&_busy_timeout=30000")
	if err != nil {
		return f.explain(err)
	}
	defer func() { err = errors.Join(err, c.close()) }()
	stmts := slices.Concat(schema.Settings, schema.Statements)
	// Only after the schema: the page size is fixed when the first page is
	// written or write-ahead mode is entered.
	for _, s := range append(stmts, `PRAGMA journal_mode = WAL`) {
		if err := c.script(s); err != nil {
			return f.explain(err)
		}
	}
	if err := os.WriteFile(f.marker(), nil, 0o600); err != nil {
		return fmt.Errorf("mark database as created: %w", err)
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
	case sqlite3.ErrFull:
		return fmt.Errorf("write database %s: no space left on the disk: %w", f.path, err)
	case sqlite3.ErrReadonly, sqlite3.ErrCantOpen, sqlite3.ErrPerm:
		return fmt.Errorf("write database %s: the file or its directory is read-only or not accessible: %w", f.path, err)
	}
	return fmt.Errorf("use database %s: %w", f.path, err)
}

// damaged is the error of a database that cannot be used and not be replaced,
// for the given reasons, in one line.
func (f file) damaged(cause error, reasons ...error) error {
	why := strings.ReplaceAll(fmt.Sprint(errors.Join(reasons...)), "\n", "; ")
	return fmt.Errorf("database %s is damaged (%w) and nothing could be put in its place (%s); it has been left as it is: restore a backup with skiff snapshot restore, or move the directory %s away to start with an empty cluster",
		f.path, cause, why, filepath.Dir(f.path))
}

// makeDir makes a directory whose name survives a power cut, whoever made it.
func makeDir(dir string) error {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) && filepath.Dir(dir) != dir {
		if err := makeDir(filepath.Dir(dir)); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(dir))
}

// sizes are those of the database and its write-ahead log, 0 if there is none.
type sizes struct{ db, wal int64 }

func (f file) sizes() (sizes, error) {
	db, err := sizeOf(f.path)
	if err != nil {
		return sizes{}, fmt.Errorf("look at database: %w", err)
	}
	wal, err := sizeOf(f.path + "-wal")
	if err != nil {
		return sizes{}, fmt.Errorf("look at database: %w", err)
	}
	return sizes{db, wal}, nil
}

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
