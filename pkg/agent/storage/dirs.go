package storage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
)

const (
	// baseMode keeps the volumes, which everybody may write, from the users of
	// the machine. A pod gets its own by a bind mount and passes no directory.
	baseMode fs.FileMode = 0o700
	// volumeMode lets a container write that does not run as root. Who wants
	// less sets fsGroup or changes the mode in an init container; it is set
	// when the volume is made, and never again.
	volumeMode fs.FileMode = 0o777
	// nameLimit is the kernel's, in bytes.
	nameLimit = 255
)

// dirName is what K3s calls the directory too.
func dirName(volume, namespace, claim string) string {
	name := volume + "_" + namespace + "_" + claim
	return name[:min(len(name), nameLimit)]
}

// dirs are the directories of the volumes.
type dirs struct {
	base string
	mu   sync.Mutex // held while a project is chosen
}

// name returns the name below the base of a volume's directory, if it is one
// that this package could have made.
func (d *dirs) name(v *corev1.PersistentVolume) (string, error) {
	if v.Spec.Local == nil {
		return "", fmt.Errorf("volume %s is not a local one", v.Name)
	}
	parent, dir := filepath.Split(filepath.Clean(v.Spec.Local.Path))
	if filepath.Clean(parent) != filepath.Clean(d.base) || !strings.HasPrefix(dir, v.Name+"_") {
		return "", fmt.Errorf("directory %s is not a volume below %s (--default-local-storage-path)", v.Spec.Local.Path, d.base)
	}
	return dir, nil
}

// create makes the directory of a volume, or finishes making it. If unlimited
// is not empty it says why the volume can grow beyond its size.
func (d *dirs) create(name string, size int64) (path, unlimited string, err error) {
	if err := os.MkdirAll(d.base, baseMode); err != nil {
		return "", "", fmt.Errorf("make directory for volumes: %w", err)
	}
	root, err := os.OpenRoot(d.base)
	if err != nil {
		return "", "", fmt.Errorf("open directory for volumes: %w", err)
	}
	defer func() { _ = root.Close() }()
	if err := root.Mkdir(name, baseMode); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", "", fmt.Errorf("make directory of volume below %s: %w", d.base, err)
	}
	dir, err := openDir(root, name)
	if err != nil {
		return "", "", err
	}
	defer dir.Close()
	d.mu.Lock()
	unlimited, err = limit(dir, true, size)
	d.mu.Unlock()
	if err != nil {
		return "", "", fmt.Errorf("limit directory %s: %w", dir.Name(), err)
	}
	if err := dir.Chmod(volumeMode); err != nil { // Mkdir would mind the umask
		return "", "", fmt.Errorf("open directory of volume to all users: %w", err)
	}
	return filepath.Join(d.base, name), unlimited, d.sync(dir)
}

// sync has the directory on the disk before the API knows of it.
func (d *dirs) sync(dir *os.File) error {
	base, err := os.Open(d.base)
	if err != nil {
		return err
	}
	defer base.Close()
	return errors.Join(dir.Sync(), base.Sync())
}

// limit changes the size of a volume that exists.
func (d *dirs) limit(name string, size int64) (unlimited string, err error) {
	root, err := os.OpenRoot(d.base)
	if err != nil {
		return "", fmt.Errorf("open directory for volumes: %w", err)
	}
	defer func() { _ = root.Close() }()
	dir, err := openDir(root, name)
	if err != nil {
		return "", err
	}
	defer dir.Close()
	return limit(dir, false, size)
}

// openDir opens a directory right below the base.
func openDir(root *os.Root, name string) (*os.File, error) {
	info, err := root.Lstat(name)
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("%s is no directory", filepath.Join(root.Name(), name))
	}
	if err != nil {
		return nil, fmt.Errorf("look at directory of volume: %w", err)
	}
	f, err := root.Open(name)
	if err != nil {
		return nil, fmt.Errorf("open directory of volume: %w", err)
	}
	return f, nil
}

// remove removes a volume with all that is in it. It never leaves the base: a
// symbolic link is removed, not followed.
func (d *dirs) remove(ctx context.Context, name string) error {
	root, err := os.OpenRoot(d.base)
	if err != nil {
		// Not the same as a volume that is gone: a disk may not be mounted.
		return fmt.Errorf("open directory for volumes: %w", err)
	}
	defer func() { _ = root.Close() }()
	info, err := root.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("look at directory of volume: %w", err)
	case !info.IsDir():
		return root.Remove(name)
	}
	dir, err := root.Open(name)
	if err != nil {
		return fmt.Errorf("open directory of volume: %w", err)
	}
	defer dir.Close()
	if err := empty(ctx, root, dir, name); err != nil {
		return err
	}
	// The limit goes last: as long as the directory is there it has a project.
	project, err := projectOf(dir)
	if err != nil {
		return err
	}
	if err := root.RemoveAll(name); err != nil {
		return fmt.Errorf("remove directory of volume: %w", err)
	}
	return release(dir, project)
}

// empty removes what is in a volume, and can be stopped in between.
func empty(ctx context.Context, root *os.Root, dir *os.File, name string) error {
	entries, err := dir.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("list directory of volume: %w", err)
	}
	for _, entry := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := root.RemoveAll(filepath.Join(name, entry)); err != nil {
			return fmt.Errorf("remove data of volume: %w", err)
		}
	}
	return nil
}
