package status

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"skiff/pkg/component"
)

// WriteJSON writes the report as indented JSON, for -o json.
func WriteJSON(w io.Writer, r *Report) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	if err := enc.Encode(r); err != nil {
		return fmt.Errorf("write status: %w", err)
	}
	return nil
}

// WriteText writes the report as a person reads it: one line on the whole, a
// table of the components, the nodes and the AddOns, then the notes, and what
// to do if something is not well. Times are relative to now.
func WriteText(w io.Writer, r *Report, now time.Time, p Paint) error {
	if _, err := io.WriteString(w, text(r, now, p)); err != nil {
		return fmt.Errorf("write status: %w", err)
	}
	return nil
}

func text(r *Report, now time.Time, p Paint) string {
	var b strings.Builder
	b.WriteString(headline(r, now, p) + "\n")
	if w := r.Wear; w != nil {
		fmt.Fprintf(&b, "writes to disk: %.1f MB in the last %s, %.0f MB a day\n", float64(w.Bytes)/1e6, age(w.Window), float64(w.PerDay)/1e6)
	}
	t := table{{"COMPONENT", "STATE", "SINCE", "READY AFTER", "RESTARTS", "WHY"}}
	for _, c := range r.Components {
		t = append(t, []string{c.Name, c.State.String(), age(now.Sub(c.Since)), readyAfter(c.ReadyAfter), fmt.Sprint(c.Restarts), firstLine(c.Message)})
	}
	t.write(&b, p)
	t = table{{"NODE", "STATE", "SINCE", "VERSION", "ADDRESS", "WHY"}}
	for _, n := range r.Nodes {
		t = append(t, []string{n.Name, n.State, age(now.Sub(n.Since)), n.Version, n.Address, firstLine(n.Message)})
	}
	t.write(&b, p)
	t = table{{"ADDON", "STATE", "SINCE", "OBJECTS", "SOURCE", "WHY"}}
	for _, a := range r.AddOns {
		t = append(t, []string{a.Name, a.State, age(now.Sub(a.Since)), fmt.Sprint(a.Objects), a.Source, firstLine(a.Message)})
	}
	t.write(&b, p)
	t = table{{"NOTE", "SINCE", "MESSAGE"}}
	for _, n := range r.shownNotes() {
		t = append(t, []string{n.Key, age(now.Sub(n.Since)), firstLine(n.Message)})
	}
	t.write(&b, p)
	if advice := r.advice(); advice != "" {
		b.WriteString("\n" + advice + "\n")
	}
	return b.String()
}

// shownNotes are the notes that say more than the line of an AddOn does.
func (r *Report) shownNotes() []Note {
	return slices.DeleteFunc(slices.Clone(r.Notes), func(n Note) bool {
		return len(r.AddOns) > 0 && strings.HasPrefix(n.Key, ManifestNote)
	})
}

// advice is where to go from here; nothing while all is well or merely young.
func (r *Report) advice() string {
	failed := func(s component.Status) bool {
		return s.State == component.Failed || s.State == component.Degraded || s.Restarts > 0 && s.State != component.Ready
	}
	if !slices.ContainsFunc(r.Components, failed) {
		return ""
	}
	return "What to do: WHY says what is missing. `skiff doctor` looks for causes on this machine;\n`skiff bundle` packs what somebody needs who helps you."
}

func headline(r *Report, now time.Time, p Paint) string {
	s := fmt.Sprintf("skiff %s (pid %d, up %s): ", r.Version, r.PID, age(now.Sub(r.Started)))
	if r.Ready {
		return s + p.of("ready", "ready") + ", first after " + readyAfter(r.ReadyAfter)
	}
	missing := slices.DeleteFunc(slices.Clone(r.Components), func(c component.Status) bool {
		return c.State == component.Ready
	})
	return s + p.of("not ready", "not ready") + fmt.Sprintf(", %d of %d components missing", len(missing), len(r.Components))
}

// age is a duration as precise as a person wants it.
func age(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < time.Minute:
		return d.Truncate(time.Second).String()
	case d < time.Hour:
		return fmt.Sprintf("%dm%ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%dm", int(d.Hours()), int(d.Minutes())%60)
	default:
		return fmt.Sprintf("%dd%dh", int(d.Hours())/24, int(d.Hours())%24)
	}
}

func readyAfter(d time.Duration) string {
	if d == 0 {
		return "-"
	}
	return d.Round(time.Millisecond).String()
}

// firstLine keeps the table a table: stacks and last log lines are in the
// JSON and in the log.
func firstLine(s string) string {
	line, rest, _ := strings.Cut(strings.TrimSpace(s), "\n")
	if rest != "" {
		line += " …"
	}
	return printable(strings.ReplaceAll(line, "\t", " "))
}

// printable takes out what a terminal would obey: messages quote files, names
// and answers of others.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}
