package runtime

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/plugins/snapshots/overlay/overlayutils"
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
