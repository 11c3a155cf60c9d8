package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// figure is what one system did in one row, by round.
type figure struct {
	Median float64         `json:"median"`
	Min    float64         `json:"min"`
	Max    float64         `json:"max"`
	Values map[int]float64 `json:"values"`
}

// ratio compares ours with another system: the medians, and the range of the
// ratios within each round.
type ratio struct {
	Ratio float64 `json:"ratio"`
	Min   float64 `json:"min"`
	Max   float64 `json:"max"`
	Goal  float64 `json:"goal,omitempty"`
	Reach *bool   `json:"reached,omitempty"`
}

// line is one row of the report.
type line struct {
	Row     string             `json:"row"`
	Unit    string             `json:"unit"`
	Systems map[string]*figure `json:"systems"`
	Ratios  map[string]ratio   `json:"ratios,omitempty"`
	Most    float64            `json:"goal,omitempty"`
	Reach   *bool              `json:"reached,omitempty"`
}

// part of a round and what disturbed it.
type disturbance struct {
	Round   int     `json:"round"`
	Part    string  `json:"part"`
	System  string  `json:"system"`
	Others  float64 `json:"others_cpus"`
	WaitedS float64 `json:"waited_for_quiet_s"`
}

// report collects what is measured.
type report struct {
	Time      string        `json:"time"`
	Machine   machine       `json:"machine"`
	Rounds    int           `json:"rounds"`
	WindowS   float64       `json:"window_s"`
	Rows      []*line       `json:"rows"`
	Disturbed []disturbance `json:"disturbed_by"`
	Notes     []string      `json:"notes,omitempty"`

	systems []string                              // columns of the table
	values  map[string]map[string]map[int]float64 // by row, system and round
}

func newReport(o options, m machine) *report {
	var columns []string
	for _, s := range systems(o) {
		columns = append(columns, s.name)
	}
	return &report{
		systems: columns,
		Time:    time.Now().UTC().Format(time.RFC3339), Machine: m, Rounds: o.rounds, WindowS: o.window.Seconds(),
		values: make(map[string]map[string]map[int]float64),
	}
}

// add notes a value. Of two for the same round, the larger one stays.
func (r *report) add(row, system string, round int, value float64) {
	if r.values[row] == nil {
		r.values[row] = make(map[string]map[int]float64)
	}
	if r.values[row][system] == nil {
		r.values[row][system] = make(map[int]float64)
	}
	v := r.values[row][system]
	v[round] = max(v[round], significant(value))
}

func (r *report) disturbance(b *bench, others float64, waited time.Duration) {
	r.Disturbed = append(r.Disturbed, disturbance{b.round, b.part, b.system.name, significant(others), significant(waited.Seconds())})
}

func (r *report) note(s string) { r.Notes = append(r.Notes, s) }

// write prints the table to w and the JSON to the file out, or to standard
// output.
func (r *report) write(w io.Writer, out string) error {
	r.Rows = nil
	for _, row := range rows() {
		if values := r.values[row.name]; values != nil {
			r.Rows = append(r.Rows, compare(row, values))
		}
	}
	r.table(w)
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the report: %w", err)
	}
	if out == "" {
		fmt.Println(string(b))
		return nil
	}
	if err := os.WriteFile(out, append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

// compare makes one line of the report.
func compare(row row, values map[string]map[int]float64) *line {
	l := &line{Row: row.name, Unit: row.unit, Systems: make(map[string]*figure), Ratios: make(map[string]ratio)}
	for system, v := range values {
		f := &figure{Values: v}
		sorted := slices.Sorted(maps.Values(v))
		f.Min, f.Max, f.Median = sorted[0], sorted[len(sorted)-1], median(sorted)
		if row.max {
			f.Median = f.Max
		}
		l.Systems[system] = f
	}
	ours := l.Systems["ours"]
	if ours == nil {
		return l
	}
	if row.most != 0 {
		ok := ours.Median <= row.most
		l.Most, l.Reach = row.most, &ok
	}
	for system, goal := range map[string]float64{"etcd": row.etcd, "kine": row.kine} {
		other := l.Systems[system]
		if other == nil || other.Median == 0 {
			continue
		}
		x := ratio{Ratio: significant(ours.Median / other.Median), Min: math.Inf(1), Goal: goal}
		for n, v := range ours.Values {
			if o, ok := other.Values[n]; ok && o != 0 {
				x.Min, x.Max = min(x.Min, significant(v/o)), max(x.Max, significant(v/o))
			}
		}
		if math.IsInf(x.Min, 1) { // no round has both
			x.Min = 0
		}
		if goal != 0 {
			ok := row.reached(ours.Median/other.Median, goal)
			x.Reach = &ok
		}
		l.Ratios[system] = x
	}
	return l
}

// table prints the report for people.
func (r *report) table(w io.Writer) {
	m := r.Machine
	fmt.Fprintf(w, "\n%s, %d cores, %d MB, Linux %s, %s (4 KiB and a sync: p50 and p99 %s ms), load at start %s\n", m.CPU, m.Cores, m.MemoryMB, m.Kernel, m.FileSystem, m.SyncMS, m.Load)
	fmt.Fprintf(w, "medians of %d rounds; ratios are ours to the other, in brackets their range over the rounds\n\n", r.Rounds)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\tunit\t"+strings.Join(r.systems, "\t")+"\tto etcd\tgoal\tto kine\tgoal\titself")
	for _, l := range r.Rows {
		cells := []string{l.Row, l.Unit}
		for _, s := range r.systems {
			cells = append(cells, cell(l.Systems[s]))
		}
		for _, s := range []string{"etcd", "kine"} {
			x, ok := l.Ratios[s]
			if !ok {
				cells = append(cells, "", "")
				continue
			}
			cells = append(cells, fmt.Sprintf("%v [%v–%v]", x.Ratio, x.Min, x.Max), verdict(x.Goal, x.Reach))
		}
		cells = append(cells, verdict(l.Most, l.Reach))
		fmt.Fprintln(t, strings.TrimRight(strings.Join(cells, "\t"), "\t"))
	}
	_ = t.Flush() // w is standard error
	for _, n := range r.Notes {
		fmt.Fprintln(w, n)
	}
	for _, d := range r.Disturbed {
		if d.Others > 0.2 {
			fmt.Fprintf(w, "round %d, %s of %s: others used %.2f CPUs\n", d.Round+1, d.Part, d.System, d.Others)
		}
	}
}

func cell(f *figure) string {
	if f == nil {
		return "-"
	}
	return fmt.Sprint(f.Median)
}

// verdict is a goal and whether it is reached.
func verdict(goal float64, reached *bool) string {
	if reached == nil {
		return ""
	}
	if *reached {
		return fmt.Sprintf("%v yes", goal)
	}
	return fmt.Sprintf("%v MISSED", goal)
}

// significant rounds to four digits.
func significant(v float64) float64 {
	if v == 0 || math.IsInf(v, 0) || math.IsNaN(v) {
		return 0
	}
	scale := math.Pow(10, 3-math.Floor(math.Log10(math.Abs(v))))
	return math.Round(v*scale) / scale
}

// quantile picks the q-quantile of values, the nearest one there is.
func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return 0
	}
	return slices.Sorted(slices.Values(values))[int(q*float64(len(values)-1)+0.5)]
}

// median of sorted values, of an even number the mean of the middle two.
func median(sorted []float64) float64 {
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// fileName makes a file name of a row's name.
func fileName(row string) string {
	return strings.Map(func(c rune) rune {
		if c == ' ' || c == ',' || c == '/' || c == '=' {
			return '-'
		}
		return c
	}, row)
}
