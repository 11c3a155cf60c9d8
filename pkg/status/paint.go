package status

import (
	"strings"
	"unicode/utf8"
)

// Paint says whether states are shown in colours.
type Paint bool

// What a state is painted with: ECMA-48, "select graphic rendition".
const (
	green, yellow, red, grey, bold, plain = "\x1b[32m", "\x1b[33m", "\x1b[31m", "\x1b[90m", "\x1b[1m", "\x1b[0m"
)

// of paints text as the state wants it.
func (p Paint) of(state, text string) string {
	colour := ""
	switch state {
	case "ready", "applied":
		colour = green
	case "waiting", "starting", "stopping", "not ready":
		colour = yellow
	case "degraded", "failed", "unreachable":
		colour = red
	case "stopped", "disabled", "skipped":
		colour = grey
	}
	if !bool(p) || colour == "" {
		return text
	}
	return colour + text + plain
}

// table is rows of cells, the first of which is the heading. The second column
// is a state.
type table [][]string

// write aligns the columns; a table of nothing but a heading is left out. The
// colours come last: they have no width.
func (t table) write(b *strings.Builder, p Paint) {
	if len(t) < 2 {
		return
	}
	widths := make([]int, len(t[0]))
	for _, row := range t {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	b.WriteByte('\n')
	for n, row := range t {
		var line strings.Builder
		for i, cell := range row {
			padding := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if i == len(row)-1 {
				padding = ""
			}
			switch {
			case n == 0 && bool(p):
				cell = bold + cell + plain
			case i == 1:
				cell = p.of(cell, cell)
			}
			line.WriteString(cell + padding)
			if i < len(row)-1 {
				line.WriteString("  ")
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
}
