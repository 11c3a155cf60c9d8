package tunnel

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// bufferSize is what one direction of a connection holds; it is allocated when
// the first byte comes.
const bufferSize = 32 << 10

// buffer is one direction of a connection: a bounded queue of bytes between a
// writer and a reader, either of which can leave.
type buffer struct {
	mu      sync.Mutex
	data    []byte        // a ring; guarded by mu
	start   int           // of what is to be read; guarded by mu
	length  int           // of what is to be read; guarded by mu
	ended   error         // no more is written; guarded by mu
	left    error         // no more is read; guarded by mu
	changed chan struct{} // closed at the next change, nil if nobody waits; guarded by mu
}

// signal wakes who waits. Call it with mu held.
func (b *buffer) signal() {
	if b.changed != nil {
		close(b.changed)
		b.changed = nil
	}
}

// wait gives up mu until something has changed or the deadline has passed.
func (b *buffer) wait(d *deadline) error {
	if b.changed == nil {
		b.changed = make(chan struct{})
	}
	changed := b.changed
	b.mu.Unlock()
	defer b.mu.Lock()
	select {
	case <-changed:
		return nil
	case <-d.passed():
		return os.ErrDeadlineExceeded
	}
}

// read takes bytes out. What has been written is read before the end is told.
func (b *buffer) read(p []byte, d *deadline) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		if b.left != nil {
			return 0, b.left
		}
		if d.isPassed() {
			return 0, os.ErrDeadlineExceeded
		}
		if b.length > 0 {
			break
		}
		if b.ended != nil {
			return 0, b.ended
		}
		if len(p) == 0 {
			return 0, nil
		}
		if err := b.wait(d); err != nil {
			return 0, err
		}
	}
	n := 0
	for n < len(p) && b.length > 0 {
		end := min(b.start+b.length, len(b.data))
		c := copy(p[n:], b.data[b.start:end])
		b.start = (b.start + c) % len(b.data)
		b.length -= c
		n += c
	}
	b.signal()
	return n, nil
}

// free waits until there is room, and returns it as one piece. With one writer
// it may be filled without the lock and is then handed over by commit.
func (b *buffer) free(d *deadline) ([]byte, error) {
	for {
		if b.left != nil {
			return nil, b.left
		}
		if b.ended != nil {
			return nil, net.ErrClosed
		}
		if d.isPassed() {
			return nil, os.ErrDeadlineExceeded
		}
		if b.length < bufferSize {
			break
		}
		if err := b.wait(d); err != nil {
			return nil, err
		}
	}
	if b.data == nil {
		b.data = make([]byte, bufferSize)
	}
	from := (b.start + b.length) % bufferSize
	return b.data[from:min(from+bufferSize-b.length, bufferSize)], nil
}

func (b *buffer) commit(n int) {
	b.length += n
	b.signal()
}

// write puts all of p in, waiting for room.
func (b *buffer) write(p []byte, d *deadline) (n int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for n < len(p) {
		room, err := b.free(d)
		if err != nil {
			return n, err
		}
		c := copy(room, p[n:])
		b.commit(c)
		n += c
	}
	return n, nil
}

// fill writes what r gives until that ends, and returns why it did; nil at the
// end of r.
func (b *buffer) fill(r io.Reader) error {
	for {
		b.mu.Lock()
		room, err := b.free(nil)
		b.mu.Unlock()
		if err != nil {
			return err
		}
		n, err := r.Read(room)
		b.mu.Lock()
		gone := b.left
		b.commit(n)
		b.mu.Unlock()
		if gone != nil && n > 0 {
			return gone
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// end is the writer's leave: the reader gets what is there, then err.
func (b *buffer) end(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended == nil {
		b.ended = err
		b.signal()
	}
}

// leave is the reader's: what is there is forgotten, and writing fails.
func (b *buffer) leave(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.left == nil {
		b.left = err
		b.signal()
	}
}

// deadline is a moment that can be moved while somebody waits for it. The zero
// deadline, and nil, never come.
type deadline struct {
	mu    sync.Mutex
	timer *time.Timer   // guarded by mu
	at    chan struct{} // closed when it has passed; guarded by mu
}

// set moves the deadline; the zero time takes it away.
func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	stopped := d.timer == nil || d.timer.Stop()
	d.timer = nil
	if d.at == nil || !stopped || isClosed(d.at) {
		d.at = make(chan struct{})
	}
	if t.IsZero() {
		return
	}
	at := d.at
	if left := time.Until(t); left > 0 {
		d.timer = time.AfterFunc(left, func() { close(at) })
		return
	}
	close(at)
}

func (d *deadline) passed() <-chan struct{} {
	if d == nil {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.at == nil {
		d.at = make(chan struct{})
	}
	return d.at
}

func (d *deadline) isPassed() bool { return d != nil && isClosed(d.passed()) }

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
