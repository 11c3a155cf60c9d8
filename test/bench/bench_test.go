package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSummary(t *testing.T) {
	f := figures{}
	for _, v := range []float64{3, 1, 2} {
		f.add("x", "s", v)
	}
	want := figures{"x": {Unit: "s", Median: 2, Min: 1, Max: 3, Values: []float64{3, 1, 2}}}
	if diff := cmp.Diff(want, f.summary()); diff != "" {
		t.Errorf("summary (-want +got):\n%s", diff)
	}
}

func TestQuantile(t *testing.T) {
	values := make([]float64, 50)
	for i := range values {
		values[i] = float64(i + 1)
	}
	for q, want := range map[float64]float64{0: 1, 0.5: 26, 0.99: 50, 1: 50} {
		if got := quantile(values, q); got != want {
			t.Errorf("quantile %v = %v, want %v", q, got, want)
		}
	}
}

func TestKindOf(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"skiff", "server"}, "skiff"},
		{[]string{"containerd", "-c", "x"}, "containerd"},
		{[]string{"/usr/local/bin/skiff", "containerd"}, "containerd"},
		{[]string{"/var/lib/skiff/bin/containerd-shim-runc-v2", "-id"}, "shim"},
		{[]string{"sh"}, "other"},
	} {
		if got := kindOf(c.args); got != c.want {
			t.Errorf("kindOf(%v) = %s, want %s", c.args, got, c.want)
		}
	}
}

// TestProgramPolicies keeps the load of the bench a valid one.
func TestProgramPolicies(t *testing.T) {
	needNFT(t)
	all, one, err := programPolicies(t.Context(), 50)
	if err != nil || all <= 0 || one <= 0 {
		t.Errorf("programPolicies = %s, %s, %v", all, one, err)
	}
}

func BenchmarkProgramPolicies(b *testing.B) {
	needNFT(b)
	for b.Loop() {
		_, one, err := programPolicies(b.Context(), 500)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(one.Seconds()*1000, "ms/pod")
	}
}

func needNFT(t testing.TB) {
	t.Helper()
	dir, err := filepath.Abs("../../build/payload")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	if _, err := exec.LookPath("nft"); err != nil || os.Geteuid() != 0 {
		t.Skip("needs root, and nft: run make build first")
	}
}
