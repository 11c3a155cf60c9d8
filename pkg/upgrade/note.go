package upgrade

import (
	"context"
	"log/slog"

	"skiff/internal/filewatch"
	"skiff/pkg/status"
)

// noteKey is the note's in `skiff status`.
const noteKey = "upgrade"

// Announce has `skiff status` say what is going on, and what went wrong the last
// time. It returns when the upgrade is over, which mostly is at once.
func Announce(ctx context.Context, dir Dir, notes status.Notes, logger *slog.Logger) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	tell := func() (over bool) {
		s, err := dir.Read()
		if err != nil {
			logger.Warn("it is not known how the last upgrade went", "error", err)
			return true
		}
		if note := s.Note(); note != "" {
			notes.Set(noteKey, note)
		} else {
			notes.Clear(noteKey)
		}
		return s.Phase.Ended()
	}
	if tell() {
		return
	}
	filewatch.Run(ctx, []string{dir.stateFile()}, logger, func() {
		if tell() {
			cancel()
		}
	})
}
