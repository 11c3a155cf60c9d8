package agent

import (
	"os"
	"path/filepath"
	"testing"
)

func TestMachineMemory(t *testing.T) {
	for text, want := range map[string]uint64{
		"MemTotal:         498728 kB\nMemFree:  1 kB\n": 498728 << 10,
		"MemFree: 1 kB\n":  0,
		"MemTotal: x kB\n": 0,
		"":                 0,
	} {
		file := filepath.Join(t.TempDir(), "meminfo")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := machineMemory(file); got != want {
			t.Errorf("memory by %q = %d, want %d", text, got, want)
		}
	}
	if got := machineMemory(filepath.Join(t.TempDir(), "none")); got != 0 {
		t.Errorf("memory without a file = %d, want 0", got)
	}
}
