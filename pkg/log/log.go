// Package log makes skiff's one log stream: a slog handler that writes a line
// per record, and bridges that bring the libraries' klog, logrus and standard
// log records into it. It knows no component. Start reading at New.
package log

import (
	"fmt"
	"io"
	"log/slog"
	"os"
)

// Options says what is logged and where.
type Options struct {
	Debug  bool      // records of level Debug too
	File   string    // append to this file as well; created 0640
	Writer io.Writer // default: standard error
	Recent *Recent   // given everything, too; may be nil
}

// New returns a logger and what closes its file. The logger must not be used
// after that; the Closer is never nil when the error is.
func New(o Options) (*slog.Logger, io.Closer, error) {
	w := o.Writer
	if w == nil {
		w = os.Stderr
	}
	var closer io.Closer = io.NopCloser(nil)
	if o.File != "" {
		f, err := os.OpenFile(o.File, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
		if err != nil {
			return nil, nil, fmt.Errorf("open log file: %w", err)
		}
		w, closer = both{w, f}, f
	}
	if o.Recent != nil {
		w = both{w, o.Recent}
	}
	level := slog.LevelInfo
	if o.Debug {
		level = slog.LevelDebug
	}
	return slog.New(NewHandler(w, level)), closer, nil
}

// both writes everything to two writers. Unlike io.MultiWriter it goes on when
// the first fails: a closed terminal must not empty the log file.
type both struct{ a, b io.Writer }

func (w both) Write(p []byte) (int, error) {
	n, errA := w.a.Write(p)
	if m, err := w.b.Write(p); err != nil {
		return m, err
	}
	if errA != nil {
		return n, errA
	}
	return len(p), nil
}
