package deploy

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"

	"skiff/internal/pause"
)

// watchTree calls changed when something in or below dir may have changed, until
// ctx ends. The directory may go and come back.
func watchTree(ctx context.Context, dir string, changed func(), logger *slog.Logger) {
	for ctx.Err() == nil {
		err := watchTreeOnce(ctx, dir, changed)
		if err == nil || ctx.Err() != nil {
			continue
		}
		logger.Warn("changes of manifests are seen late", "error", err)
		if pause.For(ctx, 15*time.Second) {
			changed()
		}
	}
}

func watchTreeOnce(ctx context.Context, dir string, changed func()) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	defer w.Close()
	// The parent sees the directory itself come and go.
	if err := w.Add(filepath.Dir(dir)); err != nil {
		return err
	}
	watched := map[string]bool{}
	add := func() {
		// An error means that something went away, which is an event of its own.
		_ = walk(dir, func(path string, isDir bool) {
			if isDir && !watched[path] {
				watched[path] = w.Add(path) == nil
			}
		})
	}
	add()
	changed() // What happened before the watch.
	for {
		select {
		case <-ctx.Done():
			return nil
		case err, ok := <-w.Errors:
			if errors.Is(err, fsnotify.ErrEventOverflow) {
				changed()
				continue
			}
			if !ok {
				return errors.New("watch ended")
			}
			return err
		case ev, ok := <-w.Events:
			if !ok {
				return errors.New("watch ended")
			}
			if !concerns(ev.Name, dir) {
				continue
			}
			if ev.Has(fsnotify.Remove) || ev.Has(fsnotify.Rename) {
				delete(watched, ev.Name)
				if ev.Name == dir {
					clear(watched)
				}
			}
			if ev.Has(fsnotify.Create) {
				add()
			}
			changed()
		}
	}
}

// concerns reports whether name is dir or, by name, not a sibling of it.
func concerns(name, dir string) bool {
	return name == dir || filepath.Dir(name) != filepath.Dir(dir)
}
