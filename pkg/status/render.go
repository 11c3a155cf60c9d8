package status

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
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
// table of the components, then the notes. Times are relative to now.
func WriteText(w io.Writer, r *Report, now time.Time) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, headline(r, now))
	if w := r.Wear; w != nil {
		fmt.Fprintf(t, "writes to disk: %.1f MB in the last %s, %.0f MB a day\n", float64(w.Bytes)/1e6, age(w.Window), float64(w.PerDay)/1e6)
	}
	fmt.Fprintln(t)
	fmt.Fprintln(t, "COMPONENT\tSTATE\tSINCE\tREADY AFTER\tRESTARTS\tWHY")
	for _, c := range r.Components {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%s\n", c.Name, c.State, age(now.Sub(c.Since)),
			readyAfter(c.ReadyAfter), c.Restarts, firstLine(c.Message))
	}
	if len(r.AddOns) > 0 {
		fmt.Fprintln(t)
		fmt.Fprintln(t, "ADDON\tSTATE\tSINCE\tOBJECTS\tSOURCE\tWHY")
		for _, a := range r.AddOns {
			fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%s\t%s\n", a.Name, a.State, age(now.Sub(a.Since)), a.Objects, a.Source, firstLine(a.Message))
		}
	}
	notes := slices.DeleteFunc(slices.Clone(r.Notes), func(n Note) bool {
		return len(r.AddOns) > 0 && strings.HasPrefix(n.Key, ManifestNote) // It says what the AddOn's line says.
	})
	if len(notes) > 0 {
		fmt.Fprintln(t)
		fmt.Fprintln(t, "NOTE\tSINCE\tMESSAGE")
		for _, n := range notes {
			fmt.Fprintf(t, "%s\t%s\t%s\n", n.Key, age(now.Sub(n.Since)), firstLine(n.Message))
		}
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("write status: %w", err)
	}
	return nil
}

func headline(r *Report, now time.Time) string {
	s := fmt.Sprintf("skiff %s (pid %d, up %s): ", r.Version, r.PID, age(now.Sub(r.Started)))
	if r.Ready {
		return s + "ready, first after " + readyAfter(r.ReadyAfter)
	}
	missing := slices.DeleteFunc(slices.Clone(r.Components), func(c component.Status) bool {
		return c.State == component.Ready
	})
	return s + fmt.Sprintf("not ready, %d of %d components missing", len(missing), len(r.Components))
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
	return strings.ReplaceAll(line, "\t", " ")
}
