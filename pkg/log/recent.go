package log

import (
	"bytes"
	"io"
	"net/http"
	"sync"
)

// Recent keeps the last lines that were written to it, for who asks when the
// place where the log goes is out of reach: a terminal, a container's output.
// The zero Recent keeps nothing.
type Recent struct {
	Size int // bytes

	mu   sync.Mutex
	kept []byte // up to twice the size
}

var _ io.Writer = (*Recent)(nil)

// Write implements io.Writer.
func (r *Recent) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.kept = append(r.kept, p...)
	if len(r.kept) > 2*r.Size {
		r.kept = append(r.kept[:0], tail(r.kept, r.Size)...)
	}
	return len(p), nil
}

// tail is the end of b that fits, from the beginning of a line on.
func tail(b []byte, size int) []byte {
	if len(b) <= size {
		return b
	}
	b = b[len(b)-size:]
	return b[bytes.IndexByte(b, '\n')+1:]
}

// ServeHTTP sends the lines.
func (r *Recent) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	r.mu.Lock()
	lines := bytes.Clone(tail(r.kept, r.Size))
	r.mu.Unlock()
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write(lines) // Who does not read on has gone.
}
