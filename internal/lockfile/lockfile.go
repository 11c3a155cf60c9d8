// Package lockfile lets one process at a time use a directory. The lock is the
// kernel's, so it goes when its holder does, however that ends. It knows
// nothing of what is protected. Start reading at Acquire.
package lockfile

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Lock is held until Release.
type Lock struct{ f *os.File }

// HeldError says that another process holds the lock.
type HeldError struct {
	Path string
	PID  int // 0 if it is not known
}

// Error names the file and the holder.
func (e *HeldError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("%s is locked by another process", e.Path)
	}
	return fmt.Sprintf("%s is locked by process %d", e.Path, e.PID)
}

// Acquire takes the lock or returns a *HeldError at once. The file is created
// when it is missing and stays when the lock is released; it holds the PID of
// the last holder. The directory must exist.
func Acquire(path string) (*Lock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock file: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		held := errors.Is(err, unix.EWOULDBLOCK)
		pid := readPID(f)
		f.Close()
		if held {
			return nil, &HeldError{Path: path, PID: pid}
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	if err := writePID(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("write PID to lock file %s: %w", path, err)
	}
	return &Lock{f: f}, nil
}

// Release gives the lock up. It is called once.
func (l *Lock) Release() error { return l.f.Close() }

func writePID(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}

// readPID returns 0 where the file does not say: it only serves a message.
func readPID(f *os.File) int {
	buf := make([]byte, 32)
	n, _ := f.ReadAt(buf, 0)
	pid, err := strconv.Atoi(string(bytes.TrimSpace(buf[:n])))
	if err != nil {
		return 0
	}
	return pid
}

// Holder returns the PID of the process that holds a lock, or 0 if none does.
// It does not touch the lock, not even for a moment: whoever starts just then
// would be refused.
func Holder(path string) (int, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read lock file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, fmt.Errorf("read lock file: %w", err)
	}
	locks, err := os.ReadFile("/proc/locks")
	if err != nil {
		return 0, fmt.Errorf("list locks: %w", err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	for line := range strings.Lines(string(locks)) {
		// proc_locks(5): number, FLOCK, ADVISORY, WRITE, PID, device:inode, …
		fields := strings.Fields(line)
		if !ok || len(fields) < 6 || fields[1] != "FLOCK" || fields[3] != "WRITE" {
			continue
		}
		if strings.HasSuffix(fields[5], ":"+strconv.FormatUint(st.Ino, 10)) {
			return readPID(f), nil
		}
	}
	return 0, nil
}
