package disk

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

const (
	sector = 512  // what a disk writes whole or not at all
	block  = 4096 // what the page cache hands over at once
)

// Cut is a power cut: when, and how much of what was not synced is on the disk
// all the same.
type Cut struct {
	At   int // number of operations that have happened
	Seed uint64
	// Unit is what reaches the disk in one piece: a sector (torn pages), a
	// block, or a whole write (0).
	Unit int
	// Keep is the probability that a change reaches the disk although nobody
	// has waited for it.
	Keep float64
	// InOrder is a disk that writes everything in order and stops somewhere.
	InOrder bool
}

// RandomCut chooses the manner of a cut.
func RandomCut(at int, r *rand.Rand) Cut {
	return Cut{
		At:      at,
		Seed:    r.Uint64(),
		Unit:    []int{0, sector, sector, block}[r.IntN(4)],
		Keep:    []float64{0, 0.1, 0.5, 0.5, 0.9, 1}[r.IntN(6)],
		InOrder: r.IntN(5) == 0,
	}
}

func (c Cut) String() string {
	return fmt.Sprintf("cut at %d, unit %d, keep %g, in order %v, seed %#x", c.At, c.Unit, c.Keep, c.InOrder, c.Seed)
}

// content is a file on its way through the history.
type content struct {
	now, disk []byte // what the system sees; what is on the disk
	size      int    // of disk, which may be longer than what was written
	volatile  bool
}

// Image is a directory after a cut: the files by their relative names.
// Directories end in a slash.
type Image map[string][]byte

// Build computes what a cut leaves. The rules are those of a journaling file
// system: names change in order, and are durable when their directory has been
// synced; data and sizes reach the disk in any order, each sector as it was at
// some moment since the last sync, and space that was never written reads as
// zeros.
func (l *Log) Build(c Cut) Image {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := rand.New(rand.NewPCG(c.Seed, 1))
	ops := l.ops[:c.At]
	durable, failed := make([]int, l.files), make([][]int, l.files)
	for i, o := range ops {
		switch o.Kind {
		case SyncEnd:
			durable[o.File] = max(durable[o.File], o.Sync)
		case SyncFail:
			failed[o.File] = append(failed[o.File], i)
		}
	}
	stop := len(ops) // of a disk that writes in order
	if c.InOrder {
		stop = slices.Max(durable)
		stop += r.IntN(len(ops) - stop + 1)
	}
	files := make([]content, l.files)
	for i := range files {
		files[i].volatile = l.volatil[i]
	}
	for i, o := range ops {
		if o.Kind == Write || o.Kind == Truncate {
			surely := i < durable[o.File] && !l.forgotten(ops, i, failed[o.File])
			c.apply(r, &files[o.File], o, surely || c.InOrder && i < stop)
		}
	}
	img := Image{}
	for name, file := range c.namesOf(r, ops, durable, stop) {
		if file.dir {
			img[name+"/"] = nil
			continue
		}
		img[name] = files[file.id].bytes(r)
	}
	return img
}

// forgotten reports whether the first sync after an operation has failed.
func (l *Log) forgotten(ops []Op, i int, failed []int) bool {
	n, _ := slices.BinarySearch(failed, i)
	if n == len(failed) {
		return false
	}
	for _, o := range ops[i:failed[n]] {
		if o.Kind == SyncStart && o.File == ops[i].File {
			return false
		}
	}
	return true
}

// apply puts a change into what the system sees, and the parts that the disk
// has got in time onto the disk.
func (c Cut) apply(r *rand.Rand, f *content, o Op, surely bool) {
	from, to := int(o.Off), int(o.Off)+len(o.Data)
	if o.Kind == Truncate {
		from, to = min(len(f.now), int(o.Off)), max(len(f.now), int(o.Off))
		f.now = resize(f.now, int(o.Off))
	} else {
		if to > len(f.now) {
			f.now = resize(f.now, to)
		}
		copy(f.now[from:], o.Data)
	}
	kept := func() bool { return surely || !c.InOrder && r.Float64() < c.Keep }
	if kept() { // The size is written apart from the data.
		f.size = len(f.now)
		f.disk = f.disk[:min(len(f.disk), f.size)]
	}
	unit := c.Unit
	if unit == 0 {
		if !kept() {
			return
		}
		surely, unit = true, block
	}
	for at := from / unit * unit; at < to; at += unit {
		if kept() {
			end := min(at+unit, len(f.now))
			if at >= end {
				continue
			}
			if end > len(f.disk) {
				f.disk = resize(f.disk, end)
			}
			copy(f.disk[at:end], f.now[at:end])
		}
	}
}

