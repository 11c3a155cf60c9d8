// Package snapshot keeps copies of a server: the database together with the
// certificates, the token, the configuration and the user's manifests, each
// copy one archive from which the same cluster can be started on this or
// another machine. It knows files, not Kubernetes, and only SQLite databases;
// others have tools of their own. Start reading at Save and Restore; Scheduler
// is what calls them in a running server.
package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"skiff/pkg/paths"
)

// Kinds of snapshots: why they were made, and the beginning of their names.
const (
	OnDemand   = "on-demand"
	Scheduled  = "scheduled"
	PreUpgrade = "pre-upgrade"
)

const (
	suffix   = ".tar.zst"
	stamp    = "20060102T150405Z"
	lockName = ".lock"
	// aheadOfTime is by how much a snapshot may be newer than the clock says
	// before its time is not believed.
	aheadOfTime = time.Minute
)

// Source is a server that snapshots are made of.
type Source struct {
	Paths      paths.Layout
	Database   string // the SQLite file
	ConfigFile string // its drop-ins are in the directory ConfigFile.d
	Registries string
	Node       string
	Version    string // of skiff
}

// Info describes one snapshot.
type Info struct {
	Name     string    `json:"name"`
	Path     string    `json:"path"`
	Kind     string    `json:"kind"`
	Time     time.Time `json:"time"`
	Size     int64     `json:"size"`
	Node     string    `json:"node,omitempty"`
	Version  string    `json:"version,omitempty"`
	Revision int64     `json:"revision,omitempty"`
	// Problem says why the archive cannot be used, as far as its beginning
	// tells; Verify reads it all.
	Problem string `json:"problem,omitempty"`
}

// Jump is by how much the revision has to be moved on when the database of the
// snapshot is used at this time, so that it is above every revision that may
// have been given out since.
func (i Info) Jump(now time.Time) int64 {
	const least, perSecond, most = 1_000_000, 1000, 1_000_000_000_000
	seconds := max(0, int64(now.Sub(i.Time)/time.Second))
	return min(most, least+seconds*perSecond)
}

// NoneError says that there is no snapshot of this name.
type NoneError struct{ Dir, Name string }

// Error names the directory.
func (e *NoneError) Error() string {
	if e.Name == "" {
		return "there is no usable snapshot in " + e.Dir
	}
	return fmt.Sprintf("there is no snapshot %q in %s", e.Name, e.Dir)
}

// nameParts takes a file name apart.
func nameParts(name string) (kind string, at time.Time, ok bool) {
	m := regexp.MustCompile(`^([A-Za-z0-9][^/]*)-(\d{8}T\d{6}Z)\.tar\.zst$`).FindStringSubmatch(name)
	if m == nil {
		return "", at, false
	}
	at, err := time.Parse(stamp, m[2])
	if err != nil {
		return "", at, false
	}
	for _, kind := range []string{OnDemand, Scheduled, PreUpgrade} {
		if strings.HasPrefix(m[1], kind+"-") {
			return kind, at, true
		}
	}
	return OnDemand, at, true // the user has given a name
}

// List returns the snapshots in a directory, the newest first. A directory
// that does not exist has none.
func List(dir string) ([]Info, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	var list []Info
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		if info, ok := describe(filepath.Join(dir, e.Name())); ok {
			list = append(list, info)
		}
	}
	slices.SortStableFunc(list, func(a, b Info) int { return b.Time.Compare(a.Time) })
	return list, nil
}

// describe reads a snapshot's name and, if it can, the manifest at its
// beginning.
func describe(path string) (Info, bool) {
	info := Info{Name: filepath.Base(path), Path: path}
	var ok bool
	if info.Kind, info.Time, ok = nameParts(info.Name); !ok {
		return info, false
	}
	if fi, err := os.Stat(path); err == nil {
		info.Size = fi.Size()
	}
	m, err := readManifest(path)
	if err != nil {
		info.Problem = err.Error()
		return info, true
	}
	return info.with(m), true
}

func (i Info) with(m Manifest) Info {
	i.Kind, i.Time, i.Node, i.Version, i.Revision = m.Kind, m.Time, m.Node, m.Version, m.Revision
	return i
}

// Find returns the path of a snapshot that is named by its name in dir, with
// or without extension, or by a path.
func Find(dir, name string) (string, error) {
	if strings.ContainsRune(name, filepath.Separator) {
		return name, nil
	}
	for _, n := range []string{name, name + suffix} {
		path := filepath.Join(dir, n)
		if _, _, ok := nameParts(n); !ok {
			continue
		}
		if fi, err := os.Stat(path); err == nil && fi.Mode().IsRegular() {
			return path, nil
		}
	}
	return "", &NoneError{Dir: dir, Name: name}
}

// Delete removes a snapshot of dir. A path is refused, so that one elsewhere
// cannot be taken for the one of the same name in dir.
func Delete(dir, name string) error {
	if strings.ContainsRune(name, filepath.Separator) && filepath.Dir(filepath.Clean(name)) != filepath.Clean(dir) {
		return fmt.Errorf("delete snapshot %s: it is not in %s; give its name, or remove the file yourself", name, dir)
	}
	path, err := Find(dir, filepath.Base(name))
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("delete snapshot: %w", err)
	}
	return nil
}

// Prune removes the oldest snapshots of a kind but for the newest keep. Those
// that cannot be used, or seem to come from the future and so were made with a
// wrong clock, go first. It returns the names of those it removed.
func Prune(dir, kind string, keep int, now time.Time) ([]string, error) {
	all, err := List(dir)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(i Info) bool { return i.Kind != kind })
	doubt := func(i Info) (n int) {
		if i.Problem != "" {
			n += 2
		}
		if i.Time.After(now.Add(aheadOfTime)) {
			n++
		}
		return n
	}
	slices.SortStableFunc(all, func(a, b Info) int { return doubt(a) - doubt(b) })
	var removed []string
	for _, i := range all[min(keep, len(all)):] {
		if err := os.Remove(i.Path); err != nil {
			return removed, fmt.Errorf("delete old snapshot: %w", err)
		}
		removed = append(removed, i.Name)
	}
	return removed, nil
}

// Verify reads a whole snapshot and compares it with its manifest.
func Verify(ctx context.Context, path string) (Info, error) {
	info := Info{Name: filepath.Base(path), Path: path}
	fi, err := os.Stat(path)
	if err != nil {
		return info, fmt.Errorf("verify snapshot: %w", err)
	}
	info.Size = fi.Size()
	m, err := readArchive(ctx, path, nil)
	if err != nil {
		return info, fmt.Errorf("verify snapshot %s: %w", path, err)
	}
	return info.with(m), nil
}
