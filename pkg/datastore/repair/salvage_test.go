package repair

import (
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"skiff/pkg/datastore/schema"
)

// shape is what a database under test looks like.
type shape struct {
	name string
	page int
	ddl  []string
}

// shapes are a database of ours and one as K3s makes it.
func shapes() []shape {
	return []shape{
		{"ours", schema.PageSize, schema.Statements},
		{"k3s", 4096, []string{
			`CREATE TABLE kine (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT, created INTEGER, deleted INTEGER,
				create_revision INTEGER, prev_revision INTEGER, lease INTEGER, value BLOB, old_value BLOB)`,
			`CREATE INDEX kine_name_index ON kine (name)`,
			`CREATE INDEX kine_name_id_index ON kine (name,id)`,
			`CREATE INDEX kine_id_deleted_index ON kine (id,deleted)`,
			`CREATE INDEX kine_prev_revision_index ON kine (prev_revision)`,
			`CREATE UNIQUE INDEX kine_name_prev_revision_uindex ON kine (name, prev_revision)`,
		}},
	}
}

// fill makes a database with some thousand rows of all sizes, free pages
// included.
func fill(t *testing.T, path string, s shape, rows int, seed uint64) {
	t.Helper()
	db := open(path, "_synchronous=OFF")
	defer db.Close()
	run(t, db, fmt.Sprintf("PRAGMA page_size = %d", s.page))
	for _, stmt := range s.ddl {
		run(t, db, stmt)
	}
	run(t, db, `PRAGMA journal_mode = WAL`)
	run(t, db, `INSERT INTO kine (id, name, created, deleted, create_revision, prev_revision, lease, value) VALUES (1, 'compact_rev_key', 1, 0, 0, 0, 0, x'')`)
	write(t, db, rows, seed)
	compact(t, db, rows/2)
	write(t, db, rows/2, seed+1)
	run(t, db, `PRAGMA wal_checkpoint(TRUNCATE)`)
}

// write appends creations, updates and deletions.
func write(t *testing.T, db *sql.DB, rows int, seed uint64) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 1))
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	var next int64
	if err := tx.QueryRowContext(t.Context(), `SELECT MAX(id) FROM kine`).Scan(&next); err != nil {
		t.Fatal(err)
	}
	last := make(map[string]int64)
	for range rows {
		next++
		name := fmt.Sprintf("/registry/things/namespace-%d/object-with-a-name-%d-%d", seed, seed, rng.IntN(rows/2))
		size := []int{20, 300, 900, 1500, 6000}[rng.IntN(5)]
		value := make([]byte, size)
		for i := range value {
			value[i] = byte(1 + rng.IntN(255))
		}
		deleted := 0
		if last[name] > 0 && rng.IntN(4) == 0 {
			deleted = 1
		}
		if _, err := tx.ExecContext(t.Context(), `INSERT INTO kine VALUES (?, ?, ?, ?, 0, ?, 0, ?, NULL)`, next, name, 0, deleted, last[name], value); err != nil {
			t.Fatal(err)
		}
		last[name] = next
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
}

// compact removes the history up to a revision, which frees pages.
func compact(t *testing.T, db *sql.DB, revision int) {
	t.Helper()
	run(t, db, fmt.Sprintf(`DELETE FROM kine WHERE id IN (SELECT prev_revision FROM kine WHERE id <= %d AND name <> 'compact_rev_key'
		UNION SELECT id FROM kine WHERE id <= %d AND deleted <> 0)`, revision, revision))
	run(t, db, fmt.Sprintf(`UPDATE kine SET prev_revision = %d WHERE name = 'compact_rev_key'`, revision))
}

func run(t *testing.T, db *sql.DB, stmt string) {
	t.Helper()
	if _, err := db.ExecContext(t.Context(), stmt); err != nil {
		t.Fatalf("%s: %v", stmt, err)
	}
}

