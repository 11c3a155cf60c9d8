package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// checkpointAt is how much is written to the write-ahead log, in bytes,
	// before it is copied into the database. What is written often is copied
	// once, so more is better, but it is read again at the start after a
	// crash.
	checkpointAt = 4 << 20
	// restartAt is the size of the log at which writes wait until it has been
	// copied and can begin anew. With a batch or two on top it stays below
	// 16 MiB.
	restartAt = 8 << 20
	// restartWait bounds how long writes wait for readers of the log.
	restartWait = 500 * time.Millisecond

	// rowPages is about how many pages a row changes besides its value's.
	rowPages = 4
)

// wrote counts what goes into the log and wakes the checkpointer when it is
// enough.
func (w *writer) wrote(rows int64, bytes int) {
	w.logged += rows*rowPages*w.pageSize + int64(bytes)
	if w.logged >= checkpointAt {
		w.logged = 0
		select {
		case w.checkpoints <- struct{}{}:
		default:
		}
	}
}

// checkpointer copies the log into the database, beside the writer, until the
// store closes. It has a connection of its own.
func (s *store) checkpointer(c *conn) {
	for {
		select {
		case <-s.closing:
			return
		case <-s.checkpoints:
		}
		if err := s.checkpoint(c); err != nil && !errors.Is(err, errClosed) {
			s.logger.Warn("the write-ahead log could not be copied into the database; it grows until it can", "error", err)
		}
	}
}

// checkpoint copies what is committed. While others write, the log cannot
// begin anew; when it has become long the writer itself copies the rest.
func (s *store) checkpoint(c *conn) error {
	s.space.restore()
	size, _, err := copyLog(c, "PASSIVE")
	if err != nil || size*s.pageSize < restartAt {
		return err
	}
	return s.task(context.Background(), func(w *writer) error {
		w.logged = 0
		_, _, err := copyLog(w.db, "RESTART")
		return err
	})
}

// copyLog runs a checkpoint and returns how many pages the log has, and how
// many of them are copied.
func copyLog(c *conn, mode string) (size, copied int64, err error) {
	err = c.query(`PRAGMA wal_checkpoint(`+mode+`)`, 3, func(row []driver.Value) error {
		size, copied = integer(row[1]), integer(row[2])
		return nil
	})
	return size, copied, err
}

// syncer syncs the log a short while after it has been written, for Balanced.
func (s *store) syncer() {
	for {
		select {
		case <-s.closing:
			return
		case <-s.unsynced:
		}
		timer := time.NewTimer(balancedInterval)
		select {
		case <-s.closing:
			timer.Stop()
			return
		case <-timer.C:
		}
		if err := syncLog(s.file.path); err != nil {
			s.logger.Warn("the last writes could not be synced to the disk", "error", err)
		}
	}
}

// syncLog syncs the write-ahead log from outside of SQLite. SQLite has no
// locks on that file, which closing it would lose.
func syncLog(path string) (err error) {
	f, err := os.OpenFile(path+"-wal", os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("sync write-ahead log: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := unix.Fdatasync(int(f.Fd())); err != nil {
		return fmt.Errorf("sync write-ahead log %s: %w", f.Name(), err)
	}
	return nil
}
