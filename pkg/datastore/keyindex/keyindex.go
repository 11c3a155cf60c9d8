// Package keyindex keeps the keys of a store in order in memory, with where
// each one's current version is, so that existence, order and counts need no
// query. It knows nothing about values or databases. Start reading at Index.
package keyindex

import "github.com/google/btree"

// degree of the B-tree: nodes of up to 63 entries, about 4 KiB.
const degree = 32

// Entry is the current version of one key.
type Entry struct {
	Key    string
	Create int64 // revision in which the key was created
	Mod    int64 // revision of the last change
	Lease  int64 // seconds to live, 0 for ever
}

// Index is an ordered set of entries, one per key; about 150 bytes each with a
// key of usual length. It is not safe for concurrent use.
type Index struct{ tree *btree.BTreeG[Entry] }

// New returns an empty index.
func New() *Index {
	return &Index{btree.NewG(degree, func(a, b Entry) bool { return a.Key < b.Key })}
}

// Len returns how many keys there are.
func (x *Index) Len() int { return x.tree.Len() }

// Get returns the entry of a key.
func (x *Index) Get(key string) (Entry, bool) { return x.tree.Get(Entry{Key: key}) }

// Put sets the entry of e.Key.
func (x *Index) Put(e Entry) { x.tree.ReplaceOrInsert(e) }

// Delete removes a key, which need not be there.
func (x *Index) Delete(key string) { x.tree.Delete(Entry{Key: key}) }

// Range is a range of keys: from Key up to but without End; without an upper
// end if Unbounded is set.
type Range struct {
	Key, End  string
	Unbounded bool
}

// Walk calls visit for the entries of r in order until it returns false.
func (x *Index) Walk(r Range, visit func(Entry) bool) {
	from := Entry{Key: r.Key}
	if r.Unbounded {
		x.tree.AscendGreaterOrEqual(from, visit)
		return
	}
	x.tree.AscendRange(from, Entry{Key: r.End}, visit)
}

// Count returns how many keys r has.
func (x *Index) Count(r Range) (n int64) {
	x.Walk(r, func(Entry) bool {
		n++
		return true
	})
	return n
}
