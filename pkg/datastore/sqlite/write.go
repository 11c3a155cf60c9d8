package sqlite

import (
	"context"
	"errors"

	"github.com/k3s-io/kine/pkg/server"
)

// kind is what a change does to its key.
type kind int

const (
	createKey kind = iota
	updateKey
	deleteKey
)

// anyRevision as the expected revision of a change removes a key whatever its
// version is.
const anyRevision = 0

// change is one request to the writer.
type change struct {
	kind   kind
	key    string
	value  []byte
	lease  int64
	expect int64            // the revision that the key must have, for updates and deletes
	known  *server.KeyValue // a version that the requester has read, to save reading it again
	done   chan outcome     // has room for one

	answered bool // the writer's
}

// outcome answers a change.
type outcome struct {
	revision int64            // of the change, or of the store when it was refused
	applied  bool             // false if the key was not as expected
	prev     *server.KeyValue // what was replaced
	err      error            // the change has not been made
}

// write hands a change to the writer and waits until it is committed.
func (s *store) write(ctx context.Context, c *change) (outcome, error) {
	c.done = make(chan outcome, 1)
	select {
	case s.changes <- c:
	case <-ctx.Done():
		return outcome{}, ctx.Err()
	case <-s.closing:
		return outcome{}, errClosed
	}
	select {
	case o := <-c.done:
		return o, s.wireError("write", o.err)
	case <-ctx.Done():
		return outcome{}, ctx.Err() // As with etcd it may still be made.
	case <-s.stopped:
	}
	select {
	case o := <-c.done: // The last thing that the writer did.
		return o, s.wireError("write", o.err)
	default:
		return outcome{}, errClosed
	}
}

// Create implements server.Backend. The error is server.ErrKeyExists if the
// key exists.
func (s *store) Create(ctx context.Context, key string, value []byte, lease int64) (int64, error) {
	at, kv, err := s.Get(ctx, key, 0, true)
	if err != nil {
		return 0, err
	}
	if kv != nil {
		return at, server.ErrKeyExists
	}
	if err := s.space.admit(); err != nil {
		return 0, err
	}
	o, err := s.write(ctx, &change{kind: createKey, key: key, value: value, lease: lease})
	if err == nil && !o.applied {
		err = server.ErrKeyExists
	}
	return o.revision, err
}

// Update implements server.Backend: it replaces the value of a key that is at
// a revision. If it is not, the result is false and the key as it is now.
func (s *store) Update(ctx context.Context, key string, value []byte, revision, lease int64) (int64, *server.KeyValue, bool, error) {
	at, kv, err := s.Get(ctx, key, 0, false)
	if err != nil || kv == nil || kv.ModRevision != revision {
		return at, kv, false, err
	}
	o, err := s.write(ctx, &change{kind: updateKey, key: key, value: value, lease: lease, expect: revision, known: kv})
	if err != nil {
		return 0, nil, false, err
	}
	if !o.applied {
		at, kv, err = s.Get(ctx, key, 0, false)
		return at, kv, false, err
	}
	return o.revision, &server.KeyValue{Key: key, Value: value, Lease: lease, CreateRevision: kv.CreateRevision, ModRevision: o.revision}, true, nil
}

// Delete implements server.Backend: it removes a key that is at a revision, 0
// for any, and returns what it was. Removing what is not there at any revision
// is a success that changes nothing.
func (s *store) Delete(ctx context.Context, key string, revision int64) (int64, *server.KeyValue, bool, error) {
	at, kv, err := s.Get(ctx, key, 0, false)
	switch {
	case err != nil:
		return 0, nil, false, err
	case kv == nil:
		return at, nil, revision == anyRevision, nil
	case revision != anyRevision && kv.ModRevision != revision:
		return at, kv, false, nil
	}
	o, err := s.write(ctx, &change{kind: deleteKey, key: key, expect: revision, known: kv})
	if err != nil {
		return 0, nil, false, err
	}
	if !o.applied {
		at, kv, err = s.Get(ctx, key, 0, false)
		return at, kv, err == nil && kv == nil && revision == anyRevision, err
	}
	return o.revision, o.prev, true, nil
}

// Compact implements server.Backend: history before a revision may be
// forgotten, and when Compact returns it has been.
func (s *store) Compact(ctx context.Context, revision int64) (int64, error) {
	err := s.compact(ctx, revision)
	if err != nil && !errors.Is(err, server.ErrCompacted) && !errors.Is(err, server.ErrFutureRev) {
		err = s.wireError("compact", err)
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.current, err
}
