package runtime

import (
	"log/slog"
	"strconv"
	"strings"
)

// parseLog turns a line of containerd's log (logrus' text format, which is
// logfmt) into a record. What is not logfmt is taken as it is: a crash prints
// plain text.
func parseLog(line string) (slog.Level, string, []slog.Attr) {
	if !strings.HasPrefix(line, "time=") {
		return slog.LevelInfo, line, nil
	}
	level, message := slog.LevelInfo, ""
	var attrs []slog.Attr
	for rest := line; rest != ""; {
		var key, value string
		key, value, rest = nextPair(rest)
		switch key {
		case "", "time":
		case "level":
			level = levelOf(value)
		case "msg":
			message = value
		default:
			attrs = append(attrs, slog.String(key, value))
		}
	}
	if message == "" {
		return slog.LevelInfo, line, nil
	}
	if noise(message) {
		level = slog.LevelDebug
	}
	return level, message, attrs
}

// noise reports messages that containerd logs at every start and for every
// container, and that say nothing a person would want in a
// year's journal.
func noise(message string) bool {
	for _, prefix := range []string{
		"loading plugin", "skip loading plugin", "starting cri plugin", "Start ", "RunPodSandbox", "StopPodSandbox",
		"CreateContainer", "StartContainer", "RemoveContainer", "StopContainer", "connecting to shim", "shim disconnected",
		"cleaning up", "received exit event", "TaskExit event", "serving...", "runtime interface starting",
		"starting plugins...", "Registering", "Container to stop", "No cni config template", "TearDown network",
		"Remove", "Ensure that sandbox", "Stop CRI", "Event monitor", "Stream server", "Connect containerd",
		"Get image filesystem path", "NRI service", "metadata content store", "Pull", "stop pulling", "Image",
		// Of no consequence: the format of drop-ins, hashes kept by the file
		// system, and a network that comes later.
		"Configuration migrated", "failed check for fsverity", "failed to load cni during init",
		"failed to reload cni configuration",
		"Forcibly stopping", "ImageCreate event", "ImageUpdate event", "received sandbox", "received container",
	} {
		if strings.HasPrefix(message, prefix) {
			return true
		}
	}
	return false
}

// nextPair splits the first key=value off s; the value may be a Go-quoted
// string.
func nextPair(s string) (key, value, rest string) {
	s = strings.TrimLeft(s, " ")
	eq := strings.IndexByte(s, '=')
	if eq < 0 {
		return "", "", ""
	}
	key, s = s[:eq], s[eq+1:]
	if quoted, err := strconv.QuotedPrefix(s); err == nil {
		if value, err = strconv.Unquote(quoted); err == nil {
			return key, value, s[len(quoted):]
		}
	}
	value, rest, _ = strings.Cut(s, " ")
	return key, value, rest
}

func levelOf(s string) slog.Level {
	switch s {
	case "trace", "debug":
		return slog.LevelDebug
	case "warning", "warn":
		return slog.LevelWarn
	case "error", "fatal", "panic":
		return slog.LevelError
	}
	return slog.LevelInfo
}
