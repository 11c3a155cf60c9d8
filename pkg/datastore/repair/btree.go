package repair

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// Kinds of b-tree pages, the first byte of each.
const (
	indexInterior = 2
	tableInterior = 5
	indexLeaf     = 10
	tableLeaf     = 13
)

// fileHeader is how many bytes of page 1 come before its b-tree.
const fileHeader = 100

// node is one b-tree page. Its cells are offsets into the page.
type node struct {
	number uint32
	kind   byte
	data   []byte
	cells  []int
	right  uint32 // the last child of an interior page
	sound  bool   // every cell pointer made sense
}

func (n *node) interior() bool { return n.kind == indexInterior || n.kind == tableInterior }

// parsePage reads a page's header and cell pointers. Pointers that lead
// nowhere are left out.
func parsePage(data []byte, number uint32, usable int) (*node, error) {
	start := 0
	if number == 1 {
		start = fileHeader
	}
	n := &node{number: number, kind: data[start], data: data, sound: true}
	header := 8
	switch n.kind {
	case indexInterior, tableInterior:
		header = 12
		n.right = binary.BigEndian.Uint32(data[start+8:])
	case indexLeaf, tableLeaf:
	default:
		return nil, fmt.Errorf("page %d is not part of a b-tree", number)
	}
	count := int(binary.BigEndian.Uint16(data[start+3:]))
	content := int(binary.BigEndian.Uint16(data[start+5:]))
	if content == 0 {
		content = maxPage
	}
	pointers := start + header
	end := pointers + 2*count
	if end > usable || content < end || content > usable || data[start+7] > 60 {
		return nil, fmt.Errorf("page %d has an invalid header", number)
	}
	for i := range count {
		at := int(binary.BigEndian.Uint16(data[pointers+2*i:]))
		if at < content || at > usable-4 {
			n.sound = false
			continue
		}
		n.cells = append(n.cells, at)
	}
	return n, nil
}

// varint reads one of SQLite's integers of variable length.
func varint(b []byte) (value int64, length int, err error) {
	var v uint64
	for i := range min(len(b), 9) {
		if i == 8 {
			return int64(v<<8 | uint64(b[8])), 9, nil
		}
		v = v<<7 | uint64(b[i]&0x7f)
		if b[i] < 0x80 {
			return int64(v), i + 1, nil
		}
	}
	return 0, 0, errors.New("a number goes past the end")
}

// child reads a cell of an interior page of a table: the page with the ids up
// to key.
func (n *node) child(at int) (page uint32, key int64, err error) {
	key, _, err = varint(n.data[at+4:])
	return binary.BigEndian.Uint32(n.data[at:]), key, err
}

// entry is a cell that holds a record: a row, or an entry of an index.
type entry struct {
	id       int64 // the row's; of tables only
	local    []byte
	size     int    // of the whole record
	overflow uint32 // the page where the record goes on; 0 if local is all
	left     uint32 // child of an interior page of an index
}

// entry reads the cell at an offset.
func (n *node) entry(at, usable int) (e entry, err error) {
	b := n.data[at:usable]
	if n.kind == indexInterior {
		e.left = binary.BigEndian.Uint32(b)
		b = b[4:]
	}
	size, length, err := varint(b)
	if err != nil {
		return e, err
	}
	b = b[length:]
	if size < 2 || size > 1<<31 {
		return e, errors.New("a record has an impossible size")
	}
	e.size = int(size)
	most := (usable-12)*64/255 - 23
	if n.kind == tableLeaf {
		most = usable - 35
		if e.id, length, err = varint(b); err != nil {
			return e, err
		}
		b = b[length:]
	}
	keep := e.size
	if keep > most {
		least := (usable-12)*32/255 - 23
		if keep = least + (e.size-least)%(usable-4); keep > most {
			keep = least
		}
		if len(b) < keep+4 {
			return e, errors.New("a record goes past the end of its page")
		}
		e.overflow = binary.BigEndian.Uint32(b[keep:])
	}
	if len(b) < keep {
		return e, errors.New("a record goes past the end of its page")
	}
	e.local = b[:keep]
	return e, nil
}

// payload returns the whole record, and the pages it goes on in.
func (m *image) payload(e entry) (record []byte, chain []uint32, err error) {
	if int64(e.size) > int64(m.pages)*int64(m.usable) {
		return nil, nil, errors.New("a record is larger than the database")
	}
	record = append(make([]byte, 0, e.size), e.local...)
	next := e.overflow
	for len(record) < e.size {
		page, err := m.page(next)
		if err != nil {
			return nil, nil, err
		}
		if slices.Contains(chain, next) {
			return nil, nil, errors.New("a record goes on in circles")
		}
		chain = append(chain, next)
		part := page[4:min(m.usable, 4+e.size-len(record))]
		// No object ends in a page full of zeros; a page that was lost does.
		if len(part) > 64 && !slices.ContainsFunc(page[:m.usable], func(b byte) bool { return b != 0 }) {
			return nil, nil, errors.New("a record goes on in an empty page")
		}
		next = binary.BigEndian.Uint32(page)
		record = append(record, part...)
	}
	if len(chain) > 0 && next != 0 {
		return nil, nil, errors.New("a record goes on after its end")
	}
	return record, chain, nil
}

// field is one column of a record. A text or blob has bytes, all others are
// integers; null is neither.
type field struct {
	null, text, blob bool
	number           int64
	bytes            []byte
}

// fields splits a record into its columns.
func fields(record []byte) ([]field, error) {
	headerSize, at, err := varint(record)
	if err != nil || headerSize < int64(at) || headerSize > int64(len(record)) {
		return nil, errors.New("a record has an invalid header")
	}
	header, body := record[at:headerSize], record[headerSize:]
	var out []field
	for len(header) > 0 {
		kind, n, err := varint(header)
		if err != nil {
			return nil, err
		}
		header = header[n:]
		f, length, err := column(kind, body)
		if err != nil {
			return nil, err
		}
		body = body[length:]
		out = append(out, f)
	}
	if len(body) > 0 {
		return nil, errors.New("a record is longer than its columns")
	}
	return out, nil
}

// column reads a value of the given serial type from the beginning of body.
func column(kind int64, body []byte) (f field, length int, err error) {
	sizes := [...]int{0, 1, 2, 3, 4, 6, 8, 8, 0, 0}
	switch {
	case kind < 0 || kind == 10 || kind == 11:
		return f, 0, errors.New("a column has an unknown type")
	case kind >= 12:
		size := (kind - 12) / 2
		if size > int64(len(body)) {
			return f, 0, errors.New("a column goes past the end of its record")
		}
		f = field{text: kind%2 == 1, blob: kind%2 == 0, bytes: body[:size]}
		return f, int(size), nil
	}
	length = sizes[kind]
	if length > len(body) {
		return f, 0, errors.New("a column goes past the end of its record")
	}
	switch {
	case kind == 0:
		f.null = true
	case kind == 7:
		return f, 0, errors.New("a column is a floating-point number")
	case kind == 9:
		f.number = 1
	case length > 0:
		f.number = int64(int8(body[0]))
		for _, b := range body[1:length] {
			f.number = f.number<<8 | int64(b)
		}
	}
	return f, length, nil
}
