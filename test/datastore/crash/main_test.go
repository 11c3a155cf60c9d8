package crash

import (
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"skiff/test/datastore/crash/recorder"
	"skiff/test/datastore/crash/victim"
)

func TestMain(m *testing.M) {
	recorder.Init()
	victim.Init()
	os.Exit(m.Run())
}

// soak is set for the long form of the tests (make soak).
func soak() bool { return os.Getenv("SKIFF_SOAK") == "1" }

// amount is how much a test does: short in CI, long in make soak.
func amount(short, long int) int {
	if soak() {
		return long
	}
	return short
}

// seed is a new one for each run; SKIFF_SEED repeats a run's choices.
func seed(t *testing.T) uint64 {
	t.Helper()
	s := uint64(time.Now().UnixNano())
	if v := os.Getenv("SKIFF_SEED"); v != "" {
		var err error
		if s, err = strconv.ParseUint(v, 0, 64); err != nil {
			t.Fatalf("SKIFF_SEED: %v", err)
		}
	}
	t.Logf("SKIFF_SEED=%#x", s)
	return s
}

// fastDir is a directory in memory, if there is such a file system: what is
// recorded or built here need not wait for a disk.
func fastDir(t *testing.T) string {
	t.Helper()
	const memory = "/dev/shm"
	if _, err := os.Stat(memory); err != nil {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp(memory, "skiff-crash-") //nolint:usetesting // Not where TempDir puts it.
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// place is a directory for a store, with a place for its socket beside it.
func place(t *testing.T, dir string) victim.Spec {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(dir, "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	return victim.Spec{Dir: filepath.Join(dir, "data", "db"), Socket: filepath.Join(dir, "db.sock")}
}

var quiet = slog.New(slog.DiscardHandler)
