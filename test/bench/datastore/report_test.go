package main

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCompare(t *testing.T) {
	yes, no := true, false
	three := func(a, b, c float64) map[int]float64 { return map[int]float64{0: a, 1: b, 2: c} }
	tests := []struct {
		name   string
		row    row
		values map[string]map[int]float64
		ratios map[string]ratio
		reach  *bool
	}{
		{
			"less is better",
			row{etcd: 2, kine: 0.5},
			map[string]map[int]float64{"etcd": three(1, 2, 3), "kine": three(10, 10, 10), "ours": three(2, 4, 9)},
			map[string]ratio{"etcd": {Ratio: 2, Min: 2, Max: 3, Goal: 2, Reach: &yes}, "kine": {Ratio: 0.4, Min: 0.2, Max: 0.9, Goal: 0.5, Reach: &yes}},
			nil,
		},
		{
			"more is better",
			row{more: true, etcd: 0.95},
			map[string]map[int]float64{"etcd": three(10, 10, 10), "ours": three(9, 9, 20)},
			map[string]ratio{"etcd": {Ratio: 0.9, Min: 0.9, Max: 2, Goal: 0.95, Reach: &no}},
			nil,
		},
		{
			"itself, in the worst round",
			row{most: 16, max: true},
			map[string]map[int]float64{"ours": three(1, 17, 2)},
			map[string]ratio{},
			&no,
		},
		{
			"another round failed",
			row{},
			map[string]map[int]float64{"etcd": {0: 5}, "ours": {1: 10}},
			map[string]ratio{"etcd": {Ratio: 2}},
			nil,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := compare(tt.row, tt.values)
			if diff := cmp.Diff(tt.ratios, got.Ratios); diff != "" {
				t.Errorf("ratios (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.reach, got.Reach); diff != "" {
				t.Errorf("reached (-want +got):\n%s", diff)
			}
		})
	}
}

// TestRows keeps the table and the measurements together: a row that nothing
// measures would silently be missing, and a misspelt one never be compared.
func TestRows(t *testing.T) {
	inTable, measured := make(map[string]bool), make(map[string]bool)
	for _, r := range rows() {
		inTable[r.name] = true
	}
	for _, p := range parts() {
		for _, r := range p.rows {
			measured[r] = true
		}
	}
	if diff := cmp.Diff(inTable, measured); diff != "" {
		t.Errorf("rows of the table and rows that are measured (-table +measured):\n%s", diff)
	}
}

func TestTable(t *testing.T) {
	r := newReport(options{rounds: 1}, machine{})
	r.add("update c=32", "ours", 0, 100)
	r.add("update c=32", "etcd", 0, 50)
	r.add("WAL size, largest", "ours", 0, 3)
	r.add("WAL size, largest", "ours", 0, 2)
	var b bytes.Buffer
	if err := r.write(&b, t.TempDir()+"/out.json"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"2 [2–2]", "0.95 yes", "16 yes"} {
		if !bytes.Contains(b.Bytes(), []byte(want)) {
			t.Errorf("the table has no %q:\n%s", want, b.String())
		}
	}
	if got := r.values["WAL size, largest"]["ours"][0]; got != 3 {
		t.Errorf("the largest of two values of a round = %v, want 3", got)
	}
}

func TestSignificant(t *testing.T) {
	for v, want := range map[float64]float64{0: 0, 12345: 12350, 0.0123456: 0.01235, 1: 1} {
		if got := significant(v); got != want {
			t.Errorf("significant(%v) = %v, want %v", v, got, want)
		}
	}
}

func TestQuantile(t *testing.T) {
	values := []float64{3, 1, 2, 5, 4}
	for q, want := range map[float64]float64{0: 1, 0.5: 3, 0.99: 5, 1: 5} {
		if got := quantile(values, q); got != want {
			t.Errorf("quantile %v = %v, want %v", q, got, want)
		}
	}
}
