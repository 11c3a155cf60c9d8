package sqlite

const (
	// recentRows and recentBytes bound the values that are kept in memory
	// because they were written last: they are what is read and replaced next.
	recentRows  = 2048
	recentBytes = 512 << 10
	// recentValue is the largest value worth keeping.
	recentValue = 64 << 10
)

// recent holds the values of the last revisions, without a hole from first on.
type recent struct {
	first int64
	rows  []recentRow
	bytes int
}

type recentRow struct {
	value []byte
	kept  bool
}

// add remembers the value of the next revision.
func (r *recent) add(revision int64, value []byte) {
	if revision != r.first+int64(len(r.rows)) {
		*r = recent{first: revision}
	}
	row := recentRow{kept: len(value) <= recentValue}
	if row.kept {
		row.value = value
		r.bytes += len(value)
	}
	r.rows = append(r.rows, row)
	for len(r.rows) > recentRows || r.bytes > recentBytes {
		r.bytes -= len(r.rows[0].value)
		r.rows[0] = recentRow{}
		r.rows = r.rows[1:]
		r.first++
	}
}

// get returns the value of a revision if it is remembered.
func (r *recent) get(revision int64) ([]byte, bool) {
	i := revision - r.first
	if i < 0 || i >= int64(len(r.rows)) {
		return nil, false
	}
	return r.rows[i].value, r.rows[i].kept
}
