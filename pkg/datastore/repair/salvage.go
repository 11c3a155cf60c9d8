package repair

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"skiff/pkg/datastore/schema"
)

// maxNames bounds the lists of keys in a Report.
const maxNames = 100

// Report says what Salvage found.
type Report struct {
	Rows int // that were read and written anew, history included
	Keys int // that are there now
	// LostRows is how many rows are known to have been there and could not be
	// read.
	LostRows int
	// Lost are keys of which nothing is left. Some may have been deleted long
	// ago: then what is lost says so. Older are keys of which the newest
	// version is lost and an older one is there. At most 100 of each are named.
	Lost, Older           []string
	LostCount, OlderCount int
	// Complete is true if Lost and Older are all there can be. Otherwise the
	// index that says so was damaged as well, and more may be lost.
	Complete bool
	// LogCut is true if the write-ahead log is damaged: some of what was
	// written last may be lost, and not be counted anywhere.
	LogCut bool
}

// String is the report in one line, with the first few names.
func (r Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d rows with %d keys were read", r.Rows, r.Keys)
	if r.LostRows > 0 {
		fmt.Fprintf(&b, ", %d rows are lost", r.LostRows)
	}
	list := func(count int, what string, names []string) {
		if count == 0 {
			return
		}
		names = names[:min(10, len(names))]
		fmt.Fprintf(&b, "; %d %s: %s", count, what, strings.Join(names, ", "))
		if count > len(names) {
			b.WriteString(", …")
		}
	}
	list(r.LostCount, "keys are gone", r.Lost)
	list(r.OlderCount, "keys have gone back to an older version", r.Older)
	if !r.Complete {
		b.WriteString("; more may be lost, since the list of what there was is damaged, too")
	}
	if r.LogCut {
		b.WriteString("; the log of the latest writes is damaged, some of them may be lost")
	}
	return b.String()
}

// Salvage writes a new database with every row that can be read from a damaged
// one and its write-ahead log, which are not changed. Rows are only taken where
// they make sense, so that what it writes is sound, but it may be less than
// there was: the report says what is known about that. Nothing that can be read
// is an error, and then there is no new database. The caller calls Bump on it.
func Salvage(ctx context.Context, from, to string) (r Report, err error) {
	m, err := openImage(from)
	if err != nil {
		return r, fmt.Errorf("read damaged database %s: %w", from, err)
	}
	defer func() { err = errors.Join(err, m.close()) }()
	s, err := take(ctx, m)
	if err != nil {
		return r, fmt.Errorf("read damaged database %s: %w", from, err)
	}
	if len(s.rows) == 0 {
		return r, fmt.Errorf("read damaged database %s: there is nothing left that looks like a row", from)
	}
	d, err := newDraft(to)
	if err != nil {
		return r, fmt.Errorf("prepare new database: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.discard())
		}
	}()
	newest, err := s.write(ctx, d.tmp)
	if err == nil {
		err = d.publish(ctx)
	}
	if err != nil {
		return r, fmt.Errorf("write what was salvaged to %s: %w", to, roomIn(to, err))
	}
	return s.report(newest), nil
}

// version is the newest row of a key.
type version struct {
	id      int64
	deleted bool
}

// write makes the new database, and returns the newest version of each key.
func (s *survey) write(ctx context.Context, path string) (newest map[string]version, err error) {
	if err := create(path); err != nil {
		return nil, err
	}
	// Nobody reads the file before it is whole and synced.
	db := open(path, "mode=rw&_synchronous=OFF&_journal_mode=OFF")
	defer func() { err = errors.Join(err, db.Close()) }()
	for _, stmt := range slices.Concat(schema.Settings, schema.Statements) {
		if _, err := db.ExecContext(ctx, stmt); err != nil {
			return nil, explain("write", path, err)
		}
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return nil, explain("write", path, err)
	}
	defer func() {
		if err != nil {
			_ = tx.Rollback() // It is over already if the commit was what failed.
		}
	}()
	newest, err = s.insert(ctx, tx)
	if err == nil {
		err = tx.Commit()
	}
	if err != nil {
		return nil, explain("write", path, err)
	}
	return newest, nil
}

func (s *survey) insert(ctx context.Context, tx *sql.Tx) (newest map[string]version, err error) {
	stmt, err := tx.PrepareContext(ctx, `INSERT INTO kine (`+schema.Columns()+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL)`)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stmt.Close()) }()
	newest = make(map[string]version)
	for _, id := range slices.Sorted(maps.Keys(s.rows)) {
		at := s.rows[id]
		data, err := at.m.page(at.page)
		if err != nil {
			return nil, err
		}
		n, err := parsePage(data, at.page, at.m.usable)
		if err != nil {
			return nil, err
		}
		r, _, err := at.m.record(n, at.cell)
		if err != nil {
			return nil, err
		}
		if _, err := stmt.ExecContext(ctx, r.id, r.name, r.created, r.deleted, r.createRev, r.prev, r.lease, r.value); err != nil {
			return nil, err
		}
		newest[r.name] = version{r.id, r.deleted != 0}
	}
	return newest, nil
}

// report compares what was found with what the index knows.
func (s *survey) report(newest map[string]version) Report {
	r := Report{Rows: len(s.rows), Complete: s.named || len(s.walk.gaps) == 0 && !s.guessed, LogCut: s.m.logCut}
	for name, v := range newest {
		if !v.deleted && !internal(name) {
			r.Keys++
		}
	}
	lost, older := make(map[string]bool), make(map[string]bool)
	for id, name := range s.names {
		if _, ok := s.rows[id]; ok {
			continue
		}
		r.LostRows++
		switch v, ok := newest[name]; {
		case internal(name): // Bump makes it anew.
		case !ok:
			lost[name] = true
		case v.id < id:
			older[name] = true
		}
	}
	r.Lost, r.LostCount = some(lost)
	r.Older, r.OlderCount = some(older)
	return r
}

// internal reports whether a name is not a key of the datastore's users.
func internal(name string) bool { return name == schema.CompactKey || strings.HasPrefix(name, "gap-") }

// some returns the first of the names, and how many there are.
func some(names map[string]bool) ([]string, int) {
	list := slices.Sorted(maps.Keys(names))
	return list[:min(maxNames, len(list))], len(list)
}
