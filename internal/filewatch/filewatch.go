// Package filewatch says when files of the host may have changed: those that
// exist, those that do not yet, and those behind symbolic links. It holds no
// lock and polls nothing. Start reading at Run.
package filewatch

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"

	"skiff/internal/pause"
)

// again is how long a broken watch waits before it is set up anew.
const again = time.Minute

// Run calls changed when one of the files may have changed, until ctx ends. It
// does so once when it begins to watch, too: what happened before is not lost.
func Run(ctx context.Context, files []string, logger *slog.Logger, changed func()) {
	for ctx.Err() == nil {
		if err := watch(ctx, files, changed); err != nil {
			logger.Warn("changes of files are not seen for a while", "files", files, "error", err)
			pause.For(ctx, again)
		}
	}
}

// watch returns nil when ctx ends or other directories must be watched. The
// directories are watched and not the files, which come, go and are replaced.
func watch(ctx context.Context, files []string, changed func()) (err error) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	paths := names(files)
	watched := false
	for _, n := range paths {
		if err := w.Add(filepath.Dir(n)); err == nil {
			watched = true
		}
	}
	if !watched {
		return errors.New("none of their directories can be watched")
	}
	changed()
	if !slices.Equal(paths, names(files)) {
		return nil // They have moved meanwhile.
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-w.Errors:
			return err
		case e := <-w.Events:
			if e.Op == fsnotify.Chmod || !slices.ContainsFunc(paths, func(n string) bool { return strings.HasPrefix(n, e.Name) }) {
				continue
			}
			changed()
			if !slices.Equal(paths, names(files)) {
				return nil // A link leads elsewhere, or a directory has come.
			}
		}
	}
}

// names are the paths whose change matters: the files and what they link to. A
// directory that does not exist is replaced by its nearest parent that does.
func names(files []string) []string {
	var out []string
	for _, f := range files {
		if f == "" {
			continue
		}
		out = append(out, nearest(f))
		if real, err := filepath.EvalSymlinks(f); err == nil && real != f {
			out = append(out, real)
		}
	}
	return out
}

// nearest is the longest leading part of f whose directory exists.
func nearest(f string) string {
	for {
		dir := filepath.Dir(f)
		if _, err := os.Stat(dir); err == nil || dir == f {
			return f
		}
		f = dir
	}
}
