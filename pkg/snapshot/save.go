package snapshot

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"skiff/internal/atomicfile"
	"skiff/internal/lockfile"
	"skiff/pkg/datastore/repair"
)

// Names of what an archive has, by where it comes from.
const (
	databaseName = "server/db/state.db"
	tokenName    = "server/token"
	// The server's other token; it makes one where there is none.
	agentTokenName = "server/agent-token"
	tlsName        = "server/tls"
	ownName        = "server/manifests"
	configName     = "etc/config.yaml"
	registryName   = "etc/registries.yaml"
)

// What a snapshot leaves free on its disk: this many bytes, or one of so many
// parts of it if that is less.
const (
	keepFree  = 64 << 20
	keepShare = 20
)

// SpaceError says that a directory has too little space for a snapshot.
type SpaceError struct {
	Dir          string
	Free, Needed int64
}

// Error says how much is missing, and what to do.
func (e *SpaceError) Error() string {
	return fmt.Sprintf("the disk of %s is nearly full: %.1f MB are free, a snapshot needs %.1f MB; free some space, or choose another disk with --snapshot-dir",
		e.Dir, float64(e.Free)/1e6, float64(e.Needed)/1e6)
}

// Save makes a snapshot in dir while the server may be running. label is the
// first part of its name: a kind, or what the user calls it. The snapshot has
// been read back and is on the disk when it gets its name; on an error there is
// none.
func Save(ctx context.Context, src Source, dir, label string) (_ Info, err error) {
	if _, err := os.Stat(src.Database); err != nil {
		return Info{}, fmt.Errorf("find the database of a server in %s: %w; has a server been started with this --data-dir?", src.Paths.Data, err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return Info{}, fmt.Errorf("make directory of snapshots: %w", err)
	}
	lock, err := lockfile.Acquire(filepath.Join(dir, lockName))
	if held, ok := errors.AsType[*lockfile.HeldError](err); ok {
		return Info{}, fmt.Errorf("another snapshot is being made (process %d); try again when it is done: %w", held.PID, err)
	}
	if err != nil {
		return Info{}, fmt.Errorf("make snapshot: %w", err)
	}
	defer func() { err = errors.Join(err, lock.Release()) }()
	if err := removeLeftovers(dir); err != nil {
		return Info{}, err
	}
	if err := checkSpace(src.Database, dir); err != nil {
		return Info{}, fmt.Errorf("make snapshot: %w", err)
	}
	info, err := save(ctx, src, dir, label)
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		err = fmt.Errorf("no space left in %s: %w", dir, err)
	}
	if err != nil {
		return Info{}, errors.Join(fmt.Errorf("make snapshot: %w", err), removeLeftovers(dir))
	}
	return info, nil
}

// save does the work of Save; what it leaves behind on an error begins with a
// dot.
func save(ctx context.Context, src Source, dir, label string) (Info, error) {
	at, name := freeName(dir, label+"-"+src.Node)
	kind, _, ok := nameParts(name)
	if !ok {
		return Info{}, fmt.Errorf("the name %q cannot be that of a file", label)
	}
	scratch := filepath.Join(dir, "."+name+".db")
	if err := repair.Backup(ctx, src.Database, scratch); err != nil {
		return Info{}, err
	}
	m := Manifest{Format: format, Kind: kind, Version: src.Version, Node: src.Node, Time: at}
	var err error
	if m.Revision, err = repair.Revision(ctx, scratch); err != nil {
		return Info{}, err
	}
	if m.Files, err = src.files(scratch); err != nil {
		return Info{}, err
	}
	tmp := filepath.Join(dir, "."+name+".tmp")
	if err := writeArchive(ctx, tmp, m); err != nil {
		return Info{}, err
	}
	if err := os.Remove(scratch); err != nil {
		return Info{}, err
	}
	if _, err := Verify(ctx, tmp); err != nil {
		return Info{}, err
	}
	to := filepath.Join(dir, name)
	if err := os.Rename(tmp, to); err != nil {
		return Info{}, err
	}
	if err := atomicfile.SyncDir(dir); err != nil {
		return Info{}, err
	}
	info := Info{Name: name, Path: to}.with(m)
	if fi, err := os.Stat(to); err == nil {
		info.Size = fi.Size()
	}
	return info, nil
}

