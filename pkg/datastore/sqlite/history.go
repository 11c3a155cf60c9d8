package sqlite

import (
	"context"
	"database/sql/driver"

	"github.com/k3s-io/kine/pkg/server"
)

const (
	// eventsSQL reads rows as events. The row that one replaces is there as
	// long as the event may be asked for: a compaction removes it only
	// together with the right to ask. K3s' databases also have it in
	// old_value.
	eventsSQL = `SELECT new.id, new.name, new.created, new.deleted, new.create_revision, new.prev_revision, new.lease,
			new.value, COALESCE(new.old_value, old.value), old.created, old.create_revision, old.lease
		FROM kine AS new LEFT JOIN kine AS old ON old.id = new.prev_revision
		WHERE new.id > ?1 AND new.id <= ?2`
	eventsColumns = 12
	eventsOrder   = ` ORDER BY new.id`

	// The plus keeps SQLite from walking all versions of all keys of a range:
	// what is after a revision is few rows at the end of the table.
	eventsOfKey   = ` AND new.name = ?3`
	eventsOfRange = ` AND +new.name >= ?3 AND +new.name < ?4`
)

// events reads the events of a range in (after, upTo]. Rows that only fill a
// hole in the revisions, and the one that says how far has been compacted, are
// no events.
func (s *store) events(ctx context.Context, key, end string, after, upTo int64) (events []*server.Event, err error) {
	sql, params := eventsSQL+eventsOrder, args(after, upTo)
	switch {
	case key != "" && end == "":
		sql, params = eventsSQL+eventsOfKey+eventsOrder, args(after, upTo, key)
	case key != "":
		sql, params = eventsSQL+eventsOfRange+eventsOrder, args(after, upTo, key, end)
	}
	err = s.readers.use(ctx, func(c *conn) error {
		return c.query(sql, eventsColumns, func(row []driver.Value) error {
			if e := newEvent(row); !internal(e.KV.Key) {
				events = append(events, e)
			}
			return nil
		}, params...)
	})
	return events, err
}

func newEvent(row []driver.Value) *server.Event {
	id, name := integer(row[0]), text(row[1])
	e := &server.Event{Create: integer(row[2]) != 0, Delete: integer(row[3]) != 0, KV: &server.KeyValue{
		Key: name, ModRevision: id, CreateRevision: integer(row[4]), Lease: integer(row[6]), Value: blob(row[7]),
	}}
	if e.Create {
		e.KV.CreateRevision = id
		return e
	}
	prev := integer(row[5])
	e.PrevKV = &server.KeyValue{Key: name, ModRevision: prev, CreateRevision: created(row[9], row[10], prev), Lease: integer(row[11]), Value: blob(row[8])}
	return e
}

// created is the revision in which a row's key was created; kine leaves it out
// of the row that does.
func created(flag, revision driver.Value, id int64) int64 {
	if integer(flag) != 0 {
		return id
	}
	return integer(revision)
}
