package sqlite

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// keepFree is what new keys leave free on the disk, in bytes, or a share
	// of it (one of keepShare parts) if that is less.
	keepFree  = 64 << 20
	keepShare = 20
	// reserveSize is the size of the file that is given up when the disk is
	// full all the same, so that keys can still be removed and leases renewed.
	reserveSize  = 16 << 20
	reserveShare = 50
)

// guard keeps the disk from running full. It asks the file system each time,
// which costs less than the write it guards.
type guard struct {
	dir     string
	reserve string // the file's path, "" if there is none
	logger  *slog.Logger
	low     atomic.Bool // has been logged
	spent   atomic.Bool // there is no reserve, for lack of space
}

func newGuard(f file) *guard {
	g := &guard{dir: filepath.Dir(f.path), logger: f.logger}
	if !f.disposable {
		g.reserve = f.path + ".reserve"
	}
	return g
}

// space is what the file system has.
type space struct{ free, keep, reserve int64 }

func (g *guard) look() (space, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(g.dir, &st); err != nil {
		return space{}, fmt.Errorf("look at free space of %s: %w", g.dir, err)
	}
	total := int64(st.Blocks) * st.Bsize
	return space{
		free:    int64(st.Bavail) * st.Bsize,
		keep:    min(keepFree, total/keepShare),
		reserve: min(reserveSize, total/reserveShare),
	}, nil
}

// admit refuses a new key while the disk is nearly full. Changes and removals
// of keys are admitted as long as they can be written.
func (g *guard) admit() error {
	sp, err := g.look()
	if err != nil || sp.free >= sp.keep {
		if err == nil && g.low.CompareAndSwap(true, false) {
			g.logger.Info("the disk of the datastore has space again", "directory", g.dir, "free", megabytes(sp.free))
		}
		return nil // What cannot be seen is no reason to refuse.
	}
	if g.low.CompareAndSwap(false, true) {
		g.logger.Error("the disk of the datastore is nearly full: nothing new is stored until there is space; removing works",
			"directory", g.dir, "free", megabytes(sp.free), "needed", megabytes(sp.keep))
	}
	return status.Error(codes.ResourceExhausted, fmt.Sprintf(
		"the disk of the datastore is nearly full: %s has %s free and needs %s; remove files or objects, nothing new is stored until then",
		g.dir, megabytes(sp.free), megabytes(sp.keep)))
}

// full is the error of a write that the disk had no space for.
func (g *guard) full(cause error) error {
	free := "an unknown amount"
	if sp, err := g.look(); err == nil {
		free = megabytes(sp.free)
	}
	return status.Error(codes.ResourceExhausted, fmt.Sprintf(
		"the disk of the datastore is full: %s has %s free; remove files there: %v", g.dir, free, cause))
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }

// release gives up the reserve. It reports whether there was one.
func (g *guard) release() bool {
	if g.reserve == "" {
		return false
	}
	if err := os.Remove(g.reserve); err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			g.logger.Warn("the space that was kept in reserve for the datastore cannot be given up", "error", err)
		}
		return false
	}
	g.spent.Store(true)
	g.logger.Error("the disk of the datastore is full; the space kept in reserve is used now", "directory", g.dir)
	return true
}

// restore makes the reserve if it is missing and there is space for it.
func (g *guard) restore() {
	if g.reserve == "" {
		return
	}
	if _, err := os.Stat(g.reserve); err == nil {
		return
	}
	sp, err := g.look()
	if err != nil {
		return
	}
	g.spent.Store(sp.free < sp.keep+2*sp.reserve)
	if g.spent.Load() {
		return
	}
	if err := allocate(g.reserve, sp.reserve); err != nil {
		g.logger.Warn("no space could be kept in reserve for the datastore", "file", filepath.Base(g.reserve), "error", err)
	}
}

func allocate(path string, size int64) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			err = errors.Join(err, os.Remove(path))
		}
	}()
	return unix.Fallocate(int(f.Fd()), 0, 0, size)
}
