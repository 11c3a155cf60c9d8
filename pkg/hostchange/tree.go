package hostchange

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// errMount is what is met instead of a directory that belongs to its parent.
var errMount = errors.New("something is mounted there that skiff has not mounted: unmount it, and run this again")

// removeTree removes a directory with all in it, but for what was there before.
// Symbolic links are removed and not followed, and what is mounted in it is an
// error. last is a name that goes after all others.
func removeTree(path, before, last string) error {
	if before == all {
		return nil
	}
	dir, err := openTree(unix.AT_FDCWD, path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return fmt.Errorf("remove %s: it is no directory any more; look at it, and remove it yourself", path)
	case err != nil:
		return fmt.Errorf("remove %s: %w", path, err)
	}
	defer dir.Close()
	kept := strings.Split(strings.TrimPrefix(before, "/"), "/")
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("list %s: %w", path, err)
	}
	if i := slices.Index(names, last); i >= 0 {
		names = append(slices.Delete(names, i, i+1), last)
	}
	for _, name := range names {
		if before != "" && slices.Contains(kept, name) {
			continue
		}
		if err := removeEntry(dir, name, path); err != nil {
			return err
		}
	}
	if before != "" {
		return nil
	}
	err = os.Remove(path)
	if errors.Is(err, unix.EBUSY) || errors.Is(err, fs.ErrNotExist) {
		return nil // It is where somebody has mounted a disk, and empty.
	}
	if err != nil {
		return fmt.Errorf("remove directory: %w", err)
	}
	return nil
}

// openTree opens a directory below another, on the same file system and in its
// place: a bind mount is not.
func openTree(at int, name string) (*os.File, error) {
	how := &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC}
	if at != unix.AT_FDCWD {
		how.Resolve = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_SYMLINKS
	}
	fd, err := unix.Openat2(at, name, how)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// removeEntry removes one entry of a directory, path is only for messages.
func removeEntry(dir *os.File, name, path string) error {
	fd, path := int(dir.Fd()), filepath.Join(path, name)
	err := unix.Unlinkat(fd, name, 0)
	switch {
	case err == nil, errors.Is(err, unix.ENOENT):
		return nil
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("remove %s: %w", path, errMount)
	case !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM):
		return fmt.Errorf("remove %s: %w", path, err)
	}
	sub, err := openTree(fd, name)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil
	case errors.Is(err, unix.EXDEV):
		return fmt.Errorf("remove %s: %w", path, errMount)
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return fmt.Errorf("remove %s: %w; has somebody made it immutable (chattr -i)?", path, unix.EPERM)
	case err != nil:
		return fmt.Errorf("remove %s: %w", path, err)
	}
	defer sub.Close()
	names, err := sub.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("list %s: %w", path, err)
	}
	for _, n := range names {
		if err := removeEntry(sub, n, path); err != nil {
			return err
		}
	}
	if err := unix.Unlinkat(fd, name, unix.AT_REMOVEDIR); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove directory %s: %w", path, err)
	}
	return nil
}

// removeMatching removes what matches a pattern; trees says whether directories
// are among it.
func removeMatching(pattern string, trees bool) error {
	path, pattern := filepath.Split(pattern)
	path = filepath.Clean(path)
	dir, err := openTree(unix.AT_FDCWD, path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	defer dir.Close()
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return fmt.Errorf("list %s: %w", path, err)
	}
	for _, e := range entries {
		if ok, err := filepath.Match(pattern, e.Name()); err != nil || !ok || e.IsDir() && !trees {
			continue
		}
		if err := removeEntry(dir, e.Name(), path); err != nil {
			return err
		}
	}
	return nil
}

// removeFile removes one file, or a link.
func removeFile(c Change, links []string) error {
	if c.Before != "" {
		return nil
	}
	info, err := os.Lstat(c.Value)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove file: %w", err)
	}
	if c.Kind == Link {
		target, err := os.Readlink(c.Value)
		if err != nil || !slices.Contains(links, target) && filepath.Base(target) != "skiff" {
			return nil // Somebody has put something else there.
		}
	} else if info.IsDir() {
		return fmt.Errorf("remove file %s: it is a directory now; look at it, and remove it yourself", c.Value)
	}
	if err := os.Remove(c.Value); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove file: %w", err)
	}
	return nil
}

// removeDir removes a directory that is empty. left says what keeps it.
func removeDir(c Change) (left string, err error) {
	if c.Before != "" {
		return "", nil
	}
	err = os.Remove(c.Value)
	switch {
	case err == nil, errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.EBUSY):
		return "", nil
	case errors.Is(err, unix.ENOTEMPTY):
		entries, err := os.ReadDir(c.Value)
		if err != nil || len(entries) == 0 {
			return c.Value, nil
		}
		return filepath.Join(c.Value, entries[0].Name()), nil
	case errors.Is(err, unix.ENOTDIR):
		return c.Value, nil
	}
	return "", fmt.Errorf("remove directory: %w", err)
}