// content reads a sound database through SQLite.
func content(t *testing.T, path string) map[int64]string {
	t.Helper()
	db := open(path, "mode=rw")
	defer db.Close()
	rows, err := db.QueryContext(t.Context(), `SELECT id, name, created, deleted, create_revision, prev_revision, lease, value FROM kine`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	all := make(map[int64]string)
	for rows.Next() {
		var id, created, deleted, createRev, prev, lease int64
		var name string
		var value []byte
		if err := rows.Scan(&id, &name, &created, &deleted, &createRev, &prev, &lease, &value); err != nil {
			t.Fatal(err)
		}
		all[id] = fmt.Sprint(name, created, deleted, createRev, prev, lease, value == nil, string(value))
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// pagesOf tells which pages each row of a sound database lies in.
func pagesOf(t *testing.T, path string) map[int64][]uint32 {
	t.Helper()
	m, err := openImage(path)
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	c, err := m.catalogue()
	if err != nil {
		t.Fatal(err)
	}
	pages := make(map[int64][]uint32)
	w := tableWalk{m: m, seen: make(map[uint32]bool)}
	w.visit = func(n *node, at int, id int64) error {
		_, chain, err := m.record(n, at)
		pages[id] = append(chain, n.number)
		return err
	}
	w.walk(c.table, everything(), 0)
	if len(w.gaps) > 0 {
		t.Fatalf("%d gaps in a sound database", len(w.gaps))
	}
	return pages
}

// damage makes a page useless.
func damage(t *testing.T, path string, at int64, size int, rng *rand.Rand) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	page := make([]byte, size)
	if rng.IntN(2) == 0 {
		for i := range page {
			page[i] = byte(rng.Uint32())
		}
	}
	if _, err := f.WriteAt(page, at); err != nil {
		t.Fatal(err)
	}
}

func clone(t *testing.T, from, to string) {
	t.Helper()
	for _, suffix := range []string{"", "-wal"} {
		data, err := os.ReadFile(from + suffix)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to+suffix, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// wantOutside checks that a salvaged database has every row that lies outside
// the damaged pages, as it was, and none that was not there.
func wantOutside(t *testing.T, path string, want map[int64]string, pages map[int64][]uint32, hit map[uint32]bool) (lost int) {
	t.Helper()
	got := content(t, path)
	for id, row := range want {
		damaged := slices.ContainsFunc(pages[id], func(p uint32) bool { return hit[p] })
		switch g, ok := got[id]; {
		case !ok && !damaged:
			t.Errorf("row %d lies in the sound pages %d and was not found", id, pages[id])
		case !ok:
			lost++
		case g != row:
			t.Errorf("row %d in pages %d is not what it was", id, pages[id])
		}
	}
	for id := range got {
		if _, ok := want[id]; !ok {
			t.Errorf("row %d was not in the database", id)
		}
	}
	return lost
}

func TestSalvageDamagedPages(t *testing.T) {
	for _, s := range shapes() {
		t.Run(s.name, func(t *testing.T) {
			dir := t.TempDir()
			sound := filepath.Join(dir, "state.db")
			fill(t, sound, s, 4000, 7)
			want, pages := content(t, sound), pagesOf(t, sound)
			if len(want) != len(pages) {
				t.Fatalf("SQLite sees %d rows, the reader %d", len(want), len(pages))
			}
			info, err := os.Stat(sound)
			if err != nil {
				t.Fatal(err)
			}
			count := int(info.Size()) / s.page
			for seed := range uint64(rounds(10, 1000)) {
				rng := rand.New(rand.NewPCG(seed, 2))
				path := filepath.Join(dir, fmt.Sprintf("%d.db", seed))
				clone(t, sound, path)
				hit := make(map[uint32]bool)
				for range 1 + rng.IntN(40) {
					n := uint32(2 + rng.IntN(count-1))
					hit[n] = true
					damage(t, path, int64(n-1)*int64(s.page), s.page, rng)
				}
				r, err := Salvage(t.Context(), path, path+".new")
				if err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
				lost := wantOutside(t, path+".new", want, pages, hit)
				if r.Rows+lost != len(want) {
					t.Errorf("seed %d: %d rows found, %d lost, %d there were", seed, r.Rows, lost, len(want))
				}
				if r.Complete && lost != r.LostRows {
					t.Errorf("seed %d: %d rows are lost, the report knows of %d and says it is complete", seed, lost, r.LostRows)
				}
				if t.Failed() {
					t.Fatalf("seed %d, damaged pages %v, report %s", seed, slices.Sorted(maps.Keys(hit)), r)
				}
			}
		})
	}
}

// TestSalvageEveryInteriorPage damages the pages that lead to all others, the
// root and the header among them.
func TestSalvageEveryInteriorPage(t *testing.T) {
	for _, s := range shapes() {
		t.Run(s.name, func(t *testing.T) {
			dir := t.TempDir()
			sound := filepath.Join(dir, "state.db")
			fill(t, sound, s, 3000, 3)
			want, pages := content(t, sound), pagesOf(t, sound)
			list := interiors(t, sound)
			step := max(1, len(list)/rounds(12, len(list)))
			for i, n := range append([]uint32{1}, list...) {
				if i%step != 0 {
					continue
				}
				path := filepath.Join(dir, fmt.Sprintf("%d.db", n))
				clone(t, sound, path)
				damage(t, path, int64(n-1)*int64(s.page), s.page, rand.New(rand.NewPCG(uint64(n), 0)))
				r, err := Salvage(t.Context(), path, path+".new")
				if err != nil {
					t.Fatalf("page %d: %v", n, err)
				}
				if lost := wantOutside(t, path+".new", want, pages, nil); lost > 0 || r.LostRows > 0 || r.LostCount+r.OlderCount > 0 {
					t.Errorf("page %d: %d rows lost, report %s", n, lost, r)
				}
				if t.Failed() {
					t.FailNow()
				}
			}
		})
	}
}

// rounds is how often a test does its thing, in CI and in `make soak`.
func rounds(short, long int) int {
	if os.Getenv("SKIFF_SOAK") != "" {
		return long
	}
	return short
}

// interiors returns the interior pages of all trees.
func interiors(t *testing.T, path string) []uint32 {
	t.Helper()
	m, err := openImage(path)
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	free := m.freelist()
	var list []uint32
	for n := uint32(2); n <= m.pages; n++ {
		data, err := m.page(n)
		if err != nil {
			t.Fatal(err)
		}
		if p, err := parsePage(data, n, m.usable); err == nil && p.interior() && !free[n] {
			list = append(list, n)
		}
	}
	if len(list) < 4 {
		t.Fatalf("only %d interior pages: the database is too small for this test", len(list))
	}
	return list
}

// TestSalvageReadsTheLog damages the file while much of it is in the
// write-ahead log only.
func TestSalvageReadsTheLog(t *testing.T) {
	dir := t.TempDir()
	live := filepath.Join(dir, "live.db")
	s := shapes()[0]
	fill(t, live, s, 2000, 5)
	db := open(live, "mode=rw&_synchronous=OFF")
	defer db.Close()
	run(t, db, `PRAGMA wal_autocheckpoint = 0`)
	write(t, db, 300, 9)
	write(t, db, 10, 10)
	sound := filepath.Join(dir, "sound.db")
	clone(t, live, sound)
	want, pages := content(t, live), pagesOf(t, sound)
	for seed := range uint64(10) {
		rng := rand.New(rand.NewPCG(seed, 3))
		path := filepath.Join(dir, fmt.Sprintf("%d.db", seed))
		clone(t, sound, path)
		m, err := openImage(path)
		if err != nil {
			t.Fatal(err)
		}
		hit := make(map[uint32]bool)
		for range 10 {
			n := uint32(2 + rng.IntN(int(m.pages)-1))
			if at, ok := m.overlay[n]; !ok && n <= 1000 {
				hit[n] = true
				damage(t, path, int64(n-1)*int64(s.page), s.page, rng)
			} else if ok && at < 0 {
				t.Fatal("unreachable")
			}
		}
		if err := m.close(); err != nil {
			t.Fatal(err)
		}
		r, err := Salvage(t.Context(), path, path+".new")
		if err != nil {
			t.Fatal(err)
		}
		wantOutside(t, path+".new", want, pages, hit)
		if r.LogCut {
			t.Error("the log is whole, the report says it is not")
		}
	}

	frame := int64(walFrameSize + s.page)
	before, missing := content(t, live), 0
	for seed := range uint64(10) {
		// Anywhere in the log but at its end; the first time in its header.
		rng := rand.New(rand.NewPCG(seed, 4))
		path := filepath.Join(dir, fmt.Sprintf("log-%d.db", seed))
		clone(t, sound, path)
		info, err := os.Stat(path + "-wal")
		if err != nil {
			t.Fatal(err)
		}
		at, size := int64(0), walHeaderSize
		if seed > 0 {
			at, size = walHeaderSize+frame*rng.Int64N(info.Size()/frame-30), int(frame)
		}
		damage(t, path+"-wal", at, size, rng)
		r, err := Salvage(t.Context(), path, path+".new")
		if err != nil {
			t.Fatal(err)
		}
		if !r.LogCut {
			t.Errorf("seed %d: the log has a hole, the report does not say so: %s", seed, r)
		}
		got := content(t, path+".new")
		for id, row := range got {
			if before[id] != row && !strings.HasPrefix(row, schema.CompactKey) {
				t.Errorf("seed %d: row %d is not what it was", seed, id)
			}
		}
		missing += len(before) - len(got)
	}
	if missing > 10*10 { // A frame holds a leaf of ten rows at most, or two if it is the only copy of the page before.
		t.Errorf("%d rows are lost with 10 frames", missing)
	}
	t.Logf("%d rows of 310 in the log are lost with 10 frames", missing)
}

func TestSalvageTruncated(t *testing.T) {
	for _, s := range shapes() {
		t.Run(s.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "state.db")
			fill(t, path, s, 3000, 11)
			want, pages := content(t, path), pagesOf(t, path)
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			all := uint32(info.Size() / int64(s.page))
			keep := all * 2 / 3
			hit := make(map[uint32]bool)
			for n := keep + 1; n <= all; n++ {
				hit[n] = true
			}
			if err := os.Truncate(path, int64(keep)*int64(s.page)); err != nil {
				t.Fatal(err)
			}
			r, err := Salvage(t.Context(), path, path+".new")
			if err != nil {
				t.Fatal(err)
			}
			lost := wantOutside(t, path+".new", want, pages, hit)
			if r.Complete && lost != r.LostRows || r.Rows+lost != len(want) {
				t.Errorf("%d of %d rows lost, report %s", lost, len(want), r)
			}
		})
	}
}

func TestSalvageNames(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state.db")
	fill(t, path, shapes()[0], 1000, 13)
	db := open(path, "mode=rw")
	large := strings.Repeat("x", 5000)
	run(t, db, `INSERT INTO kine VALUES (100001, '/registry/lost', 1, 0, 0, 0, 0, '`+large+`', NULL)`)
	run(t, db, `INSERT INTO kine VALUES (100002, '/registry/older', 1, 0, 0, 0, 0, 'short', NULL)`)
	run(t, db, `INSERT INTO kine VALUES (100003, '/registry/older', 0, 0, 100002, 100002, 0, '`+large+`', NULL)`)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	pages := pagesOf(t, path)
	for _, id := range []int64{100001, 100003} {
		damage(t, path, int64(pages[id][1]-1)*schema.PageSize, schema.PageSize, rand.New(rand.NewPCG(0, 0)))
	}
	if err := Check(t.Context(), path); !isDamaged(err) {
		t.Errorf("check: %v, want damage", err)
	}
	r, err := Salvage(t.Context(), path, path+".new")
	if err != nil {
		t.Fatal(err)
	}
	got := []any{r.Lost, r.LostCount, r.Older, r.OlderCount, r.LostRows, r.Complete}
	if diff := cmp.Diff([]any{[]string{"/registry/lost"}, 1, []string{"/registry/older"}, 1, 2, true}, got); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
	if err := Check(t.Context(), path+".new"); err != nil {
		t.Error(err)
	}
}

func TestSalvageNothing(t *testing.T) {
	tests := map[string][]byte{"empty": nil, "zeros": make([]byte, 40960), "text": []byte(strings.Repeat("not a database\n", 5000))}
	for name, data := range tests {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "state.db")
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			if r, err := Salvage(t.Context(), path, path+".new"); err == nil {
				t.Errorf("no error: %s", r)
			}
			alone(t, path)
		})
	}
}

