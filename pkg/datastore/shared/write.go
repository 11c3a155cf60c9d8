package shared

import (
	"context"
	"fmt"
	"time"

	"github.com/k3s-io/kine/pkg/server"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// attempts bounds how often a statement is repeated that the database has
	// rolled back, with growing pauses.
	attempts   = 8
	firstPause = 2 * time.Millisecond
)

// Create implements server.Backend. The error is server.ErrKeyExists if the
// key exists.
func (s *store) Create(ctx context.Context, key string, value []byte, lease int64) (int64, error) {
	defer s.timed("create a key", time.Now())
	for ctx.Err() == nil {
		id, _, err := s.insert(ctx, false, s.dialect.createSQL, s.dialect.create(key, lease, value)...)
		if err != nil || id != 0 {
			return id, s.dialect.wire("create "+key, err)
		}
		at, kv, err := s.Get(ctx, key, 0, true)
		if err != nil {
			return 0, err
		}
		if kv != nil {
			return at, server.ErrKeyExists
		}
		// It has been removed, or its tombstone compacted, just now.
	}
	return 0, s.dialect.wire("create "+key, ctx.Err())
}

// Update implements server.Backend: it replaces the value of a key that is at
// a revision. If it is not, the result is false and the key as it is now.
func (s *store) Update(ctx context.Context, key string, value []byte, revision, lease int64) (int64, *server.KeyValue, bool, error) {
	defer s.timed("update a key", time.Now())
	d := &s.dialect
	statement := fmt.Sprintf(updateSQL, d.param("BIGINT"), d.param("BYTEA"))
	id, row, err := s.insert(ctx, true, statement, lease, value, revision, key, key, revision)
	switch {
	case err != nil:
		return 0, nil, false, d.wire("update "+key, err)
	case id == 0:
		at, kv, err := s.other(ctx, key, revision)
		return at, kv, false, err
	}
	return id, &server.KeyValue{Key: key, Value: value, Lease: lease, CreateRevision: row.create, ModRevision: id}, true, nil
}

// Delete implements server.Backend: it removes a key that is at a revision, 0
// for any, and returns what it was. Removing what is not there, at any
// revision, is a success that changes nothing.
func (s *store) Delete(ctx context.Context, key string, revision int64) (int64, *server.KeyValue, bool, error) {
	defer s.timed("delete a key", time.Now())
	for ctx.Err() == nil {
		expect := revision
		if revision == 0 {
			at, kv, err := s.Get(ctx, key, 0, true)
			if err != nil || kv == nil {
				return at, nil, err == nil, err
			}
			expect = kv.ModRevision
		}
		id, row, err := s.insert(ctx, true, deleteSQL, expect, key, key, expect)
		switch {
		case err != nil:
			return 0, nil, false, s.dialect.wire("delete "+key, err)
		case id != 0:
			prev := &server.KeyValue{Key: key, Value: row.old, Lease: row.lease, CreateRevision: row.create, ModRevision: expect}
			return id, prev, true, nil
		case revision != 0:
			at, kv, err := s.other(ctx, key, revision)
			return at, kv, false, err
		}
	}
	return 0, nil, false, s.dialect.wire("delete "+key, ctx.Err())
}

// other reads a key that was found not to be at a revision.
func (s *store) other(ctx context.Context, key string, revision int64) (int64, *server.KeyValue, error) {
	at, kv, err := s.Get(ctx, key, 0, false)
	if err == nil && kv != nil && kv.ModRevision == revision {
		// A transaction that was in the way has been rolled back since.
		err = status.Errorf(codes.Unavailable, "%s was being changed by somebody else: try again", key)
	}
	return at, kv, err
}

// insert runs a statement until it has written a row, or found that it may
// not: then id is 0.
func (s *store) insert(ctx context.Context, returning bool, statement string, args ...any) (id int64, row written, err error) {
	pause := firstPause
	for n := 1; ; n++ {
		id, row, err = s.dialect.insert(ctx, s.db, returning, statement, args...)
		if err == nil {
			if id != 0 {
				s.committed(id)
				s.announce(id)
			}
			return id, row, nil
		}
		switch s.dialect.kind(err) {
		case kindConflict:
			return 0, row, nil
		case kindRetry:
			if n < attempts && pauseFor(ctx, pause) {
				pause *= 2
				continue
			}
		case kindReadOnly:
			s.reconnect()
		}
		return 0, row, err
	}
}

// reconnect drops the connections that nobody uses. They lead to a server that
// does not write any more; new ones may find the one that does.
func (s *store) reconnect() {
	s.db.SetMaxIdleConns(-1)
	s.db.SetMaxIdleConns(s.db.Stats().MaxOpenConnections)
}

// pauseFor reports whether the time has passed before ctx has ended.
func pauseFor(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