// resize makes b n bytes long, with zeros at the end.
func resize(b []byte, n int) []byte {
	if n <= len(b) {
		clear(b[n:])
		return b[:n]
	}
	if n > cap(b) {
		b = slices.Grow(b, n+n/2-len(b))
	}
	old := len(b)
	b = b[:n]
	clear(b[old:])
	return b
}

// bytes is what a reader of the disk finds.
func (f *content) bytes(r *rand.Rand) []byte {
	data := slices.Clone(resize(f.disk, f.size))
	if f.volatile {
		// Nobody has synced it, and anything may be in it.
		switch r.IntN(3) {
		case 0:
			clear(data)
		case 1:
			for i := range data {
				data[i] = byte(r.Uint32())
			}
		}
	}
	return data
}

// entry is what a name stands for.
type entry struct {
	id  int
	dir bool
}

// namesOf returns the names that are on the disk. In each directory a first
// part of its changes has got there, at least up to its last sync.
func (c Cut) namesOf(r *rand.Rand, ops []Op, durable []int, stop int) map[string]entry {
	dirs := map[string]int{".": Root}
	limit := map[int]int{}
	names := map[string]entry{}
	reached := func(i int, name string) bool {
		dir := dirs[path.Dir(name)]
		if _, ok := limit[dir]; !ok {
			limit[dir] = c.limit(r, durable[dir], len(ops), stop)
		}
		return i < limit[dir]
	}
	for i, o := range ops {
		if o.Kind == Mkdir {
			dirs[o.Path] = o.File
		}
		switch {
		case o.Kind == Write || o.Kind == Truncate || o.Kind >= SyncStart:
		case !reached(i, o.Path):
		case o.Kind == Rename:
			if e, ok := names[o.Path]; ok && reached(i, o.To) {
				delete(names, o.Path)
				names[o.To] = e
			}
		case o.Kind == Link:
			if e, ok := names[o.Path]; ok && reached(i, o.To) {
				names[o.To] = e
			}
		case o.Kind == Unlink:
			delete(names, o.Path)
		default:
			names[o.Path] = entry{o.File, o.Kind == Mkdir}
		}
	}
	maps.DeleteFunc(names, func(name string, _ entry) bool {
		parent := path.Dir(name)
		return parent != "." && !names[parent].dir
	})
	return names
}

// limit is up to which position a directory's changes are on the disk.
func (c Cut) limit(r *rand.Rand, durable, end, stop int) int {
	switch {
	case c.InOrder:
		return max(durable, stop)
	case r.Float64() < c.Keep/2:
		return end
	case r.IntN(2) == 0:
		return durable
	}
	return durable + r.IntN(end-durable+1)
}

// WriteTo makes the files of an image below dir.
func (i Image) WriteTo(dir string) error {
	for _, name := range slices.Sorted(maps.Keys(i)) {
		target := filepath.Join(dir, filepath.FromSlash(name))
		var err error
		if strings.HasSuffix(name, "/") {
			err = os.MkdirAll(target, 0o700)
		} else if err = os.MkdirAll(filepath.Dir(target), 0o700); err == nil {
			err = os.WriteFile(target, i[name], 0o600)
		}
		if err != nil {
			return fmt.Errorf("write image: %w", err)
		}
	}
	return nil
}

// String lists the files and their sizes.
func (i Image) String() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(i)) {
		fmt.Fprintf(&b, "%9d %s\n", len(i[name]), name)
	}
	return b.String()
}
