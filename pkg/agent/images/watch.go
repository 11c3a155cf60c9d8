package images

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

// settle is how long a file must not have changed before it is read: there is
// no portable event for "the writer is done".
const settle = time.Second

// watch hands out the files of a directory once they hold still.
type watch struct {
	dir     string
	fs      *fsnotify.Watcher
	pending map[string]*candidate
}

type candidate struct {
	size int64
	due  time.Time
}

func newWatch(dir string) (*watch, error) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch images directory: %w", err)
	}
	if err := w.Add(dir); err != nil {
		return nil, errors.Join(fmt.Errorf("watch images directory: %w", err), w.Close())
	}
	return &watch{dir: dir, fs: w, pending: map[string]*candidate{}}, nil
}

// all touches every file in the directory.
func (w *watch) all() error {
	entries, err := os.ReadDir(w.dir)
	if err != nil {
		return fmt.Errorf("read images directory: %w", err)
	}
	for _, e := range entries {
		w.touch(filepath.Join(w.dir, e.Name()), true)
	}
	return nil
}

func (w *watch) close() {
	_ = w.fs.Close() // Nothing can be lost.
}

// touch notes that a file has changed. now says that it is as it was at start,
// so there is nothing to wait for.
func (w *watch) touch(path string, now bool) {
	if strings.HasPrefix(filepath.Base(path), ".") {
		return // A temporary file, to be renamed.
	}
	c := &candidate{size: sizeOf(path), due: time.Now()}
	if !now {
		c.due = c.due.Add(settle)
	}
	w.pending[path] = c
}

// next waits for a file that holds still. The error is ctx's, or that of a
// broken watch.
func (w *watch) next(ctx context.Context) (string, error) {
	for {
		path, wait := w.first(time.Now())
		if path != "" && wait <= 0 {
			if size := sizeOf(path); size != w.pending[path].size {
				w.touch(path, false)
				continue
			}
			delete(w.pending, path)
			return path, nil
		}
		if path == "" {
			wait = time.Hour
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return "", ctx.Err()
		case e, ok := <-w.fs.Events:
			timer.Stop()
			if !ok {
				return "", errors.New("the watch of the images directory ended")
			}
			if e.Op != fsnotify.Chmod {
				w.touch(e.Name, false)
			}
		case err, ok := <-w.fs.Errors:
			timer.Stop()
			if !ok {
				return "", errors.New("the watch of the images directory ended")
			}
			if !errors.Is(err, fsnotify.ErrEventOverflow) {
				return "", fmt.Errorf("watch images directory: %w", err)
			}
			// Events were lost during a long import: look at everything.
			if err := w.all(); err != nil {
				return "", err
			}
		case <-timer.C:
		}
	}
}

// first returns the file that is due first, and how long that is from now.
func (w *watch) first(now time.Time) (path string, wait time.Duration) {
	for p, c := range w.pending {
		d := c.due.Sub(now)
		if path == "" || d < wait || d == wait && p < path {
			path, wait = p, d
		}
	}
	return path, wait
}

func sizeOf(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return -1
	}
	return info.Size()
}
