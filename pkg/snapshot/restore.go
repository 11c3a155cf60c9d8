package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"skiff/internal/atomicfile"
	"skiff/internal/lockfile"
	"skiff/pkg/datastore/repair"
	"skiff/pkg/paths"
)

// Target is the server that a snapshot is restored to.
type Target struct {
	Paths      paths.Layout
	Database   string // the SQLite file that the server will use
	ConfigFile string
	Registries string
	Snapshots  string // directory of its snapshots
}

// Restored says what Restore did.
type Restored struct {
	Info
	// Aside is where the state went that was there before; "" if there was none.
	Aside string
	// Written and Kept are configuration files: those that were missing here
	// and are now as in the snapshot, and those that were here, differ, and
	// have been left as they are. The snapshot's own are in EtcCopy.
	Written, Kept []string
	EtcCopy       string
	NewRevision   int64
}

// etcDir holds the snapshot's configuration files in the restored state.
const etcDir = "etc-of-snapshot"

// Restore puts the state of a snapshot in the place of the server's, which must
// not be running. The archive is read to its end before anything is changed. At
// every moment the server's directory is the old one or the new one, whole; the
// old one is kept beside it. Watches and lists of before are ended by a jump of
// the revision.
func Restore(ctx context.Context, to Target, archive string, now time.Time) (r Restored, err error) {
	if want := filepath.Join(to.Paths.ServerDB(), filepath.Base(databaseName)); to.Database != want {
		return r, fmt.Errorf("restore snapshot: --datastore-endpoint puts the database at %s, a snapshot brings it to %s; restore without that setting", to.Database, want)
	}
	if err := os.MkdirAll(to.Paths.Data, 0o755); err != nil {
		return r, fmt.Errorf("make --data-dir: %w", err)
	}
	lock, err := lockfile.Acquire(to.Paths.LockFile())
	if held, ok := errors.AsType[*lockfile.HeldError](err); ok {
		return r, fmt.Errorf("skiff (process %d) is running on --data-dir %s; stop it before restoring a snapshot: %w", held.PID, to.Paths.Data, err)
	}
	if err != nil {
		return r, fmt.Errorf("take --data-dir: %w", err)
	}
	defer func() { err = errors.Join(err, lock.Release()) }()
	if r.Info, err = Verify(ctx, archive); err != nil {
		return r, err
	}
	if err := Finish(to.Paths); err != nil {
		return r, err
	}
	if err := r.build(ctx, to, now); err != nil {
		return r, fmt.Errorf("restore snapshot %s: %w", archive, errors.Join(err, os.RemoveAll(draftOf(to.Paths))))
	}
	if err := r.writeConfig(to); err != nil {
		return r, fmt.Errorf("restore configuration: %w", err)
	}
	if r.Aside, err = Swap(to.Paths, now); err != nil {
		return r, fmt.Errorf("put the restored state in place: %w", err)
	}
	return r, nil
}

// draftOf is where the new state is put together.
func draftOf(p paths.Layout) string { return p.ServerRestored() + ".tmp" }

// build makes the directory that will be the server's, and syncs all of it.
func (r *Restored) build(ctx context.Context, to Target, now time.Time) error {
	draft := draftOf(to.Paths)
	for _, old := range []string{draft, to.Paths.ServerRestored()} {
		if err := os.RemoveAll(old); err != nil {
			return err
		}
	}
	if err := os.Mkdir(draft, 0o700); err != nil {
		return err
	}
	_, err := readArchive(ctx, r.Path, func(f File, content io.Reader) error {
		path, ok := inDraft(draft, f.Name)
		if !ok {
			return nil // of a later skiff
		}
		return extract(path, f.Mode, content)
	})
	if err != nil {
		return err
	}
	database := filepath.Join(draft, "db", filepath.Base(databaseName))
	if err := repair.Check(ctx, database); err != nil {
		return err
	}
	if r.NewRevision, err = repair.Bump(ctx, database, r.Jump(now)); err != nil {
		return err
	}
	version := filepath.Join(draft, filepath.Base(to.Paths.ServerVersion()))
	if err := atomicfile.Write(version, []byte(r.Version+"\n"), 0o600); err != nil {
		return err
	}
	if err := keepSnapshots(to, draft); err != nil {
		return err
	}
	if err := syncTree(draft); err != nil {
		return err
	}
	return os.Rename(draft, to.Paths.ServerRestored())
}

// inDraft maps a name in the archive to a file below the draft.
func inDraft(draft, name string) (string, bool) {
	if rest, ok := strings.CutPrefix(name, "server/"); ok {
		return filepath.Join(draft, filepath.FromSlash(rest)), true
	}
	if rest, ok := strings.CutPrefix(name, "etc/"); ok {
		return filepath.Join(draft, etcDir, filepath.FromSlash(rest)), true
	}
	return "", false
}

// extract writes and syncs one file.
func extract(path string, mode fs.FileMode, content io.Reader) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := io.Copy(f, content); err != nil {
		return err
	}
	return errors.Join(f.Chmod(mode), f.Sync())
}

// keepSnapshots shows the snapshots that lie in the server's directory in the
// new one, too.
func keepSnapshots(to Target, draft string) error {
	rel, err := filepath.Rel(to.Paths.Server(), to.Snapshots)
	if err != nil || !filepath.IsLocal(rel) {
		return nil //nolint:nilerr // They are elsewhere, and stay there.
	}
	entries, err := os.ReadDir(to.Snapshots)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	dir := filepath.Join(draft, rel)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, e := range entries {
		if !e.Type().IsRegular() || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if err := os.Link(filepath.Join(to.Snapshots, e.Name()), filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// syncTree syncs the directories below root; files have been synced.
func syncTree(root string) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		return atomicfile.SyncDir(path)
	})
}

// writeConfig puts the snapshot's configuration where there is none.
func (r *Restored) writeConfig(to Target) error {
	from := filepath.Join(to.Paths.ServerRestored(), etcDir)
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		return r.writeConfigFile(path, to.configPath(filepath.ToSlash(rel)))
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	r.EtcCopy = filepath.Join(to.Paths.Server(), etcDir)
	return err
}

// configPath is where a configuration file belongs on this machine.
func (t Target) configPath(rel string) string {
	switch name := "etc/" + rel; {
	case name == configName:
		return t.ConfigFile
	case name == registryName:
		return t.Registries
	case strings.HasPrefix(name, configName+".d/"):
		return filepath.Join(t.ConfigFile+".d", filepath.FromSlash(strings.TrimPrefix(name, configName+".d/")))
	}
	return filepath.Join(t.Paths.Etc, filepath.FromSlash(rel))
}

func (r *Restored) writeConfigFile(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	switch present, err := os.ReadFile(to); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case string(present) != string(data):
		r.Kept = append(r.Kept, to)
		return nil
	default:
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	r.Written = append(r.Written, to)
	return atomicfile.Write(to, data, info.Mode().Perm())
}
