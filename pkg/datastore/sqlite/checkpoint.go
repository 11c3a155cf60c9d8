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
	// checkpointAt is how much of the write-ahead log has not been copied into
	// the database, in bytes, before that is done. What is written often is
	// copied once, so more is better, but it is read again at the start after
	// a crash.
	checkpointAt = 6 << 20
	// restartAt is the size of the log at which writes wait until it has been
	// copied and can begin anew. With what is written between two looks it
	// stays below 16 MiB.
	restartAt = 10 << 20
	// leaveLog is how much of the log the writer may have to copy when nobody
	// is in a hurry, and copyRounds how often it is tried to get there.
	leaveLog   = 512 << 10
	copyRounds = 4
	// lookEvery is how much is written between two looks at the log's size.
	lookEvery = 512 << 10
	// restartWait bounds how long writes wait for readers of the log and for a
	// copy that is under way, in milliseconds.
	restartWait = 1000

	// shortLog is how much is written to the log before it is copied while the
	// disk is full.
	shortLog = 256 << 10
	// rewindAgain is how soon it is tried again to begin the log anew on a
	// full disk, when there was no space even for that.
	rewindAgain = 200 * time.Millisecond

	// rowPages is about how many pages a row changes besides its value's.
	rowPages = 4
)

// wrote counts what goes into the log.
func (w *writer) wrote(rows int64, bytes int) { w.logged += rows*rowPages*w.pageSize + int64(bytes) }

// trim keeps the log short: it wakes the checkpointer, and when that does not
// keep up with the writes, these wait.
func (w *writer) trim() {
	if w.space.spent.Load() {
		w.economize()
		return
	}
	if w.logged < lookEvery {
		return
	}
	w.logged = 0
	size, copied, err := copyLog(w.db, "NOOP")
	if err == nil && (size-copied)*w.pageSize >= checkpointAt {
		w.checkpoints.Send()
	}
	if err == nil && size*w.pageSize >= restartAt {
		_, _, err = copyLog(w.db, "RESTART")
	}
	if err != nil {
		w.unsure(err)
		w.logger.Warn("the write-ahead log could not be copied into the database; it grows until it can", "error", err)
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
		s.space.restore()
		if err := s.copyBehind(c); err != nil && !errors.Is(err, errClosed) {
			s.unsure(err)
			s.logger.Warn("the write-ahead log could not be copied into the database; it grows until it can", "error", err)
		}
	}
}

// copyBehind copies the log while others write, and what they have added to it
// meanwhile, until so little is left that the writer can copy it itself in a
// moment; then the log begins anew.
func (s *store) copyBehind(c *conn) error {
	for range copyRounds {
		if _, _, err := copyLog(c, "PASSIVE"); err != nil {
			return err
		}
		size, copied, err := copyLog(c, "NOOP")
		left := (size - copied) * s.pageSize
		if err != nil || left == 0 {
			return err
		}
		if left <= leaveLog {
			return s.task(context.Background(), func(w *writer) error {
				w.logged = 0
				_, _, err := copyLog(w.db, "RESTART")
				return err
			})
		}
	}
	return nil
}

// economize leaves what was the reserve to the database, where it lasts: the
// log is copied early, and does not grow.
func (w *writer) economize() {
	if w.logged < shortLog {
		return
	}
	w.logged = 0
	w.rewind()
	w.space.restore()
}

// rewind lets the log begin anew on a full disk: what is written over its old
// part needs no space. It reports whether that is worth a try.
func (w *writer) rewind() bool {
	if time.Since(w.stuck) < rewindAgain {
		return false
	}
	size, copied, err := copyLog(w.db, "RESTART")
	if err != nil || copied < size {
		w.unsure(err)
		w.stuck = time.Now()
		return false
	}
	w.logged = 0
	return true
}

// copyLog runs a checkpoint and returns how many pages the log has, and how
// many of them are copied. Mode NOOP only looks.
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
			s.torn.Store(true)
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
