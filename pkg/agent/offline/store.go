package offline

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"skiff/pkg/agent/offline/journal"
)

const (
	// slack is how much of the file may be of no use any more before it is
	// written anew, besides as much as is of use.
	slack = 1 << 20
	// flushAt bounds the bodies that wait in memory.
	flushAt = 1 << 20
	// DefaultLimit bounds all bodies.
	DefaultLimit = 64 << 20
)

// resourceOf is the key of rules to a table.
func resourceOf(table string) string {
	resource, _, _ := strings.Cut(table, "#")
	return resource
}

// record puts a header before a body.
func record(h header, body []byte) ([]byte, error) {
	text, err := json.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("encode a record: %w", err)
	}
	out := binary.AppendUvarint(make([]byte, 0, len(text)+len(body)+4), uint64(len(text)))
	return append(append(out, text...), body...), nil
}

// split is the reverse of record.
func split(content []byte) (h header, body []byte, err error) {
	n, size := binary.Uvarint(content)
	if size <= 0 || n > uint64(len(content)-size) {
		return h, nil, errors.New("read a record: its head is cut off")
	}
	content = content[size:]
	if err := json.Unmarshal(content[:n], &h); err != nil {
		return h, nil, fmt.Errorf("read a record: %w", err)
	}
	return h, content[n:], nil
}

// replay takes in a record of the journal. What makes no sense is left out: an
// older or newer skiff may have written it.
func (s *state) replay(content []byte, at journal.Place) {
	h, body, err := split(content)
	if err != nil {
		return
	}
	if h.Table != "" {
		if _, ok := rules[resourceOf(h.Table)]; !ok {
			return
		}
	}
	st := s.streams[h.Stream]
	switch h.Op {
	case opPut:
		s.replayPut(h, body, at)
	case opDrop:
		if o := s.object(h.Table, h.Key); o != nil {
			s.live -= int64(o.size)
			delete(s.tables[h.Table], h.Key)
		}
	case opJoin:
		s.open(h.Stream, h.Table).members[h.Key] = struct{}{}
	case opLeave:
		if st != nil {
			delete(st.members, h.Key)
		}
	case opVersion:
		st = s.open(h.Stream, h.Table)
		st.version, st.versionOnDisk, st.listed = h.Version, h.Version, true
	case opForget:
		delete(s.streams, h.Stream)
	}
}

func (s *state) replayPut(h header, body []byte, at journal.Place) {
	o := s.object(h.Table, h.Key)
	if o == nil {
		o = &object{}
		if s.tables[h.Table] == nil {
			s.tables[h.Table] = map[string]*object{}
		}
		s.tables[h.Table][h.Key] = o
	}
	s.live += int64(len(body)) - int64(o.size)
	o.size = int32(len(body)) //nolint:gosec // Bounded by journal.MaxRecord.
	o.version = parseVersion(h.Version)
	o.pinned, o.local, o.onDisk, o.at = h.Pinned, h.Local, true, at
	o.sum = significant(h.Table, body)
}

// settle makes what was replayed consistent: damage may have taken an object
// of a stream, or the stream of an object.
func (s *state) settle() {
	for name, st := range s.streams {
		if !st.listed || s.tables[st.table] == nil && len(st.members) > 0 {
			delete(s.streams, name)
			continue
		}
		for k := range st.members {
			o := s.object(st.table, k)
			if o == nil {
				delete(st.members, k)
				continue
			}
			o.streams++
		}
	}
	for _, table := range s.tables {
		for k, o := range table {
			if o.streams == 0 && !o.pinned {
				s.live -= int64(o.size)
				delete(table, k)
			}
		}
	}
}

// body returns that of an object.
func (c *Cache) body(o *object) ([]byte, error) {
	if o.body != nil {
		return o.body, nil
	}
	content, err := c.journal.Read(o.at)
	if err != nil {
		return nil, err
	}
	_, body, err := split(content)
	return body, err
}

