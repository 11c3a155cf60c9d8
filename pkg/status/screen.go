package status

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// Live shows a watched status: on a terminal a picture that is drawn again,
// elsewhere a line for each change.
type Live struct {
	Out   io.Writer
	Paint Paint
	// Size is that of the terminal, now; nil means that there is none.
	Size func() (columns, rows int)
	// Until ends Watch once it is true of a report; nil means never.
	Until func(*Report) bool
}

// How often the picture is drawn again for the ages in it alone.
const (
	oftenWhileNew  = time.Second
	seldomWhenDone = 10 * time.Second
)

// What a terminal is told before the first picture and after the last one: the
// other screen, without a cursor, and back. ECMA-48 and xterm's 1049.
const (
	enter = "\x1b[?1049h\x1b[?25l"
	leave = "\x1b[?25h\x1b[?1049l"
)

// Watch shows the client's status until ctx ends or Until is true, and leaves
// the last picture of a terminal behind. It returns the last report, nil if
// skiff did not run at the end.
func (l *Live) Watch(ctx context.Context, c *Client) (last *Report, err error) {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	reports, ended := make(chan *Report), make(chan error, 1)
	running.Go(func() {
		ended <- c.Watch(ctx, func(r *Report) error {
			select {
			case reports <- r:
			case <-ctx.Done():
			}
			return nil
		})
	})
	if l.Size == nil {
		return l.show(reports, ended)
	}
	if _, err := io.WriteString(l.Out, enter); err != nil {
		return nil, fmt.Errorf("write status: %w", err)
	}
	defer func() {
		_, werr := io.WriteString(l.Out, leave)
		if last != nil && werr == nil {
			werr = WriteText(l.Out, last, time.Now(), l.Paint)
		}
		err = errors.Join(err, werr)
	}()
	return l.show(reports, ended)
}

// show draws what comes, until the watch has ended or Until is true.
func (l *Live) show(reports <-chan *Report, ended <-chan error) (last *Report, err error) {
	tick := time.NewTimer(oftenWhileNew)
	defer tick.Stop()
	seen := false
	for {
		select {
		case err := <-ended:
			return last, err
		case r := <-reports:
			if err := l.news(last, r, !seen); err != nil {
				return last, err
			}
			last, seen = r, true
			if r != nil && l.Until != nil && l.Until(r) {
				return last, nil
			}
		case <-tick.C:
			if l.Size != nil && last != nil {
				if err := l.draw(last); err != nil {
					return last, err
				}
			}
		}
		tick.Reset(oftenWhileNew)
		if last == nil || last.Ready {
			tick.Reset(seldomWhenDone)
		}
	}
}

// news shows one report that is not as the one before.
func (l *Live) news(before, now *Report, first bool) error {
	if l.Size != nil {
		return l.draw(now)
	}
	if first && now != nil {
		return WriteText(l.Out, now, time.Now(), l.Paint)
	}
	for _, line := range Changes(before, now) {
		if _, err := fmt.Fprintf(l.Out, "%s %s\n", time.Now().Format(time.TimeOnly), line); err != nil {
			return fmt.Errorf("write status: %w", err)
		}
	}
	return nil
}

// draw puts the picture over the one before, line by line: what is cleared
// first would flicker.
func (l *Live) draw(r *Report) error {
	columns, rows := l.Size()
	picture := "skiff is not running; waiting for it\n"
	if r != nil {
		picture = text(r, time.Now(), l.Paint)
	}
	lines := strings.Split(strings.TrimRight(picture, "\n"), "\n")
	if len(lines) > rows-1 && rows > 2 {
		more := len(lines) - (rows - 2)
		lines = append(lines[:rows-2], fmt.Sprintf("… %d more lines; skiff status shows them", more))
	}
	var b strings.Builder
	b.WriteString("\x1b[H")
	for _, line := range lines {
		b.WriteString(clip(line, columns) + "\x1b[K\r\n")
	}
	b.WriteString("\x1b[J")
	if _, err := io.WriteString(l.Out, b.String()); err != nil {
		return fmt.Errorf("write status: %w", err)
	}
	return nil
}

// clip cuts a line to the width of the terminal, so that it stays one. Escape
// sequences have no width and are kept.
func clip(line string, columns int) string {
	width, escape := 0, false
	for i, r := range line {
		switch {
		case escape:
			escape = r != 'm'
		case r == '\x1b':
			escape = true
		case width == columns && columns > 0:
			return line[:i] + plainAfter(line[:i])
		default:
			width++
		}
	}
	return line
}

// plainAfter ends the colours that a cut has left open.
func plainAfter(s string) string {
	if strings.Contains(s, "\x1b") && utf8.ValidString(s) {
		return plain
	}
	return ""
}
