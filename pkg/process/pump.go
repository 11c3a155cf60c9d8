package process

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	maxLine   = 16 << 10 // longer lines are cut into pieces
	maxQueued = 1024     // lines waiting for a slow log
	keepLines = 10       // for the exit error
)

// pump turns a child's output into log records. Write never blocks: when the
// log is slower than the child, lines are dropped and counted, because a child
// that blocks on its standard error is an outage and a missing line is not.
type pump struct {
	logger *slog.Logger
	parse  func(string) (slog.Level, string, []slog.Attr)
	lines  chan string
	done   chan struct{} // the logging goroutine has returned

	mu      sync.Mutex
	partial []byte
	last    []string
	dropped int
	closed  bool
}

func newPump(l *slog.Logger, parse func(string) (slog.Level, string, []slog.Attr)) *pump {
	p := &pump{logger: l, parse: parse, lines: make(chan string, maxQueued), done: make(chan struct{})}
	go p.log()
	return p
}

// Write takes output as it comes and never fails.
func (p *pump) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(b)
	if p.closed {
		return n, nil // exec's copier may outlive the drain timeout.
	}
	for {
		line, rest, found := bytes.Cut(b, []byte{'\n'})
		p.add(line)
		if !found {
			return n, nil
		}
		p.flush()
		b = rest
	}
}

// add extends the partial line, and cuts it when it gets too long. The caller
// holds p.mu.
func (p *pump) add(b []byte) {
	for len(p.partial)+len(b) > maxLine {
		room := maxLine - len(p.partial)
		p.partial = append(p.partial, b[:room]...)
		p.flush()
		b = b[room:]
	}
	p.partial = append(p.partial, b...)
}

// flush hands on the partial line. The caller holds p.mu.
func (p *pump) flush() {
	line := strings.TrimRight(string(p.partial), "\r\n \t")
	p.partial = p.partial[:0]
	if line == "" {
		return
	}
	if len(p.last) == keepLines {
		p.last = slices.Delete(p.last, 0, 1)
	}
	p.last = append(p.last, line)
	select {
	case p.lines <- line:
	default:
		p.dropped++
	}
}

// close logs what is left and waits for that, but not for a log that hangs.
func (p *pump) close() {
	p.mu.Lock()
	p.flush()
	p.closed = true
	close(p.lines)
	p.mu.Unlock()
	t := time.NewTimer(drainTimeout)
	defer t.Stop()
	select {
	case <-p.done:
	case <-t.C:
	}
}

// lastLines returns the newest lines of the output, oldest first.
func (p *pump) lastLines() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.flush()
	return slices.Clone(p.last)
}

// log is the goroutine that may block on the log.
func (p *pump) log() {
	defer close(p.done)
	ctx := context.Background()
	for line := range p.lines {
		level, message, attrs := slog.LevelInfo, line, []slog.Attr(nil)
		if p.parse != nil {
			level, message, attrs = p.parse(line)
		}
		p.logger.LogAttrs(ctx, level, message, attrs...) //nolint:sloglint // the message is the process' own
		if n := p.takeDropped(); n > 0 {
			p.logger.Warn("log lines of the process were dropped", "lines", n)
		}
	}
}

func (p *pump) takeDropped() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.dropped
	p.dropped = 0
	return n
}