// flush writes what has changed. The caller holds mu.
func (c *Cache) flush() error {
	s := c.state
	s.due = time.Time{}
	if len(s.dirty) == 0 && len(s.changes) == 0 && !s.versionsDiffer() {
		return nil
	}
	if c.journal.Size() > 2*s.live+slack {
		return c.compact()
	}
	c.o.Logger.Debug("what has changed is written", "objects", s.names(), "changes", len(s.changes))
	written, err := c.append(c.journal, slices.Collect(maps.Keys(s.dirty)), s.changes)
	if err == nil {
		err = c.journal.Commit()
	}
	if err != nil {
		return errors.Join(err, c.journal.Rollback())
	}
	c.written(written)
	return nil
}

// names are the first few of the objects that are to be written.
func (s *state) names() []string {
	var names []string
	for _, n := range s.dirty {
		if len(names) < 5 {
			names = append(names, n.table+" "+n.key)
		}
	}
	return names
}

// versionsDiffer reports whether a stream is new; that its version alone has
// moved on is written when something else is.
func (s *state) versionsDiffer() bool {
	for _, st := range s.streams {
		if st.listed && st.versionOnDisk == "" {
			return true
		}
	}
	return false
}

// place is where an object has been written.
type place struct {
	o  *object
	at journal.Place
}

// append writes objects and changes to a journal.
func (c *Cache) append(j *journal.Journal, objects []*object, changes []header) ([]place, error) {
	var written []place
	// First what has gone: it may have come again since.
	for _, h := range changes {
		if err := appendRecord(j, h); err != nil {
			return nil, err
		}
	}
	for _, o := range objects {
		name := c.state.dirty[o]
		at, err := c.appendObject(j, name, o)
		if err != nil {
			return nil, err
		}
		written = append(written, place{o, at})
	}
	for name, st := range c.state.streams {
		if st.listed && st.version != st.versionOnDisk {
			if err := appendRecord(j, header{Op: opVersion, Stream: name, Table: st.table, Version: st.version}); err != nil {
				return nil, err
			}
		}
	}
	return written, nil
}

func appendRecord(j *journal.Journal, h header) error {
	content, err := record(h, nil)
	if err != nil {
		return err
	}
	_, err = j.Append(content)
	return err //nolint:wrapcheck // It says what it did.
}

func (c *Cache) appendObject(j *journal.Journal, name objectName, o *object) (journal.Place, error) {
	body, err := c.body(o)
	if err != nil {
		return journal.Place{}, err
	}
	content, err := record(header{
		Op: opPut, Table: name.table, Key: name.key, Version: formatVersion(o.version), Pinned: o.pinned, Local: o.local,
	}, body)
	if err != nil {
		return journal.Place{}, err
	}
	return j.Append(content)
}

// written takes note that everything is on disk.
func (c *Cache) written(places []place) {
	s := c.state
	for _, p := range places {
		p.o.at, p.o.onDisk, p.o.dirty, p.o.body = p.at, true, false, nil
	}
	for _, st := range s.streams {
		if st.listed {
			st.versionOnDisk = st.version
		}
	}
	clear(s.dirty)
	s.changes, s.waiting = nil, 0
}

// compact writes the file anew with what is of use.
func (c *Cache) compact() error {
	var written []place
	err := c.journal.Rewrite(func(next *journal.Journal) error {
		for table, objects := range c.state.tables {
			for k, o := range objects {
				at, err := c.appendObject(next, objectName{table, k}, o)
				if err != nil && !o.dirty {
					c.o.Logger.Warn("a record of this node can no longer be read and is left out", "resource", table, "name", k, "error", err)
					delete(objects, k)
					continue
				}
				if err != nil {
					return err
				}
				written = append(written, place{o, at})
			}
		}
		return c.appendStreams(next)
	})
	if err != nil {
		return err
	}
	c.written(written)
	return nil
}

func (c *Cache) appendStreams(j *journal.Journal) error {
	for name, st := range c.state.streams {
		if !st.listed {
			continue
		}
		for k := range st.members {
			if err := appendRecord(j, header{Op: opJoin, Stream: name, Table: st.table, Key: k}); err != nil {
				return err
			}
		}
		if err := appendRecord(j, header{Op: opVersion, Stream: name, Table: st.table, Version: st.version}); err != nil {
			return err
		}
	}
	return nil
}