// freeName returns a name that is not in use, and the time in it.
func freeName(dir, prefix string) (time.Time, string) {
	for at := time.Now().UTC().Truncate(time.Second); ; at = at.Add(time.Second) {
		name := prefix + "-" + at.Format(stamp) + suffix
		if _, err := os.Lstat(filepath.Join(dir, name)); err != nil {
			return at, name
		}
	}
}

// removeLeftovers removes what an interrupted Save has left; the caller holds
// the lock.
func removeLeftovers(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("look for interrupted snapshots: %w", err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") || !strings.Contains(e.Name(), suffix+".") {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("remove interrupted snapshot: %w", err)
		}
	}
	return nil
}

// checkSpace refuses a snapshot that would fill the disk: a copy of the
// database and the archive are there at the same time.
func checkSpace(database, dir string) error {
	var size int64
	for _, suffix := range []string{"", "-wal"} {
		if fi, err := os.Stat(database + suffix); err == nil {
			size += fi.Size()
		}
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("look at free space of %s: %w", dir, err)
	}
	free := int64(st.Bavail) * st.Bsize
	needed := 2*size + min(keepFree, int64(st.Blocks)*st.Bsize/keepShare)
	if free < needed {
		return &SpaceError{Dir: dir, Free: free, Needed: needed}
	}
	return nil
}

// files lists what belongs into a snapshot. All but the database is small, and
// is read at once: it may change at any time.
func (s Source) files(database string) ([]File, error) {
	var files []File
	sum, size, err := hashFile(database)
	if err != nil {
		return nil, err
	}
	files = append(files, File{
		Name: databaseName, Size: size, Mode: 0o600, SHA256: sum,
		open: func() (io.ReadCloser, error) { return os.Open(database) },
	})
	type place struct {
		name, path string
		required   bool
	}
	for _, p := range []place{
		{tokenName, s.Paths.Token(), true},
		{agentTokenName, s.Paths.AgentToken(), false},
		{tlsName, s.Paths.ServerTLS(), true},
		{ownName, s.Paths.Manifests(), false},
		{configName, s.ConfigFile, false},
		{configName + ".d", s.ConfigFile + ".d", false},
		{registryName, s.Registries, false},
	} {
		more, err := filesBelow(p.name, p.path)
		if errors.Is(err, fs.ErrNotExist) && !p.required {
			continue
		}
		if err != nil {
			return nil, err
		}
		files = append(files, more...)
	}
	return files, nil
}

// filesBelow reads a file, or all regular files of a directory and those below.
// Hidden ones are temporary, and so is what vanishes meanwhile.
func filesBelow(name, root string) ([]File, error) {
	info, err := os.Stat(root)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		f, err := readFile(name, root, info)
		if err != nil {
			return nil, err
		}
		return []File{f}, nil
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil, err
	}
	var files []File
	for _, e := range entries {
		below := filepath.Join(root, e.Name())
		info, err := os.Stat(below)
		if errors.Is(err, fs.ErrNotExist) || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if err != nil {
			return nil, err
		}
		if !info.Mode().IsRegular() && !e.IsDir() {
			continue // a link to a directory may lead round in circles
		}
		more, err := filesBelow(path.Join(name, e.Name()), below)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		files = append(files, more...)
	}
	return files, nil
}

func readFile(name, path string, info fs.FileInfo) (File, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return File{}, err
	}
	sum := sha256.Sum256(data)
	return File{
		Name: name, Size: int64(len(data)), Mode: info.Mode().Perm(), SHA256: hex.EncodeToString(sum[:]),
		open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil },
	}, nil
}

func hashFile(path string) (sum string, size int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	h := sha256.New()
	size, err = io.Copy(h, f)
	return hex.EncodeToString(h.Sum(nil)), size, err
}
