package log

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	stdlog "log"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"
	"k8s.io/klog/v2"
)

// lines returns what was logged without the times, whose form it checks.
func lines(t *testing.T, b *bytes.Buffer) []string {
	t.Helper()
	var all []string
	for l := range strings.Lines(b.String()) {
		stamp, rest, _ := strings.Cut(strings.TrimSuffix(l, "\n"), " ")
		if _, err := time.Parse(timeFormat, stamp); err != nil {
			t.Errorf("line %q: %v", l, err)
		}
		all = append(all, rest)
	}
	b.Reset()
	return all
}

func wantLines(t *testing.T, b *bytes.Buffer, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, lines(t, b)); diff != "" {
		t.Errorf("lines -want +got:\n%s", diff)
	}
}

func logTo(t *testing.T, b *bytes.Buffer, debug bool) *slog.Logger {
	t.Helper()
	l, closer, err := New(Options{Writer: b, Debug: debug})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := closer.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

type nilStringer struct{ s string }

func (n *nilStringer) String() string { return n.s }

func TestHandler(t *testing.T) {
	var b bytes.Buffer
	l := logTo(t, &b, false)
	k := l.With("component", "kubelet")
	tests := []struct {
		name string
		log  func()
		want string
	}{
		{"plain", func() { l.Info("hello") }, `INFO  skiff: hello`},
		{"component", func() { k.Warn("hello", "n", 1) }, `WARN  kubelet: hello n=1`},
		{"component of the record wins", func() { k.Error("x", "component", "cni") }, `ERROR cni: x`},
		{"quoting", func() { l.Info("x", "a", "b c", "d", "", "e", "f=g", "h", "i") }, `INFO  skiff: x a="b c" d="" e="f=g" h=i`},
		{"error of two lines", func() { l.Info("x", "err", errors.New("a\nb")) }, `INFO  skiff: x err="a\nb"`},
		{"message of two lines", func() { l.Info("a \"b\"\nc\n") }, `INFO  skiff: a "b"\nc`},
		{"kinds", func() { l.Info("x", "d", time.Second, "t", true, "ip", netip.MustParseAddr("::1"), "l", []string{"a"}) }, `INFO  skiff: x d=1s t=true ip=::1 l=[a]`},
		{"groups", func() { l.WithGroup("g").With("a", 1).Info("x", slog.Group("h", "b", 2)) }, `INFO  skiff: x g.a=1 g.h.b=2`},
		{"nil pointer", func() { l.Info("x", "p", (*nilStringer)(nil)) }, `INFO  skiff: x p="!panic: runtime error: invalid memory address or nil pointer dereference"`},
		{"secret", func() { l.Info("x", "token", Secret("hunter2")) }, `INFO  skiff: x token=[redacted]`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.log()
			wantLines(t, &b, tt.want)
		})
	}
	l.Debug("not shown")
	wantLines(t, &b)
	logTo(t, &b, true).Debug("shown")
	wantLines(t, &b, "DEBUG skiff: shown")
}

