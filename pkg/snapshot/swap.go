package snapshot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"skiff/internal/atomicfile"
	"skiff/pkg/paths"
)

// Swap lets the directory paths.Layout.ServerRestored and the server's change
// places, in one step where the file system can do that, and moves the old one
// aside. It returns where the old one is, "" if there was none. Finish completes
// one that a power cut has ended.
func Swap(p paths.Layout, now time.Time) (aside string, err error) {
	server, restored := p.Server(), p.ServerRestored()
	if _, err := os.Lstat(server); errors.Is(err, fs.ErrNotExist) {
		return "", errors.Join(os.Rename(restored, server), atomicfile.SyncDir(p.Data))
	}
	aside = freeAside(p, now)
	err = unix.Renameat2(unix.AT_FDCWD, restored, unix.AT_FDCWD, server, unix.RENAME_EXCHANGE)
	if err == nil {
		return aside, errors.Join(atomicfile.SyncDir(p.Data), os.Rename(restored, aside), atomicfile.SyncDir(p.Data))
	}
	if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS) {
		return "", fmt.Errorf("exchange %s and %s: %w", server, restored, err)
	}
	// Between the two steps there is no server; Finish does the second one.
	if err := errors.Join(os.Rename(server, aside), atomicfile.SyncDir(p.Data)); err != nil {
		return "", err
	}
	return aside, errors.Join(os.Rename(restored, server), atomicfile.SyncDir(p.Data))
}

// freeAside is a name that no earlier restore has used.
func freeAside(p paths.Layout, now time.Time) string {
	for at := now.UTC(); ; at = at.Add(time.Second) {
		aside := p.ServerBeforeRestore(at.Format(stamp))
		if _, err := os.Lstat(aside); err != nil {
			return aside
		}
	}
}

// Finish completes a restore that a power cut has ended between its two last
// steps; see swap. It is called by whoever holds the lock of the data
// directory, before the server's directory is used.
func Finish(p paths.Layout) error {
	if _, err := os.Lstat(p.Server()); !errors.Is(err, fs.ErrNotExist) {
		return nil //nolint:nilerr // It is there, or the one who uses it will see why not.
	}
	err := os.Rename(p.ServerRestored(), p.Server())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("complete the restore of a snapshot: %w", err)
	}
	return atomicfile.SyncDir(p.Data)
}
