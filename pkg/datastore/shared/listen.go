package shared

import (
	"context"
	"strconv"
	"time"
)

const (
	listenRetryMin = 100 * time.Millisecond
	listenRetryMax = 3 * time.Second
)

// hear listens for what other servers commit, until ctx ends.
func (s *store) hear(ctx context.Context) {
	for retry := listenRetryMin; ; {
		begin := time.Now()
		err := s.listen(ctx, func() {
			// What was told before is lost.
			s.pace.listening.Store(true)
			s.wake.Send()
		}, s.committed)
		s.pace.listening.Store(false)
		if ctx.Err() != nil {
			return
		}
		if time.Since(begin) > listenRetryMax {
			retry = listenRetryMin
		}
		s.wake.Send() // The pace is another now.
		s.logger.Warn("the database's notifications are not heard, looking for changes each second", "after", retry, "error", err)
		if !pauseFor(ctx, retry) {
			return
		}
		retry = min(2*retry, listenRetryMax)
	}
}

// announce tells other servers of a revision, some time soon.
func (s *store) announce(revision int64) {
	if s.listen == nil {
		return
	}
	for {
		known := s.noted.Load()
		if revision <= known || s.noted.CompareAndSwap(known, revision) {
			break
		}
	}
	s.notes.Send()
}

// tell carries out what announce has promised, until ctx ends. It is not done
// by the statement that writes: a transaction that notifies keeps all others
// from being committed, so that none share a write to the disk. One
// notification tells of all revisions before.
func (s *store) tell(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.notes:
		}
		telling, cancel := context.WithTimeout(ctx, pollTimeout)
		_, err := s.db.ExecContext(telling, s.dialect.sql(s.dialect.notifySQL), strconv.FormatInt(s.noted.Load(), 10))
		cancel()
		if err != nil && ctx.Err() == nil {
			// They find out by themselves, but later.
			s.logger.Debug("other servers could not be told of a change", "error", err)
		}
	}
}
