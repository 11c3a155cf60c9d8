package log

import (
	"bytes"
	"context"
	"flag"
	"log/slog"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
)

// BridgeKlog sends everything the Kubernetes libraries log through klog to l,
// with the component told by the package the record is from. It is called
// once, before anything logs.
//
// Upstream's levels are not ours. Its Info and Warning lines tell the way
// there ("Skipping API … because it has no resources", twenty-five times a
// start): they become Debug. Nearly everything it calls an error is retried
// until it works: that becomes Warn, and Error is left for what a person has
// to act upon. Who asks for verbosity, with --debug or a component's v=N, gets
// upstream's Info as Info, and records of V(n) with n ≤ N as Debug whether or
// not l has Debug enabled.
//
// So does a record about an error whose text has Expected in it. Of lines that
// say the same, few are written (see repeats), unless somebody has asked for
// verbosity: left_out in the next one tells how many were not.
//
// stopping, which may be nil, reports whether the process is on its way out.
// What upstream calls an error then (the kubelet goes on asking a containerd
// that has stopped) becomes Debug, lest it bury the reason of the stop.
func BridgeKlog(l *slog.Logger, verbosity int, stopping func() bool) {
	// klog's own V check is set by its flag alone. The flag set is ours, so
	// the process's command line is not touched, and the value is a number.
	fs := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(fs)
	_ = fs.Set("v", strconv.Itoa(verbosity))

	if stopping == nil {
		stopping = func() bool { return false }
	}
	h := &klogHandler{next: l.Handler(), stopping: stopping}
	if verbosity == 0 {
		h.repeats = &repeats{}
	}
	klog.SetLoggerWithOptions(logr.FromSlogHandler(h),
		klog.ContextualLogger(true),
		klog.WriteKlogBuffer(h.writeBuffer))
}

// klogHandler adapts logr's levels, 0 and below for V(0) and up, and adds the
// component.
type klogHandler struct {
	next     slog.Handler
	stopping func() bool
	repeats  *repeats // nil: all is written
}

var _ slog.Handler = (*klogHandler)(nil)

func (h *klogHandler) Enabled(ctx context.Context, l slog.Level) bool {
	if l < slog.LevelInfo {
		return klog.V(klog.Level(-l)).Enabled()
	}
	return h.next.Enabled(ctx, h.ours(l))
}

// levelFatal is upstream's level of a record that precedes its exit.
const levelFatal = slog.LevelError + 4

// ours translates upstream's level of a record without verbosity.
func (h *klogHandler) ours(l slog.Level) slog.Level {
	switch {
	case l >= levelFatal:
		return slog.LevelError
	case l >= slog.LevelError && !h.stopping():
		return slog.LevelWarn
	case klog.V(1).Enabled():
		return slog.LevelInfo
	default:
		return slog.LevelDebug
	}
}

func (h *klogHandler) Handle(ctx context.Context, r slog.Record) error {
	r = r.Clone()
	if r.Level < slog.LevelInfo {
		r.Level = slog.LevelDebug
	} else {
		// logr asks Enabled for Info only.
		r.Level = h.ours(r.Level)
		if expected(r) {
			r.Level = slog.LevelDebug
		}
		if !h.next.Enabled(ctx, r.Level) {
			return nil
		}
	}
	if c := componentOf(functionAt(r.PC)); c != "" {
		r.AddAttrs(slog.String(ComponentKey, c))
	}
	return h.write(ctx, r)
}

// write hands a record on, unless the same was said often enough.
func (h *klogHandler) write(ctx context.Context, r slog.Record) error {
	if h.repeats != nil && r.Level == slog.LevelWarn {
		said := r.Message
		r.Attrs(func(a slog.Attr) bool {
			said += "\x00" + a.Value.String()
			return true
		})
		ok, left := h.repeats.take(said, r.Time)
		if !ok {
			return nil
		}
		if left > 0 {
			r.AddAttrs(slog.Int("left_out", left))
		}
	}
	return h.next.Handle(ctx, r)
}

// Expected in the text of an error says that what has failed cannot succeed for
// now, that people know, and that it is tried again: a line for each attempt,
// which may be a week's, would tell nothing and wear out the disk. It is text
// because upstream hands errors on as text.
const Expected = "no server is in reach"

func expected(r slog.Record) bool {
	found := false
	r.Attrs(func(a slog.Attr) bool {
		found = strings.Contains(a.Value.String(), Expected)
		return !found
	})
	return found
}

func (h *klogHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &klogHandler{next: h.next.WithAttrs(attrs), stopping: h.stopping, repeats: h.repeats}
}

