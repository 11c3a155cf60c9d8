package repair

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"skiff/pkg/datastore/schema"
)

// record is a row of kine's table. old_value is left out: it repeats what an
// earlier row has.
type record struct {
	id                                       int64
	name                                     string
	created, deleted, createRev, prev, lease int64
	value                                    []byte // nil is NULL
}

// record reads the row in a cell, strictly: what is not a row that the
// datastore would have written is an error. chain is where it goes on.
func (m *image) record(n *node, at int) (r record, chain []uint32, err error) {
	e, err := n.entry(at, m.usable)
	if err != nil {
		return r, nil, err
	}
	r.id = e.id
	payload, chain, err := m.payload(e)
	if err != nil {
		return r, chain, fmt.Errorf("row %d: %w", e.id, err)
	}
	f, err := fields(payload)
	if err != nil {
		return r, chain, fmt.Errorf("row %d: %w", e.id, err)
	}
	if len(f) < 8 || len(f) > 9 || !f[0].null || !f[1].text || !f[7].null && !f[7].blob && !f[7].text {
		return r, chain, fmt.Errorf("row %d has the wrong columns", e.id)
	}
	numbers := [...]*int64{&r.created, &r.deleted, &r.createRev, &r.prev, &r.lease}
	for i, to := range numbers {
		if f[2+i].text || f[2+i].blob {
			return r, chain, fmt.Errorf("row %d has the wrong columns", e.id)
		}
		*to = f[2+i].number
	}
	r.name = string(f[1].bytes)
	if r.value = f[7].bytes; r.value == nil && !f[7].null {
		r.value = []byte{}
	}
	return r, chain, r.check()
}

// check says what cannot be in a row.
func (r record) check() error {
	switch {
	case r.id <= 0:
		return fmt.Errorf("row %d has an impossible id", r.id)
	case r.name == "" || !utf8.ValidString(r.name) || strings.ContainsRune(r.name, 0):
		return fmt.Errorf("row %d has an impossible name", r.id)
	case r.created&^1 != 0 || r.deleted&^1 != 0 || r.createRev < 0 || r.createRev > r.id || r.lease < 0 || r.prev < 0:
		return fmt.Errorf("row %d has impossible numbers", r.id)
	case r.prev >= r.id && r.name != schema.CompactKey:
		return fmt.Errorf("row %d replaces a later one", r.id)
	}
	return nil
}

// indexed reads an entry of an index that begins with the name: which row it
// is for.
func (m *image) indexed(e entry) (id int64, name string, err error) {
	payload, _, err := m.payload(e)
	if err != nil {
		return 0, "", err
	}
	f, err := fields(payload)
	if err != nil {
		return 0, "", err
	}
	if len(f) < 2 || !f[0].text {
		return 0, "", errors.New("not an index of names")
	}
	last := f[len(f)-1]
	if last.text || last.blob || last.null || last.number <= 0 {
		return 0, "", errors.New("an entry of an index has an impossible id")
	}
	return last.number, string(f[0].bytes), nil
}
