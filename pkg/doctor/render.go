package doctor

import (
	"fmt"
	"io"
	"strings"
)

// WriteText writes a report for a person.
func WriteText(w io.Writer, r *Report) error {
	var b strings.Builder
	for _, m := range r.Mended {
		if m.Error != "" {
			fmt.Fprintf(&b, "NOT MENDED  %s\n", m.ID)
			item(&b, "why", m.Error)
			continue
		}
		fmt.Fprintf(&b, "mended      %s\n", m.ID)
		item(&b, "did", m.Did)
	}
	if len(r.Mended) > 0 {
		b.WriteString("\n")
	}
	counts, fixable := map[Severity]int{}, 0
	for _, f := range r.Findings {
		counts[f.Severity]++
		fmt.Fprintf(&b, "%-10s  %s\n", f.Severity, f.ID)
		item(&b, "found", f.Problem)
		item(&b, "matters", f.Why)
		item(&b, "mend", f.Mend)
		if f.Fixable {
			fixable++
			item(&b, "", "skiff doctor --fix does this")
		}
	}
	if len(r.Findings) > 0 {
		b.WriteString("\n")
	}
	for _, u := range r.NotLookedAt {
		fmt.Fprintf(&b, "not looked at: %s: %s\n", u.ID, u.Reason)
	}
	for _, m := range r.Measured {
		fmt.Fprintf(&b, "measured: %s: %.1f %s\n", m.What, m.Value, m.Unit)
	}
	switch {
	case r.Problems():
		fmt.Fprintf(&b, "%s, %s", plural(counts[Error], "error"), plural(counts[Warning], "warning"))
		if fixable > 0 && len(r.Mended) == 0 {
			fmt.Fprintf(&b, "; skiff doctor --fix mends %d of them", fixable)
		}
		b.WriteString("\n")
	default:
		b.WriteString("nothing is wrong with this machine\n")
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// width is where lines are broken, and indent what stands before the text.
const (
	width  = 110
	indent = 10
)

// item writes a labelled text in lines of some width.
func item(b *strings.Builder, label, text string) {
	line := fmt.Sprintf("    %-*s", indent, label)
	blank := strings.Repeat(" ", len(line))
	empty := true
	for word := range strings.FieldsSeq(text) {
		if !empty && len(line)+1+len(word) > width {
			b.WriteString(line + "\n")
			line, empty = blank, true
		}
		if !empty {
			line += " "
		}
		line, empty = line+word, false
	}
	b.WriteString(line + "\n")
}
