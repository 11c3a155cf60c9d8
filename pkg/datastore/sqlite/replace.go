package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/mattn/go-sqlite3"

	"skiff/internal/atomicfile"
	"skiff/pkg/datastore/repair"
)

const (
	// leap is how far the revision is moved on in a database that has been
	// put in the place of another: more than anybody can have used since.
	leap = 1_000_000_000

	// fewKeys is the share of a snapshot's keys, in percent, below which what
	// was saved from a damaged database is worth less than the snapshot.
	fewKeys = 90

	countSQL = `SELECT COUNT(DISTINCT name) FROM kine WHERE deleted = 0`
)

// isDamaged reports whether an error means that the file is no sound database.
func isDamaged(err error) bool {
	if _, ok := errors.AsType[*repair.DamagedError](err); ok {
		return true
	}
	e, ok := errors.AsType[sqlite3.Error](err)
	return ok && (e.Code == sqlite3.ErrNotADB || e.Code == sqlite3.ErrCorrupt || e.Code == sqlite3.ErrFormat)
}

// The names of a database that is to take the place of the damaged one: while
// it is made, and once it is complete. From then on the exchange is finished
// by whoever opens the database next.
func (f file) draft() string       { return f.path + ".draft" }
func (f file) replacement() string { return f.path + ".replacement" }

// replace puts a sound database in the place of one that is damaged or gone,
// keeps the damaged one, and says what was done and lost. The cause is
// returned, with the way out, if there is nothing sound.
func (f file) replace(ctx context.Context, cause error) error {
	f.logger.Error("the database is damaged, saving what can be read", "file", f.path, "error", cause)
	aside := f.path + ".damaged-" + time.Now().UTC().Format("20060102T150405.000000Z")
	what, jump, err := f.makeDraft(ctx)
	if err != nil {
		return f.damaged(cause, err, f.discardDraft())
	}
	if _, err := repair.Bump(ctx, f.draft(), max(leap, jump)); err != nil {
		return f.damaged(cause, fmt.Errorf("prepare the new database: %w", err), f.discardDraft())
	}
	for _, suffix := range []string{"", "-wal"} {
		if err := os.Link(f.path+suffix, aside+suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return f.damaged(cause, fmt.Errorf("keep the damaged database: %w", err), f.discardDraft())
		}
	}
	if err := os.Rename(f.draft(), f.replacement()); err != nil {
		return f.damaged(cause, fmt.Errorf("keep the new database: %w", err), f.discardDraft())
	}
	if err := f.finish(); err != nil {
		return err
	}
	f.logger.Error("the database was damaged and has been replaced", "file", f.path, "by", what, "kept", aside)
	f.note(fmt.Sprintf("on %s the database was damaged (%v) and replaced by %s; the damaged file is kept as %s",
		time.Now().UTC().Format(time.RFC3339), cause, what, aside))
	return nil
}

// makeDraft writes the best database that can be had, and says what it is and
// how far its revisions may be behind.
func (f file) makeDraft(ctx context.Context) (what string, jump int64, err error) {
	if err := f.discardDraft(); err != nil {
		return "", 0, err
	}
	report, err := repair.Salvage(ctx, f.path, f.draft())
	salvaged := "what could be read of it: " + report.String()
	if err == nil && report.Complete {
		return salvaged, 0, nil
	}
	saved := f.path + ".snapshot"
	defer os.Remove(saved) // It is a copy.
	from, jump, serr := f.fromSnapshot(ctx, saved)
	switch {
	case serr == nil && (err != nil || 100*int64(report.Keys) < fewKeys*keysIn(saved)):
		if err := errors.Join(f.discardDraft(), os.Rename(saved, f.draft())); err != nil {
			return "", 0, fmt.Errorf("use snapshot: %w", err)
		}
		return "the snapshot " + from + ": what was written after it is lost", jump, nil
	case err == nil:
		return salvaged, 0, nil
	case f.disposable:
		return "an empty one", 0, f.begin(ctx)
	}
	return "", 0, errors.Join(err, serr)
}

func (f file) fromSnapshot(ctx context.Context, to string) (string, int64, error) {
	if f.snapshot == nil {
		return "", 0, errors.New("there is no snapshot")
	}
	return f.snapshot(ctx, to)
}

// keysIn counts a snapshot's keys; one that cannot be counted has none.
func keysIn(path string) int64 {
	c, err := connect(path, "_query_only=1")
	if err != nil {
		return 0
	}
	n, err := c.number(countSQL)
	if errors.Join(err, c.close()) != nil {
		return 0
	}
	return n
}

// begin makes an empty draft, whose revisions are above all that the damaged
// database can have used.
func (f file) begin(ctx context.Context) error {
	empty := file{path: f.draft(), logger: f.logger}
	if err := empty.create(); err != nil {
		return err
	}
	// Each time further: nobody knows how far the last one went.
	begun, err := filepath.Glob(f.path + ".damaged-*[0-9]Z")
	if err != nil {
		return fmt.Errorf("look for earlier databases: %w", err)
	}
	if _, err := repair.Bump(ctx, empty.path, int64(len(begun)+1)*1000*leap); err != nil {
		return fmt.Errorf("prepare an empty database: %w", err)
	}
	return os.Remove(empty.marker())
}

// finish completes an exchange that has been decided. A log of the old
// database must not be applied to the new one.
func (f file) finish() error {
	if _, err := os.Stat(f.replacement()); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, suffix := range []string{"-wal", "-shm"} {
		if err := os.Remove(f.path + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("exchange database: %w", err)
		}
	}
	if err := os.Rename(f.replacement(), f.path); err != nil {
		return fmt.Errorf("exchange database: %w", err)
	}
	return atomicfile.SyncDir(filepath.Dir(f.path))
}

func (f file) discardDraft() error {
	for _, suffix := range []string{"", "-wal", "-shm", "-journal", ".created"} {
		if err := os.Remove(f.draft() + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove unfinished database: %w", err)
		}
	}
	return nil
}

func (f file) note(message string) {
	if f.notes != nil {
		f.notes.Set("datastore", message)
	}
}
