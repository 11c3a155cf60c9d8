package sqlite

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/mattn/go-sqlite3"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// unsure notes that the disk has failed. What a sync that fails has not
// written, Linux takes for written: later syncs succeed and leave a hole in the
// log, behind which everything is lost in a power cut.
func (s *store) unsure(err error) {
	if e, ok := errors.AsType[sqlite3.Error](err); ok && e.Code == sqlite3.ErrIoErr {
		s.torn.Store(true)
	}
}

// mend writes the log once more after the disk has failed, so that the next
// sync is about all of it. Until that works nothing is committed.
func (w *writer) mend() error {
	if !w.torn.Load() {
		return nil
	}
	if err := rewriteLog(w.file.path); err != nil {
		return status.Error(codes.Unavailable, fmt.Sprintf("the disk of the datastore fails: %v", err))
	}
	w.torn.Store(false)
	w.logger.Warn("the disk of the datastore has failed; the write-ahead log has been written once more", "file", w.file.path)
	return nil
}

// rewriteLog writes the write-ahead log over itself and syncs it. Nobody may
// write to it meanwhile.
func rewriteLog(path string) (err error) {
	f, err := os.OpenFile(path+"-wal", os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("write the log once more: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	part := make([]byte, 1<<20)
	for at := int64(0); ; {
		n, err := f.ReadAt(part, at)
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("write the log once more: %w", err)
		}
		if n == 0 {
			break
		}
		if _, err := f.WriteAt(part[:n], at); err != nil {
			return fmt.Errorf("write the log once more: %w", err)
		}
		at += int64(n)
	}
	if err := unix.Fdatasync(int(f.Fd())); err != nil {
		return fmt.Errorf("sync the log once more: %w", err)
	}
	return nil
}
