package upgrade

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"skiff/internal/atomicfile"
)

// identity tells one file from another without reading it. It outlives a
// reboot, which the number of the device does not.
type identity struct {
	Inode uint64    `json:"inode"`
	Size  int64     `json:"size"`
	Time  time.Time `json:"time"`
}

// identify follows links, also those of /proc.
func identify(path string) (identity, error) {
	info, err := os.Stat(path)
	if err != nil {
		return identity{}, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return identity{}, fmt.Errorf("look at %s: it has no inode", path)
	}
	return identity{st.Ino, info.Size(), info.ModTime().UTC()}, nil
}

func (i identity) is(path string) bool {
	got, err := identify(path)
	return err == nil && got.Inode == i.Inode && got.Size == i.Size && got.Time.Equal(i.Time)
}

// duplicate makes to the same as from: by a second name of the same file, or by
// a copy where that cannot be. It is on the disk when this returns, and another
// file of that name is replaced at once.
func duplicate(from, to, temp string) error {
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Link(from, temp); err != nil {
		if err := copyFile(from, temp); err != nil {
			return errors.Join(err, os.RemoveAll(temp))
		}
	}
	// Renaming one name of a file over another does nothing, and leaves both.
	if err := os.Rename(temp, to); err != nil {
		return errors.Join(err, os.RemoveAll(temp))
	}
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(to))
}

func copyFile(from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	return writeFile(to, func(w io.Writer) error {
		_, err := io.Copy(w, in)
		return err
	})
}

// writeFile makes an executable file, and syncs it.
func writeFile(path string, fill func(io.Writer) error) (err error) {
	out, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o700)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if err := fill(out); err != nil {
		return err
	}
	return errors.Join(out.Chmod(0o755), out.Sync())
}

// SpaceError says that a file system has too little space.
type SpaceError struct {
	Dir          string
	Free, Needed int64
}

// Error says how much is missing.
func (e *SpaceError) Error() string {
	return fmt.Sprintf("the disk of %s is nearly full: %.0f MB are free, the upgrade needs %.0f MB there; free some space and try again",
		e.Dir, float64(e.Free)/1e6, float64(e.Needed)/1e6)
}

// spare is what stays free.
const spare = 32 << 20

// room refuses what does not fit.
func room(dir string, size int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("look at free space of %s: %w", dir, err)
	}
	if free := int64(st.Bavail) * st.Bsize; free < size+spare {
		return &SpaceError{Dir: dir, Free: free, Needed: size + spare}
	}
	return nil
}

// maxConfig is the largest file of configuration that is kept.
const maxConfig = 1 << 20

// savedConfig is the configuration at one moment: what was named, and all files
// of that.
type savedConfig struct {
	Names []string             `json:"names"`
	Files map[string]savedFile `json:"files"`
}

type savedFile struct {
	Mode fs.FileMode `json:"mode"`
	Data []byte      `json:"data"`
}

// saveConfig keeps the configuration as it is: files, and the files in
// directories.
func (d Dir) saveConfig(names []string) error {
	files, err := readConfig(names)
	if err != nil {
		return fmt.Errorf("keep the configuration: %w", err)
	}
	text, err := json.Marshal(savedConfig{names, files})
	if err != nil {
		return fmt.Errorf("keep the configuration: %w", err)
	}
	return atomicfile.Write(d.configFile(), text, 0o600)
}

func readConfig(names []string) (map[string]savedFile, error) {
	files := make(map[string]savedFile)
	for _, name := range names {
		info, err := os.Stat(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		found := []string{name}
		if info.IsDir() {
			if found, err = filepath.Glob(filepath.Join(name, "*")); err != nil {
				return nil, err
			}
		}
		for _, f := range found {
			if err := readSaved(f, files); err != nil {
				return nil, err
			}
		}
	}
	return files, nil
}

func readSaved(name string, files map[string]savedFile) error {
	info, err := os.Stat(name)
	if err != nil || !info.Mode().IsRegular() {
		return err
	}
	if info.Size() > maxConfig {
		return fmt.Errorf("%s has more than %d bytes", name, maxConfig)
	}
	data, err := os.ReadFile(name)
	files[name] = savedFile{info.Mode().Perm(), data}
	return err
}

// restoreConfig makes the configuration again what it was. What it is now, where
// that is something else, is kept beside it with a name that nothing reads.
func (d Dir) restoreConfig(aside string) error {
	text, err := os.ReadFile(d.configFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var was savedConfig
	if err := json.Unmarshal(text, &was); err != nil {
		return fmt.Errorf("read %s: %w", d.configFile(), err)
	}
	is, err := readConfig(was.Names)
	if err != nil {
		return err
	}
	same := func(name string) bool {
		before, was := was.Files[name]
		now, is := is[name]
		return was == is && bytes.Equal(before.Data, now.Data)
	}
	var errs []error
	for name := range is {
		if !same(name) && !strings.HasSuffix(name, "."+fileWord(aside)) {
			errs = append(errs, os.Rename(name, name+"."+fileWord(aside)))
		}
	}
	for name, f := range was.Files {
		if !same(name) {
			errs = append(errs, os.MkdirAll(filepath.Dir(name), 0o755), atomicfile.Write(name, f.Data, f.Mode))
		}
	}
	return errors.Join(errs...)
}

// fileWord makes a version fit for a file's name.
func fileWord(version string) string {
	return strings.Map(func(r rune) rune {
		if r == filepath.Separator || r <= ' ' {
			return '_'
		}
		return r
	}, version)
}