func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "skiff.log")
	if err := os.WriteFile(path, []byte("old\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	l, closer, err := New(Options{Writer: &b, File: path})
	if err != nil {
		t.Fatal(err)
	}
	l.Info("hello")
	if err := closer.Close(); err != nil {
		t.Error(err)
	}
	got, err := os.ReadFile(path)
	if err != nil || string(got) != "old\n"+b.String() {
		t.Errorf("file holds %q, %v, want the old line and %q", got, err, b.String())
	}
	if _, _, err := New(Options{File: filepath.Join(path, "below a file")}); err == nil {
		t.Error("an impossible file is no error")
	}
}

func TestSecret(t *testing.T) {
	s := Secret("hunter2")
	text, err := json.Marshal(map[string]any{"k": s, "l": []Secret{s}})
	if err != nil {
		t.Fatal(err)
	}
	shown := fmt.Sprintf("%v %+v %#v %s %q %x %d %v %v", s, s, s, s, s, s, s, &s, struct{ S Secret }{s}) + string(text)
	for _, leak := range []string{"hunter2", fmt.Sprintf("%x", "hunter2")} {
		if strings.Contains(shown, leak) {
			t.Errorf("the secret shows in %s", shown)
		}
	}
	if string(s) != "hunter2" {
		t.Error("the secret cannot be had at all")
	}
}

func TestKlog(t *testing.T) {
	t.Cleanup(klog.ClearLogger)
	var b bytes.Buffer
	BridgeKlog(logTo(t, &b, false), 2, nil)
	klog.Info("plain")
	klog.Warningf("warning %d", 1)
	klog.Errorf("two\nlines")
	klog.InfoS("structured", "pod", klog.KRef("ns", "name"))
	klog.ErrorS(errors.New("broken"), "failed")
	klog.V(2).Info("seen")
	klog.V(3).Info("not seen")
	klog.V(2).InfoS("seen too", "a", 1)
	ctx := klog.NewContext(t.Context(), klog.LoggerWithValues(klog.Background(), "x", "y"))
	klog.FromContext(ctx).V(1).Info("contextual")
	klog.FromContext(ctx).V(5).Info("not seen")
	wantLines(t, &b,
		"INFO  skiff: plain",
		"INFO  skiff: warning 1",
		`WARN  skiff: two\nlines`,
		"INFO  skiff: structured pod=ns/name",
		"WARN  skiff: failed err=broken",
		"DEBUG skiff: seen",
		"DEBUG skiff: seen too a=1",
		"DEBUG skiff: contextual x=y",
	)
}

func TestKlogQuiet(t *testing.T) {
	t.Cleanup(klog.ClearLogger)
	var b bytes.Buffer
	stopping := false
	BridgeKlog(logTo(t, &b, false), 0, func() bool { return stopping })
	klog.Info("not seen")
	klog.InfoS("not seen")
	klog.Warning("not seen")
	klog.Error("seen")
	klog.ErrorS(errors.New("broken"), "seen too")
	klog.Error("not seen: ", Expected)
	klog.ErrorS(errors.New("post: "+Expected), "not seen")
	stopping = true
	klog.Error("not seen")
	klog.ErrorS(errors.New("broken"), "not seen")
	wantLines(t, &b, "WARN  skiff: seen", "WARN  skiff: seen too err=broken")
}

func TestParseKlogLine(t *testing.T) {
	tests := []struct {
		line, message string
		level         slog.Level
	}{
		{"W0102 15:04:05.000000    1234 file.go:12] careful\n", "careful", slog.LevelWarn},
		{"E0102 15:04:05.000000    1234 file.go:12] map[a] b\n", "map[a] b", slog.LevelError},
		{"F0102 15:04:05.000000    1234 file.go:12] end\n", "end", levelFatal},
		{"no header\n", "no header", slog.LevelInfo},
		{"list [a] b", "list [a] b", slog.LevelInfo},
		{"", "", slog.LevelInfo},
	}
	for _, tt := range tests {
		level, message := parseKlogLine([]byte(tt.line))
		if level != tt.level || message != tt.message {
			t.Errorf("%q: %v %q, want %v %q", tt.line, level, message, tt.level, tt.message)
		}
	}
}

func TestLogrus(t *testing.T) {
	var b bytes.Buffer
	BridgeLogrus(logTo(t, &b, false))
	t.Cleanup(func() { logrus.StandardLogger().ReplaceHooks(make(logrus.LevelHooks)) })
	logrus.WithError(errors.New("x y")).WithField("component", "cni").Warn("careful")
	logrus.Error("bad")
	logrus.Debug("not seen")
	wantLines(t, &b, `WARN  cni: careful error="x y"`, "ERROR skiff: bad")
	BridgeLogrus(logTo(t, &b, true))
	logrus.Debug("seen once")
	wantLines(t, &b, "DEBUG skiff: seen once")
}

func TestStandard(t *testing.T) {
	out, flags := stdlog.Writer(), stdlog.Flags()
	t.Cleanup(func() { stdlog.SetOutput(out); stdlog.SetFlags(flags) })
	var b bytes.Buffer
	BridgeStandard(logTo(t, &b, false))
	stdlog.Print("[ERROR] plugin/errors: 2 no")
	stdlog.Print("[DEBUG] not seen")
	stdlog.Print("http: TLS handshake error\n")
	wantLines(t, &b, "ERROR skiff: plugin/errors: 2 no", "INFO  skiff: http: TLS handshake error")
}

func TestParseLogfmt(t *testing.T) {
	tests := []struct {
		line, message string
		level         slog.Level
		attrs         []slog.Attr
	}{
		{
			`time="2026-01-02T15:04:05Z" level=warning msg="a \"b\"" error="x y" n=1`, `a "b"`, slog.LevelWarn,
			[]slog.Attr{slog.String("error", "x y"), slog.String("n", "1")},
		},
		{`level=debug msg=short`, "short", slog.LevelDebug, nil},
		{`level=error msg="cut off`, `level=error msg="cut off`, slog.LevelInfo, nil},
		{`panic: no logfmt`, `panic: no logfmt`, slog.LevelInfo, nil},
		{`a=b`, `a=b`, slog.LevelInfo, nil},
	}
	for _, tt := range tests {
		level, message, attrs := ParseLogfmt(tt.line)
		if level != tt.level || message != tt.message {
			t.Errorf("%s: %v %q, want %v %q", tt.line, level, message, tt.level, tt.message)
		}
		if diff := cmp.Diff(fmt.Sprint(tt.attrs), fmt.Sprint(attrs)); diff != "" {
			t.Errorf("%s: attributes -want +got:\n%s", tt.line, diff)
		}
	}
}
