package preflight

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// Free space below which a start would fail half-way: the helper executables,
// a datastore and its log need some; a run directory holds sockets only.
const (
	MinDataFree = 128 << 20
	minRunFree  = 1 << 20
	MinInodes   = 256
)

// checkDir checks that skiff can write below dir, which need not exist yet.
func (h *host) checkDir(what, dir string, minFree uint64) {
	parent, err := ExistingParent(dir)
	if err != nil {
		h.fail("%s %s cannot be used: %w", what, dir, err)
		return
	}
	var st unix.Statfs_t
	if err := unix.Statfs(parent, &st); err != nil {
		h.fail("%s %s cannot be used: %w", what, dir, &fs.PathError{Op: "statfs", Path: parent, Err: err})
		return
	}
	m := h.machine().MountOf(parent)
	free := st.Bavail * uint64(st.Bsize)
	switch {
	case st.Flags&unix.ST_RDONLY != 0:
		h.fail("%s %s is read-only: the file system %s on %s is mounted read-only; remount it with rw, or choose another directory", what, dir, m.Source, m.Point)
	case free < minFree:
		h.fail("%s %s has no room: the file system %s on %s has %d MiB free, skiff needs at least %d MiB; free some, or choose another directory", what, dir, m.Source, m.Point, free>>20, minFree>>20)
	case st.Files > 0 && st.Ffree < MinInodes:
		h.fail("%s %s has no room: the file system %s on %s has only %d inodes free; remove small files, or choose another directory", what, dir, m.Source, m.Point, st.Ffree)
	default:
		if err := unix.Access(parent, unix.W_OK|unix.X_OK); err != nil {
			h.fail("%s %s cannot be written: %w", what, dir, &fs.PathError{Op: "access", Path: parent, Err: err})
		}
	}
}

// checkExec checks that helper executables can be started below dir.
func (h *host) checkExec(what, dir string) {
	parent, err := ExistingParent(dir)
	if err != nil {
		return // checkDir has said so
	}
	var st unix.Statfs_t
	if err := unix.Statfs(parent, &st); err != nil || st.Flags&unix.ST_NOEXEC == 0 {
		return
	}
	m := h.machine().MountOf(parent)
	h.fail("%s %s is on %s, which is mounted noexec, so runc cannot be started from it; remount it with exec, or choose another directory", what, dir, m.Point)
}

// ExistingParent is dir, or the nearest directory above it that exists, with
// symbolic links resolved so that it can be found among the mounts.
func ExistingParent(dir string) (string, error) {
	for p := filepath.Clean(dir); ; p = filepath.Dir(p) {
		info, err := os.Stat(p)
		switch {
		case errors.Is(err, fs.ErrNotExist) && p != "/":
			if _, err := os.Lstat(p); err == nil {
				return "", &fs.PathError{Op: "follow link", Path: p, Err: fs.ErrNotExist}
			}
			continue
		case err != nil:
			return "", err
		case !info.IsDir():
			return "", &fs.PathError{Op: "use as directory", Path: p, Err: syscall.ENOTDIR}
		}
		return filepath.EvalSymlinks(p)
	}
}
