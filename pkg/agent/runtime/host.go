package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/plugins/snapshots/overlay/overlayutils"
	"github.com/fsnotify/fsnotify"
)

// chooseSnapshotter resolves "auto": overlayfs where the file system of root
// can hold its layers, else native, which copies every layer in full.
func chooseSnapshotter(asked, root string, logger *slog.Logger) (string, error) {
	if asked != "auto" && asked != "" {
		return asked, nil
	}
	// What was chosen once stays: images are unpacked for one snapshotter.
	if _, err := os.Stat(filepath.Join(root, "io.containerd.snapshotter.v1.overlayfs", "snapshots")); err == nil {
		return "overlayfs", nil
	}
	err := overlayutils.Supported(root)
	if err == nil {
		return "overlayfs", nil
	}
	if errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0 {
		return "", fmt.Errorf("choose snapshotter: %w", err)
	}
	logger.Warn("overlayfs does not work here; images will be copied for every container", "dir", root, "error", err)
	return "native", nil
}

// watchFile sends when file has been written, replaced or removed, until ctx
// ends. The file need not exist; if its directory does not either, nothing is
// watched and nothing is ever sent.
func watchFile(ctx context.Context, file string, logger *slog.Logger) (<-chan struct{}, error) {
	changed := make(chan struct{}, 1)
	if file == "" {
		return changed, nil
	}
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", file, err)
	}
	if err := w.Add(filepath.Dir(file)); err != nil {
		logger.Debug("registry configuration is not watched", "file", file, "error", err)
		return changed, errors.Join(w.Close())
	}
	// The watcher's goroutine ends with ctx: closing the watcher closes its
	// channels.
	stop := context.AfterFunc(ctx, func() {
		if err := w.Close(); err != nil {
			logger.Debug("close file watch", "file", file, "error", err)
		}
	})
	go func() {
		defer stop()
		for {
			select {
			case e, ok := <-w.Events:
				if !ok {
					return
				}
				if filepath.Clean(e.Name) != filepath.Clean(file) || e.Op == fsnotify.Chmod {
					continue
				}
			case err, ok := <-w.Errors:
				if !ok {
					return
				}
				logger.Debug("watch registry configuration", "error", err)
			}
			select {
			case changed <- struct{}{}:
			default:
			}
		}
	}()
	return changed, nil
}
