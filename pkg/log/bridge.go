package log

import (
	"context"
	"io"
	stdlog "log"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
)

// BridgeLogrus sends what libraries log through logrus's standard logger
// (containerd's packages do) to l. It is called once, before anything logs.
func BridgeLogrus(l *slog.Logger) {
	logrus.SetOutput(io.Discard)
	logrus.SetFormatter(noFormat{}) // Formatting for io.Discard would be wasted.
	logrus.SetLevel(logrus.InfoLevel)
	if l.Enabled(context.Background(), slog.LevelDebug) {
		logrus.SetLevel(logrus.DebugLevel)
	}
	logrus.StandardLogger().ReplaceHooks(make(logrus.LevelHooks))
	logrus.AddHook(&logrusHook{next: l.Handler()})
}

type noFormat struct{}

func (noFormat) Format(*logrus.Entry) ([]byte, error) { return nil, nil }

type logrusHook struct{ next slog.Handler }

var _ logrus.Hook = (*logrusHook)(nil)

func (*logrusHook) Levels() []logrus.Level { return logrus.AllLevels }

func (h *logrusHook) Fire(e *logrus.Entry) error {
	ctx := context.Background()
	level := logrusLevel(e.Level)
	if !h.next.Enabled(ctx, level) {
		return nil
	}
	r := slog.NewRecord(e.Time, level, e.Message, 0)
	keys := make([]string, 0, len(e.Data))
	for k := range e.Data {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		r.AddAttrs(slog.Any(k, e.Data[k]))
	}
	return h.next.Handle(ctx, r)
}

func logrusLevel(l logrus.Level) slog.Level {
	switch l {
	case logrus.PanicLevel, logrus.FatalLevel, logrus.ErrorLevel:
		return slog.LevelError
	case logrus.WarnLevel:
		return slog.LevelWarn
	case logrus.InfoLevel:
		return slog.LevelInfo
	default:
		return slog.LevelDebug
	}
}

// BridgeStandard sends what libraries log through the standard package log to
// l: net/http's server errors, and CoreDNS, whose lines begin with "[INFO] "
// and the like. It is called once.
func BridgeStandard(l *slog.Logger) {
	stdlog.SetFlags(0)
	stdlog.SetPrefix("")
	stdlog.SetOutput(&Writer{Handler: l.Handler(), Parse: ParseBracketed})
}

// Writer turns each Write, without its line break, into a record. It serves
// libraries that only know an io.Writer and write whole lines.
type Writer struct {
	Handler slog.Handler
	// Parse tells level, message and attributes of a line; nil means all of
	// the line is the message of an Info.
	Parse func(line string) (slog.Level, string, []slog.Attr)
}

// Write logs p and always reports all of it written.
func (w *Writer) Write(p []byte) (int, error) {
	level, message, attrs := slog.LevelInfo, strings.TrimSpace(string(p)), []slog.Attr(nil)
	if w.Parse != nil {
		level, message, attrs = w.Parse(message)
	}
	ctx := context.Background()
	if message == "" || !w.Handler.Enabled(ctx, level) {
		return len(p), nil
	}
	r := slog.NewRecord(time.Now(), level, message, 0)
	r.AddAttrs(attrs...)
	return len(p), w.Handler.Handle(ctx, r)
}

// ParseBracketed reads "[ERROR] plugin/errors: …". A line without a level is an
// Info.
func ParseBracketed(line string) (slog.Level, string, []slog.Attr) {
	for _, b := range bracketed {
		if rest, ok := strings.CutPrefix(line, b.prefix); ok {
			return b.level, strings.TrimSpace(rest), nil
		}
	}
	return slog.LevelInfo, line, nil
}

var bracketed = []struct {
	prefix string
	level  slog.Level
}{
	{"[DEBUG]", slog.LevelDebug},
	{"[INFO]", slog.LevelInfo},
	{"[WARNING]", slog.LevelWarn},
	{"[ERROR]", slog.LevelError},
	{"[FATAL]", slog.LevelError},
	{"[PANIC]", slog.LevelError},
}