func (h *klogHandler) WithGroup(name string) slog.Handler {
	return &klogHandler{next: h.next.WithGroup(name), stopping: h.stopping, repeats: h.repeats}
}

// writeBuffer takes the lines of the unstructured calls (Infof, Warningf …).
// As text they still carry their severity, which klog drops when it calls a
// logr.Logger: a warning would become an Info.
func (h *klogHandler) writeBuffer(line []byte) {
	level, message := parseKlogLine(line)
	function, verbose := klogCaller()
	if verbose {
		level = slog.LevelDebug // klog has checked the verbosity already.
	} else {
		level = h.ours(level)
		if strings.Contains(message, Expected) {
			level = slog.LevelDebug
		}
	}
	ctx := context.Background()
	if !verbose && !h.next.Enabled(ctx, level) {
		return
	}
	r := slog.NewRecord(time.Now(), level, message, 0)
	if c := componentOf(function); c != "" {
		r.AddAttrs(slog.String(ComponentKey, c))
	}
	_ = h.write(ctx, r) // An error has nowhere to go: this is the log.
}

// parseKlogLine reads "W0102 15:04:05.000000    1234 file.go:12] message". A
// line without that header is an Info.
func parseKlogLine(line []byte) (slog.Level, string) {
	level := slog.LevelInfo
	head, message, ok := bytes.Cut(line, []byte("] "))
	if !ok || len(head) < 5 || bytes.ContainsRune(head, '\n') {
		return level, string(bytes.TrimSpace(line))
	}
	switch head[0] {
	case 'W':
		level = slog.LevelWarn
	case 'E':
		level = slog.LevelError
	case 'F':
		level = levelFatal
	case 'I':
	default:
		message = line
	}
	return level, string(bytes.TrimSpace(message))
}

const klogPackage = "k8s.io/klog/v2"

// klogCaller returns the function that called klog, and whether it did so by
// V(n).Info and the like. The first frames are this function and writeBuffer.
func klogCaller() (function string, verbose bool) {
	var pcs [16]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs[:])])
	for {
		f, more := frames.Next()
		if !strings.HasPrefix(f.Function, klogPackage+".") {
			return f.Function, verbose
		}
		if strings.HasPrefix(f.Function, klogPackage+".Verbose.") {
			verbose = true
		}
		if !more {
			return "", verbose
		}
	}
}

// components maps package prefixes to component names; the first that fits
// counts. Libraries that several components share have a name of their own.
var components = []struct{ prefix, name string }{
	{"k8s.io/kubernetes/pkg/kubelet", "kubelet"},
	{"k8s.io/kubernetes/cmd/kubelet", "kubelet"},
	{"k8s.io/kubernetes/pkg/volume", "kubelet"},
	{"k8s.io/kubernetes/pkg/proxy", "kube-proxy"},
	{"k8s.io/kubernetes/cmd/kube-proxy", "kube-proxy"},
	{"sigs.k8s.io/knftables", "kube-proxy"},
	{"k8s.io/kubernetes/pkg/scheduler", "kube-scheduler"},
	{"k8s.io/kubernetes/cmd/kube-scheduler", "kube-scheduler"},
	{"k8s.io/kubernetes/pkg/controller/", "kube-controller-manager"},
	{"k8s.io/kubernetes/cmd/kube-controller-manager", "kube-controller-manager"},
	{"k8s.io/controller-manager", "kube-controller-manager"},
	{"k8s.io/endpointslice", "kube-controller-manager"},
	{"k8s.io/kubernetes/pkg/controlplane", "kube-apiserver"},
	{"k8s.io/kubernetes/pkg/registry", "kube-apiserver"},
	{"k8s.io/kubernetes/pkg/kubeapiserver", "kube-apiserver"},
	{"k8s.io/kubernetes/plugin/", "kube-apiserver"},
	{"k8s.io/kubernetes/cmd/kube-apiserver", "kube-apiserver"},
	{"k8s.io/apiserver", "kube-apiserver"},
	{"k8s.io/apiextensions-apiserver", "kube-apiserver"},
	{"k8s.io/kube-aggregator", "kube-apiserver"},
	{"k8s.io/cloud-provider", "cloud"},
	{"k8s.io/client-go", "client-go"},
	{"k8s.io/", "kubernetes"},
}

// componentOf returns the component of a function by its full name, or "".
func componentOf(function string) string {
	for _, c := range components {
		if strings.HasPrefix(function, c.prefix) {
			return c.name
		}
	}
	return ""
}

func functionAt(pc uintptr) string {
	if pc == 0 {
		return ""
	}
	frame, _ := runtime.CallersFrames([]uintptr{pc}).Next()
	return frame.Function
}