func isDamaged(err error) bool {
	_, ok := errors.AsType[*DamagedError](err)
	return ok
}

// alone checks that a file has no others beside it.
func alone(t *testing.T, path string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != filepath.Base(path) {
			t.Errorf("%s is left over", e.Name())
		}
	}
}

// TestSalvageScattered turns bytes all over the file and its log: whatever they
// say, it ends, without a crash, with a sound database or an error.
func TestSalvageScattered(t *testing.T) {
	for _, s := range shapes() {
		t.Run(s.name, func(t *testing.T) {
			dir := t.TempDir()
			live := filepath.Join(dir, "live.db")
			fill(t, live, s, 200, 17)
			db := open(live, "mode=rw&_synchronous=OFF")
			defer db.Close()
			run(t, db, `PRAGMA wal_autocheckpoint = 0`)
			write(t, db, 30, 19)
			files := make(map[string][]byte)
			for _, suffix := range []string{"", "-wal"} {
				data, err := os.ReadFile(live + suffix)
				if err != nil {
					t.Fatal(err)
				}
				files[suffix] = data
			}
			refused := 0
			path := filepath.Join(dir, "state.db")
			for seed := range uint64(rounds(150, 20000)) {
				rng := rand.New(rand.NewPCG(seed, 5))
				for suffix, data := range files {
					data = slices.Clone(data)
					for range rng.IntN(300) {
						at := rng.IntN(len(data))
						if rng.IntN(2) == 0 { // the beginnings of pages hurt most
							at = at/s.page*s.page + rng.IntN(32)
						}
						data[min(at, len(data)-1)] = byte(rng.Uint32())
					}
					if err := os.WriteFile(path+suffix, data, 0o600); err != nil {
						t.Fatal(err)
					}
				}
				if err := os.RemoveAll(path + ".new"); err != nil {
					t.Fatal(err)
				}
				if _, err := Salvage(t.Context(), path, path+".new"); err != nil {
					refused++
					t.Logf("seed %d: %v", seed, err)
				} else if err := Check(t.Context(), path+".new"); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
			}
			if refused > rounds(150, 20000)/10 {
				t.Errorf("%d files were given up", refused)
			}
		})
	}
}
