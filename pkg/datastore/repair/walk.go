package repair

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"

	"skiff/pkg/datastore/schema"
)

// maxDepth is deeper than any b-tree: two children a page give 2^40 rows.
const maxDepth = 40

// span is the ids after the first up to and including the last.
type span struct{ after, last int64 }

// tableWalk goes down one table's b-tree and around what is damaged.
type tableWalk struct {
	m     *image
	seen  map[uint32]bool // pages that have their place in the tree
	gaps  []span          // where ids may be missing
	bad   int             // pages that could not be used
	visit func(n *node, at int, id int64) error
}

// walk visits the rows below a page whose ids are in within. A row whose visit
// fails leaves a gap.
func (w *tableWalk) walk(page uint32, within span, depth int) {
	if err := w.enter(page, within, depth); err != nil {
		w.bad++
		w.gaps = append(w.gaps, within)
	}
}

func (w *tableWalk) enter(page uint32, within span, depth int) error {
	if w.seen[page] || depth > maxDepth {
		return fmt.Errorf("page %d is part of the tree already", page)
	}
	data, err := w.m.page(page)
	if err != nil {
		return err
	}
	n, err := parsePage(data, page, w.m.usable)
	if err != nil {
		return err
	}
	switch {
	case n.kind == tableLeaf:
		return w.leaf(page, n, within, depth)
	case n.kind != tableInterior || len(n.cells) == 0 && n.right == 0:
		return fmt.Errorf("page %d is not part of a table", page)
	}
	if !w.plausible(n, within) {
		return fmt.Errorf("page %d is part of another table", page)
	}
	w.seen[page] = true
	after := within.after
	for _, at := range n.cells {
		child, key, err := n.child(at)
		if err != nil || key < after || key > within.last {
			w.gaps = append(w.gaps, within)
			continue
		}
		w.walk(child, span{after, key}, depth+1)
		after = key
	}
	if !n.sound {
		w.gaps = append(w.gaps, within)
	}
	w.walk(n.right, span{after, within.last}, depth+1)
	return nil
}

// plausible reports whether most children of an interior page are in order: a
// page of another time or tree is not gone into.
func (w *tableWalk) plausible(n *node, within span) bool {
	fit := 0
	after := within.after
	for _, at := range n.cells {
		if child, key, err := n.child(at); err == nil && child > 1 && child <= w.m.pages && key >= after && key <= within.last {
			fit, after = fit+1, key
		}
	}
	return fit*2 >= len(n.cells)
}

func (w *tableWalk) leaf(page uint32, n *node, within span, depth int) error {
	if len(n.cells) == 0 && depth > 0 {
		return fmt.Errorf("page %d is empty", page)
	}
	after, good := within.after, 0
	w.seen[page] = true
	for _, at := range n.cells {
		e, err := n.entry(at, w.m.usable)
		if err != nil || e.id <= after || e.id > within.last {
			w.gaps = append(w.gaps, within)
			continue
		}
		if err := w.visit(n, at, e.id); err != nil {
			w.gaps = append(w.gaps, span{e.id - 1, e.id})
			continue
		}
		after = e.id
		good++
	}
	if good == 0 && len(n.cells) > 0 {
		delete(w.seen, page)
		return fmt.Errorf("page %d holds no rows of this table", page)
	}
	if !n.sound {
		w.gaps = append(w.gaps, within)
	}
	return nil
}

// catalogue is where the trees begin, as the schema table tells.
type catalogue struct {
	table   uint32
	indexes []uint32 // those that begin with the name
}

// everything is the ids that a table may have.
func everything() span { return span{math.MinInt64, math.MaxInt64} }

// catalogue reads the schema table.
func (m *image) catalogue() (catalogue, error) {
	var c catalogue
	if !m.headerOK {
		return c, errors.New("the header is damaged")
	}
	w := tableWalk{m: m, seen: make(map[uint32]bool)}
	w.visit = func(n *node, at int, _ int64) error {
		e, err := n.entry(at, m.usable)
		if err != nil {
			return err
		}
		payload, _, err := m.payload(e)
		if err != nil {
			return err
		}
		f, err := fields(payload)
		if err != nil {
			return err
		}
		if len(f) != 5 || f[3].number < 0 || f[3].number > int64(m.pages) {
			return errors.New("not a row of the schema")
		}
		if string(f[2].bytes) != schema.Table {
			return nil
		}
		root, kind, sql := uint32(f[3].number), string(f[0].bytes), strings.ReplaceAll(string(f[4].bytes), " ", "")
		switch {
		case kind == "table":
			c.table = root
		case kind == "index" && strings.Contains(sql, "("+"name") && !strings.Contains(sql, "WHERE"):
			c.indexes = append(c.indexes, root)
		}
		return nil
	}
	w.walk(1, everything(), 0)
	if c.table == 0 {
		return c, errors.New("the schema does not name the table")
	}
	return c, nil
}

// index adds the entries below a page of an index to names. It reports whether
// all could be read.
func (m *image) index(page uint32, seen map[uint32]bool, names map[int64]string, depth int) bool {
	if seen[page] || depth > maxDepth {
		return false
	}
	data, err := m.page(page)
	if err != nil {
		return false
	}
	n, err := parsePage(data, page, m.usable)
	if err != nil || n.kind != indexLeaf && n.kind != indexInterior || len(n.cells) == 0 && depth > 0 {
		return false
	}
	seen[page] = true
	whole := n.sound
	for _, at := range n.cells {
		e, err := n.entry(at, m.usable)
		if err != nil {
			whole = false
			continue
		}
		if n.kind == indexInterior && !m.index(e.left, seen, names, depth+1) {
			whole = false
		}
		id, name, err := m.indexed(e)
		if err != nil {
			whole = false
			continue
		}
		names[id] = name
	}
	if n.kind == indexInterior && !m.index(n.right, seen, names, depth+1) {
		whole = false
	}
	return whole
}

// freelist returns the pages that are not in use, or none if the list cannot
// be read to its end.
func (m *image) freelist() map[uint32]bool {
	if !m.headerOK {
		return nil
	}
	first, err := m.page(1)
	if err != nil {
		return nil
	}
	free := make(map[uint32]bool)
	for next := binary.BigEndian.Uint32(first[32:]); next != 0; {
		page, err := m.page(next)
		count := uint32(0)
		if err == nil {
			count = binary.BigEndian.Uint32(page[4:])
		}
		if err != nil || free[next] || int64(count) > int64(m.usable/4-2) {
			return nil
		}
		free[next] = true
		for i := range int(count) {
			free[binary.BigEndian.Uint32(page[8+4*i:])] = true
		}
		next = binary.BigEndian.Uint32(page)
	}
	return free
}
