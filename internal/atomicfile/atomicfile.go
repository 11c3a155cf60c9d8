// Package atomicfile replaces files so that a reader, also one after a power
// cut, sees the old content or the new and never a part. It knows nothing of
// what is in them. Start reading at Write.
package atomicfile

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Write makes path a regular file with the given content and permissions. The
// content is on disk when Write returns. A file that is already so is left
// untouched (flash wear, watchers); if only the permissions differ, only they
// are changed. The directory must exist.
func Write(path string, data []byte, mode fs.FileMode) error {
	same, err := unchanged(path, data, mode)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if same {
		return nil
	}
	if err := replace(path, data, mode); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// unchanged reports whether path holds data already, and corrects its mode.
func unchanged(path string, data []byte, mode fs.FileMode) (bool, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if !info.Mode().IsRegular() || info.Size() != int64(len(data)) {
		return false, nil
	}
	old, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(old, data) {
		return false, nil //nolint:nilerr // An unreadable file is replaced by a good one.
	}
	if info.Mode().Perm() != mode.Perm() {
		return true, os.Chmod(path, mode)
	}
	return true, nil
}

func replace(path string, data []byte, mode fs.FileMode) (err error) {
	dir, base := filepath.Split(path)
	f, err := os.CreateTemp(dir, "."+base+".*.tmp")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return err
	}
	return SyncDir(dir)
}

// SyncDir makes renames and removals in a directory durable. An empty dir
// means the working directory.
func SyncDir(dir string) error {
	if dir == "" {
		dir = "."
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
