package repair

import (
	"context"
	"fmt"
	"maps"
)

// place is where a row can be read.
type place struct {
	m    *image
	page uint32
	cell int
}

// survey is what is known about the rows of a database.
type survey struct {
	m     *image
	walk  *tableWalk
	rows  map[int64]place
	owner map[uint32]int64 // of the pages that rows go on in
	// names has the ids that the indexes know. named is true if there are no
	// others.
	names map[int64]string
	named bool
	// guessed is true if which tree is the table's had to be guessed.
	guessed bool
}

func newSurvey(m *image) *survey {
	s := &survey{m: m, rows: make(map[int64]place), owner: make(map[uint32]int64), names: make(map[int64]string)}
	s.walk = &tableWalk{m: m, seen: make(map[uint32]bool), visit: s.add}
	return s
}

// take looks everywhere where rows may be. If the log is damaged, it has two
// states of the database: the last one before the damage, and one with all
// that was written later, which may miss some pages. Rows never change, so what
// is in either counts.
func take(ctx context.Context, m *image) (*survey, error) {
	s, err := look(ctx, m)
	if err != nil {
		return nil, err
	}
	later, err := m.later()
	if err != nil || later == nil {
		return s, err
	}
	l, err := look(ctx, later)
	if err != nil {
		return nil, err
	}
	for id, at := range l.rows {
		if _, ok := s.rows[id]; !ok {
			s.rows[id] = at
		}
	}
	names := maps.Clone(l.names)
	maps.Copy(names, s.names)
	s.names, s.named, s.guessed = names, s.named && l.named, s.guessed || l.guessed
	s.walk.gaps = append(s.walk.gaps, l.walk.gaps...)
	return s, nil
}

// look looks everywhere in one state of the database.
func look(ctx context.Context, m *image) (*survey, error) {
	s := newSurvey(m)
	c, err := m.catalogue()
	if err == nil {
		s.walk.walk(c.table, everything(), 0)
		for _, root := range c.indexes {
			s.index(root)
		}
	} else if s, err = guess(ctx, m); err != nil {
		return nil, err
	}
	if len(s.walk.gaps) > 0 {
		if err := s.orphans(ctx); err != nil {
			return nil, err
		}
	}
	return s, ctx.Err()
}

// index adds what one index knows. One that is whole is enough.
func (s *survey) index(root uint32) {
	names := make(map[int64]string)
	if whole := s.m.index(root, make(map[uint32]bool), names, 0); whole && !s.named {
		s.names, s.named = names, true
	} else if !s.named {
		maps.Copy(s.names, names)
	}
}

// add takes a row that is a cell of a page.
func (s *survey) add(n *node, at int, id int64) error {
	_, chain, err := s.m.record(n, at)
	if err != nil {
		return err
	}
	if err := s.claim(id, chain); err != nil {
		return err
	}
	s.rows[id] = place{s.m, n.number, at}
	return nil
}

// claim notes that a row goes on in some pages. Two rows cannot have the same
// one, and which of them is wrong cannot be said.
func (s *survey) claim(id int64, chain []uint32) error {
	for _, page := range chain {
		other, ok := s.owner[page]
		if !ok || other == id {
			continue
		}
		delete(s.rows, other)
		s.walk.gaps = append(s.walk.gaps, span{other - 1, other})
		return fmt.Errorf("rows %d and %d go on in the same page", id, other)
	}
	for _, page := range chain {
		s.owner[page] = id
	}
	return nil
}

// orphans looks for rows in pages that no sound page leads to. They may be old
// ones, in pages that are not in use: the index says which belong, and where
// it does not, it is a row whose place in the table cannot be read.
func (s *survey) orphans(ctx context.Context) error {
	free := s.m.freelist()
	for page := uint32(2); page <= s.m.pages; page++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, owned := s.owner[page]; owned || s.walk.seen[page] {
			continue
		}
		data, err := s.m.page(page)
		if err != nil {
			continue // it is one of those that are lost
		}
		n, err := parsePage(data, page, s.m.usable)
		if err != nil || n.kind != tableLeaf {
			continue
		}
		for _, at := range n.cells {
			s.adopt(n, at, free[page])
		}
	}
	return nil
}

// adopt takes a row of an orphaned page if it belongs to the table.
func (s *survey) adopt(n *node, at int, free bool) {
	r, chain, err := s.m.record(n, at)
	if err != nil {
		return
	}
	if _, ok := s.rows[r.id]; ok {
		return
	}
	name, known := s.names[r.id]
	if known && name != r.name || !known && (s.named || free || !s.missing(r.id)) {
		return
	}
	if s.claim(r.id, chain) == nil {
		s.rows[r.id] = place{s.m, n.number, at}
	}
}

// missing reports whether a row of the table may have this id.
func (s *survey) missing(id int64) bool {
	for _, g := range s.walk.gaps {
		if id > g.after && id <= g.last {
			return true
		}
	}
	return false
}

// guess finds the trees of a database whose schema cannot be read. The table
// is the tree with the most rows that look like the table's.
func guess(ctx context.Context, m *image) (*survey, error) {
	roots, err := m.roots(ctx)
	if err != nil {
		return nil, err
	}
	best := newSurvey(m)
	best.walk.gaps = []span{everything()}
	for _, root := range roots[tableLeaf] {
		s := newSurvey(m)
		s.walk.walk(root, everything(), 0)
		if len(s.rows) > len(best.rows) {
			best = s
		}
	}
	for _, root := range roots[indexLeaf] {
		names := make(map[int64]string)
		whole := m.index(root, make(map[uint32]bool), names, 0)
		maps.Copy(best.names, names)
		// An index that has just the rows of the table is of that table.
		if whole && len(best.walk.gaps) == 0 && sameIDs(names, best.rows) {
			best.names, best.named = names, true
			return best, nil
		}
	}
	best.guessed = true
	return best, nil
}

func sameIDs(names map[int64]string, rows map[int64]place) bool {
	if len(names) != len(rows) {
		return false
	}
	for id := range names {
		if _, ok := rows[id]; !ok {
			return false
		}
	}
	return true
}

// roots returns the pages with which trees may begin, those of tables under
// tableLeaf and those of indexes under indexLeaf: pages that have children and
// no parent, or the first leaves if none is like that.
func (m *image) roots(ctx context.Context) (map[byte][]uint32, error) {
	children := make(map[uint32]bool)
	parents, leaves := make(map[byte][]uint32), make(map[byte][]uint32)
	for page := uint32(2); page <= m.pages; page++ {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		data, err := m.page(page)
		if err != nil {
			continue
		}
		n, err := parsePage(data, page, m.usable)
		if err != nil {
			continue
		}
		kind := n.kind | (indexLeaf &^ indexInterior) // of the leaves of this tree
		if !n.interior() {
			leaves[kind] = append(leaves[kind], page)
			continue
		}
		parents[kind] = append(parents[kind], page)
		children[n.right] = true
		for _, at := range n.cells {
			if child, _, err := n.child(at); err == nil {
				children[child] = true
			}
		}
	}
	for kind, pages := range parents {
		var roots []uint32
		for _, page := range pages {
			if !children[page] {
				roots = append(roots, page)
			}
		}
		parents[kind] = roots
	}
	for _, kind := range []byte{tableLeaf, indexLeaf} {
		if len(parents[kind]) == 0 {
			parents[kind] = leaves[kind][:min(8, len(leaves[kind]))]
		}
	}
	return parents, nil
}
