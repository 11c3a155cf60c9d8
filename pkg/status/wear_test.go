package status

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestWear measures a process with a child in a directory that looks like
// /proc.
func TestWear(t *testing.T) {
	proc, now := t.TempDir(), time.Unix(1000, 0)
	write := func(pid, written int) {
		t.Helper()
		dir := filepath.Join(proc, fmt.Sprint(pid))
		if err := os.MkdirAll(filepath.Join(dir, "task", "1"), 0o755); err != nil {
			t.Fatal(err)
		}
		io := fmt.Sprintf("rchar: 5\nwchar: 7\nwrite_bytes: %d\ncancelled_write_bytes: 9\n", written)
		if err := os.WriteFile(filepath.Join(dir, "io"), []byte(io), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const child = 77
	write(os.Getpid(), 1000)
	write(child, 100)
	children := filepath.Join(proc, fmt.Sprint(os.Getpid()), "task", "1", "children")
	if err := os.WriteFile(children, fmt.Appendf(nil, "%d 9999 ", child), 0o600); err != nil {
		t.Fatal(err)
	}
	m := &wearMeter{proc: proc, now: func() time.Time { return now }}
	if got := m.wear(); got != nil {
		t.Errorf("wear before the first sample = %+v", got)
	}
	sample := func() {
		t.Helper()
		if err := m.sample(); err != nil {
			t.Fatal(err)
		}
	}
	sample()
	now = now.Add(6 * time.Hour)
	write(os.Getpid(), 3000)
	write(child, 600)
	if diff := cmp.Diff(&Wear{Bytes: 2500, Window: 6 * time.Hour, PerDay: 10_000}, m.wear()); diff != "" {
		t.Error(diff)
	}
	for range 10 * wearSamples {
		now = now.Add(wearEvery)
		sample()
	}
	if diff := cmp.Diff(&Wear{Window: day}, m.wear()); diff != "" {
		t.Errorf("after ten quiet days: %s", diff)
	}
}
