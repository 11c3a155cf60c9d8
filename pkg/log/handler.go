package log

import (
	"context"
	"encoding"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
)

// ComponentKey is the attribute that names the part of skiff a record is from;
// the handler prints it before the message.
const ComponentKey = "component"

// timeFormat is RFC 3339 in local time with milliseconds.
const timeFormat = "2006-01-02T15:04:05.000Z07:00"

// handler writes "time LEVEL component message key=value …", one line a record.
type handler struct {
	level slog.Leveler
	out   *output

	component string
	prefix    string // of the open groups, "a.b."
	attrs     []byte // preformatted, each with a leading space
}

// output is shared by all handlers derived from one.
type output struct {
	mu sync.Mutex
	w  io.Writer
}

var _ slog.Handler = (*handler)(nil)

// NewHandler returns a handler that writes records of at least the given level
// to w, each with one call of Write.
func NewHandler(w io.Writer, level slog.Leveler) slog.Handler {
	return &handler{level: level, out: &output{w: w}}
}

func (h *handler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level.Level() }

func (h *handler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	c := *h
	c.prefix += name + "."
	return &c
}

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *h
	c.attrs = append([]byte(nil), h.attrs...)
	for _, a := range attrs {
		c.add(a)
	}
	return &c
}

// add puts an attribute into the preformatted part.
func (h *handler) add(a slog.Attr) {
	if name, ok := componentAttr(a); ok && h.prefix == "" {
		h.component = name
		return
	}
	h.attrs = appendAttr(h.attrs, h.prefix, a)
}

func (h *handler) Handle(_ context.Context, r slog.Record) error {
	component := h.component
	var own []byte
	r.Attrs(func(a slog.Attr) bool {
		if name, ok := componentAttr(a); ok && h.prefix == "" {
			component = name
			return true
		}
		own = appendAttr(own, h.prefix, a)
		return true
	})
	if component == "" {
		component = "skiff"
	}
	t := r.Time
	if t.IsZero() {
		t = time.Now()
	}

	line := make([]byte, 0, 128+len(h.attrs)+len(own))
	line = t.AppendFormat(line, timeFormat)
	line = append(line, ' ')
	line = appendLevel(line, r.Level)
	line = append(line, ' ')
	line = append(line, component...)
	line = append(line, ": "...)
	line = append(line, oneLine(r.Message)...)
	line = append(line, h.attrs...)
	line = append(line, own...)
	line = append(line, '\n')

	h.out.mu.Lock()
	defer h.out.mu.Unlock()
	_, err := h.out.w.Write(line)
	return err
}

func componentAttr(a slog.Attr) (string, bool) {
	if a.Key != ComponentKey || a.Value.Kind() != slog.KindString {
		return "", false
	}
	return a.Value.String(), true
}

func appendLevel(b []byte, l slog.Level) []byte {
	switch {
	case l < slog.LevelInfo:
		return append(b, "DEBUG"...)
	case l < slog.LevelWarn:
		return append(b, "INFO "...)
	case l < slog.LevelError:
		return append(b, "WARN "...)
	default:
		return append(b, "ERROR"...)
	}
}

func appendAttr(b []byte, prefix string, a slog.Attr) []byte {
	v := a.Value.Resolve()
	if v.Kind() == slog.KindGroup {
		// A value that is a group to slog but can also say itself in a word,
		// like klog's object references, does that.
		if word, ok := a.Value.Any().(fmt.Stringer); ok && a.Key != "" {
			return appendAttr(b, prefix, slog.String(a.Key, anyText(word)))
		}
		if a.Key != "" {
			prefix += a.Key + "."
		}
		for _, member := range v.Group() {
			b = appendAttr(b, prefix, member)
		}
		return b
	}
	if a.Key == "" && v.Any() == nil {
		return b
	}
	b = append(b, ' ')
	b = append(b, oneLine(prefix+a.Key)...)
	b = append(b, '=')
	return appendValue(b, v)
}

func appendValue(b []byte, v slog.Value) []byte {
	switch v.Kind() {
	case slog.KindString:
		return appendText(b, v.String())
	case slog.KindTime:
		return v.Time().AppendFormat(b, timeFormat)
	case slog.KindAny:
		return appendText(b, anyText(v.Any()))
	default:
		return append(b, v.String()...)
	}
}

// anyText never panics: a String method of a nil pointer is common in klog
// records, and a log line must not end the process.
func anyText(v any) (s string) {
	defer func() {
		if r := recover(); r != nil {
			s = fmt.Sprintf("!panic: %v", r)
		}
	}()
	switch v := v.(type) {
	case error:
		return v.Error()
	case fmt.Stringer:
		return v.String()
	case encoding.TextMarshaler:
		text, err := v.MarshalText()
		if err == nil {
			return string(text)
		}
	case *slog.Source:
		return v.File + ":" + strconv.Itoa(v.Line)
	case runtime.Frame:
		return v.Function
	}
	return fmt.Sprintf("%+v", v)
}

// appendText quotes what would not read as one word.
func appendText(b []byte, s string) []byte {
	if s == "" || !utf8.ValidString(s) || strings.ContainsFunc(s, needsQuote) {
		return strconv.AppendQuote(b, s)
	}
	return append(b, s...)
}

func needsQuote(r rune) bool {
	return r <= ' ' || r == '"' || r == '=' || r == '\\' || !unicode.IsPrint(r)
}

// oneLine keeps a message readable but on its line.
func oneLine(s string) string {
	s = strings.TrimRight(s, "\r\n\t ")
	if utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl) {
		return s
	}
	q := strconv.Quote(s)
	return strings.ReplaceAll(q[1:len(q)-1], `\"`, `"`)
}
