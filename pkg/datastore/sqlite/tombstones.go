package sqlite

// tombstones are the keys whose last row removes them, for as long as that row
// is there: what is created again under the key refers to it.
type tombstones struct {
	of    map[string]int64
	order []tombstone // by revision
}

type tombstone struct {
	revision int64
	key      string
}

func newTombstones() *tombstones { return &tombstones{of: map[string]int64{}} }

func (t *tombstones) add(key string, revision int64) {
	t.of[key] = revision
	t.order = append(t.order, tombstone{revision, key})
}

// clear forgets a key, because it has been created again.
func (t *tombstones) clear(key string) { delete(t.of, key) }

// compact forgets those up to a revision.
func (t *tombstones) compact(upTo int64) {
	n := 0
	for n < len(t.order) && t.order[n].revision <= upTo {
		if o := t.order[n]; t.of[o.key] == o.revision {
			delete(t.of, o.key)
		}
		n++
	}
	t.order = append([]tombstone(nil), t.order[n:]...)
}
