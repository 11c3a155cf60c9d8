package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"skiff/internal/atomicfile"
	"skiff/pkg/status"
)

const (
	// keepPreUpgrade is how many snapshots from before upgrades are kept.
	keepPreUpgrade = 3
	// justNow is how old a snapshot may be that an upgrade has made before it
	// started this version. Another one would only wear the disk.
	justNow = 10 * time.Minute
)

// BeforeUpgrade makes a snapshot if the data was last used by another version
// of skiff, and notes that this one uses it now. It is called before anything
// of the server's is opened. That no snapshot could be made is a warning and no
// error: a server that does not start is the greater harm.
func BeforeUpgrade(ctx context.Context, src Source, dir string, notes status.Notes, logger *slog.Logger) error {
	file := src.Paths.ServerVersion()
	text, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read which skiff used the data last: %w", err)
	}
	last := strings.TrimSpace(string(text))
	if last == src.Version {
		return nil
	}
	if _, err := os.Stat(src.Database); err == nil {
		if last == "" {
			last = "unknown"
		}
		if !madeJustNow(dir, last, time.Now()) {
			preUpgrade(ctx, src, dir, last, notes, logger)
		}
		if _, err := Prune(dir, PreUpgrade, keepPreUpgrade, time.Now()); err != nil {
			logger.Warn("old snapshots could not be removed", "error", err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return fmt.Errorf("make directory of the server: %w", err)
	}
	if err := atomicfile.Write(file, []byte(src.Version+"\n"), 0o600); err != nil {
		return fmt.Errorf("note which skiff uses the data: %w", err)
	}
	return nil
}

// madeJustNow reports whether there is such a snapshot already.
func madeJustNow(dir, version string, now time.Time) bool {
	list, err := List(dir)
	return err == nil && slices.ContainsFunc(list, func(i Info) bool {
		age := now.Sub(i.Time)
		return i.Kind == PreUpgrade && i.Version == version && i.Problem == "" && age > -time.Second && age < justNow
	})
}

func preUpgrade(ctx context.Context, src Source, dir, last string, notes status.Notes, logger *slog.Logger) {
	logger.Info("the data was last used by another version of skiff, making a snapshot", "last", last, "version", src.Version)
	before := src
	before.Version = last
	info, err := Save(ctx, before, dir, PreUpgrade+"-"+fileWord(last))
	if err != nil {
		logger.Warn("no snapshot was made before the upgrade", "error", err)
		notes.Set(noteKey, "before the upgrade from "+last+" no snapshot was made: "+err.Error())
		return
	}
	logger.Info("snapshot made", "file", info.Path, "size", info.Size)
}

// fileWord makes a version fit for a file's name.
func fileWord(version string) string {
	return strings.Map(func(r rune) rune {
		if r == filepath.Separator || r <= ' ' {
			return '_'
		}
		return r
	}, version)
}
