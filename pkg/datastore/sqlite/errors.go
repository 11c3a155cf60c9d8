package sqlite

import (
	"context"
	"errors"
	"fmt"

	"github.com/mattn/go-sqlite3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

var (
	// errClosed answers what arrives while the store is being closed.
	errClosed = status.Error(codes.Unavailable, "the datastore is stopping")

	// errVanished says that a row was compacted between the look at the index
	// and the read of its value. It never leaves the package.
	errVanished = errors.New("the row has been compacted")
)

// wireError gives an error of the database the code that an etcd client can
// act on. A commit that failed for any other reason than these is no conflict:
// the client has to know that it must not simply try again.
func (s *store) wireError(doing string, err error) error {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	code := codes.Internal
	if e, ok := errors.AsType[sqlite3.Error](err); ok {
		if isFull(err) {
			return s.space.full(err)
		}
		switch e.Code {
		case sqlite3.ErrIoErr, sqlite3.ErrBusy, sqlite3.ErrLocked, sqlite3.ErrCantOpen, sqlite3.ErrReadonly, sqlite3.ErrNomem:
			code = codes.Unavailable
		case sqlite3.ErrCorrupt, sqlite3.ErrNotADB:
			code = codes.DataLoss
			s.suspect(err)
		case sqlite3.ErrTooBig:
			code = codes.InvalidArgument
		}
	}
	return status.Error(code, fmt.Sprintf("%s: database %s: %v", doing, s.file.path, err))
}

// suspect notes that the file is damaged: the next start looks through all of
// it, also after a clean stop.
func (s *store) suspect(err error) {
	if s.damaged.CompareAndSwap(false, true) {
		s.logger.Error("the database is damaged; start skiff again, which saves what can be read", "file", s.file.path, "error", err)
	}
}

// lost is for a row that should be there.
func (s *store) lost(revision int64) error {
	s.suspect(fmt.Errorf("revision %d is missing", revision))
	return status.Error(codes.DataLoss, fmt.Sprintf("revision %d is missing from the database %s: it is damaged; stop skiff, and it is checked when it starts again", revision, s.file.path))
}

func isFull(err error) bool {
	e, ok := errors.AsType[sqlite3.Error](err)
	return ok && (e.Code == sqlite3.ErrFull || e.ExtendedCode == sqlite3.ErrIoErrSHMSize) // The second is the log's index.
}
