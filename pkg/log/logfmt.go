package log

import (
	"log/slog"
	"strconv"
	"strings"
)

// ParseLogfmt reads a line of logrus's text format, as containerd and its
// shims write it to standard error:
//
//	time="…" level=info msg="…" key=value
//
// A line of another form is the message of an Info.
func ParseLogfmt(line string) (slog.Level, string, []slog.Attr) {
	level, message := slog.LevelInfo, ""
	var attrs []slog.Attr
	rest := line
	for rest != "" {
		key, value, tail, ok := nextPair(rest)
		if !ok {
			return slog.LevelInfo, line, nil
		}
		rest = tail
		switch key {
		case "time":
		case "level":
			level = logfmtLevel(value)
		case "msg":
			message = value
		default:
			attrs = append(attrs, slog.String(key, value))
		}
	}
	if message == "" {
		return slog.LevelInfo, line, nil
	}
	return level, message, attrs
}

// nextPair cuts one key=value or key="quoted value" off the line.
func nextPair(s string) (key, value, rest string, ok bool) {
	key, rest, ok = strings.Cut(s, "=")
	if !ok || key == "" || strings.ContainsAny(key, " \t\"") {
		return "", "", "", false
	}
	if !strings.HasPrefix(rest, `"`) {
		value, rest, _ = strings.Cut(rest, " ")
		return key, value, strings.TrimLeft(rest, " "), true
	}
	quoted, err := strconv.QuotedPrefix(rest)
	if err != nil {
		return "", "", "", false
	}
	value, err = strconv.Unquote(quoted)
	if err != nil {
		return "", "", "", false
	}
	return key, value, strings.TrimLeft(rest[len(quoted):], " "), true
}

func logfmtLevel(s string) slog.Level {
	switch s {
	case "trace", "debug":
		return slog.LevelDebug
	case "warning", "warn":
		return slog.LevelWarn
	case "error", "fatal", "panic":
		return slog.LevelError
	default:
		return slog.LevelInfo
	}
}
