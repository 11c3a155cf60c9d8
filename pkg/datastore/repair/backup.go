package repair

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/mattn/go-sqlite3"
	"golang.org/x/sys/unix"
)

// Backup writes a compact copy of the database at path to the new file to,
// as it is at one moment. An engine may be using the database: the copy holds
// what has been committed when Backup begins, and only keeps the write-ahead
// log from being emptied until it is done. The copy has been checked and is on
// the disk when it gets its name; on an error there is none.
func Backup(ctx context.Context, path, to string) (err error) {
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("copy database: %w", err)
	}
	d, err := newDraft(to)
	if err != nil {
		return fmt.Errorf("prepare copy of the database: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.discard())
		}
	}()
	if err := create(d.tmp); err != nil {
		return fmt.Errorf("copy database: %w", err)
	}
	if err := vacuumInto(ctx, path, d.tmp); err != nil {
		return err
	}
	if err := d.publish(ctx); err != nil {
		return fmt.Errorf("finish copy %s of the database: %w", to, roomIn(to, err))
	}
	return nil
}

// create makes an empty file that only the owner may read, before there is
// something to read in it.
func create(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

func vacuumInto(ctx context.Context, path, to string) (err error) {
	db := open(path, "mode=ro&_busy_timeout=30000")
	defer func() { err = errors.Join(err, db.Close()) }()
	_, err = db.ExecContext(ctx, "VACUUM INTO ?", to)
	if e, ok := errors.AsType[sqlite3.Error](err); ok && e.Code == sqlite3.ErrFull {
		return fmt.Errorf("copy database %s: %w", path, roomIn(to, unix.ENOSPC))
	}
	if err != nil {
		return explain("copy", path, err)
	}
	return nil
}

// roomIn makes an error about a full disk say which directory is meant.
func roomIn(path string, err error) error {
	if !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		return err
	}
	return fmt.Errorf("no space left in %s; free some, or choose a directory on another disk: %w", filepath.Dir(path), err)
}
