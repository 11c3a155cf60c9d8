package support

import (
	"errors"
	"strings"
	"sync"
)

// bounded keeps the beginning or the end of what is written to it.
type bounded struct {
	limit int64
	tail  bool

	mu     sync.Mutex
	kept   []byte // of a tail up to twice the limit
	lost   int64
	closed bool
}

var errClosed = errors.New("its time was over")

// Write implements io.Writer. It fails once the content has been taken.
func (b *bounded) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return 0, errClosed
	}
	n := len(p)
	if !b.tail {
		room := max(0, b.limit-int64(len(b.kept)))
		fits := p[:min(int64(n), room)]
		b.kept = append(b.kept, fits...)
		b.lost += int64(n - len(fits))
		return n, nil
	}
	b.kept = append(b.kept, p...)
	if int64(len(b.kept)) > 2*b.limit {
		b.cut()
	}
	return n, nil
}

// cut drops what is before the tail.
func (b *bounded) cut() {
	if over := int64(len(b.kept)) - b.limit; over > 0 {
		b.lost += over
		b.kept = append(b.kept[:0], b.kept[over:]...)
	}
}

// close returns what was kept and how much was not; nothing is taken any more.
func (b *bounded) close() ([]byte, int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	if b.tail {
		b.cut()
	}
	return b.kept, b.lost
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
