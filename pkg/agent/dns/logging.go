package dns

import (
	"bytes"
	"context"
	"io"
	"log"
	"log/slog"
	"strings"
)

// redirectLog sends what CoreDNS and caddy write through the standard log
// package, of which there is one per process, to logger. Lines of others go
// where they went before. Calling it again changes nothing.
func redirectLog(logger *slog.Logger) {
	if _, ok := log.Writer().(*logWriter); ok {
		return
	}
	log.SetOutput(&logWriter{logger: logger, next: log.Writer()})
}

// logWriter reads the level that CoreDNS writes in brackets.
type logWriter struct {
	logger *slog.Logger
	next   io.Writer
}

// levels are CoreDNS' and caddy's. What CoreDNS calls information is about
// watches and restarts: detail, for us.
var levels = map[string]slog.Level{
	"[DEBUG] ": slog.LevelDebug, "[INFO] ": slog.LevelDebug, "[WARNING] ": slog.LevelWarn,
	"[ERROR] ": slog.LevelError, "[FATAL] ": slog.LevelError, "[PANIC] ": slog.LevelError,
}

// Write implements io.Writer.
func (w *logWriter) Write(p []byte) (int, error) {
	line := string(bytes.TrimRight(p, "\n"))
	for prefix, level := range levels {
		// A time stamp may stand before it.
		if i := strings.Index(line, prefix); i >= 0 && i < 30 {
			w.logger.Log(context.Background(), level, strings.TrimSpace(line[i+len(prefix):])) //nolint:sloglint // the message is CoreDNS' own
			return len(p), nil
		}
	}
	return w.next.Write(p)
}
