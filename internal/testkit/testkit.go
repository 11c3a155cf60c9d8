// Package testkit holds what the unit tests of several packages share. Product
// code must not import it. Start reading at Layout and Golden.
package testkit

import (
	"flag"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"skiff/pkg/paths"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

// Layout returns a layout whose roots are all below a temporary directory.
func Layout(t testing.TB) paths.Layout {
	t.Helper()
	dir := t.TempDir()
	return paths.Layout{
		Data: filepath.Join(dir, "data"),
		Etc:  filepath.Join(dir, "etc"),
		Run:  filepath.Join(dir, "run"),
	}
}

// Logger returns a logger that writes to the test's own output.
func Logger(t testing.TB) *slog.Logger {
	t.Helper()
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// Golden compares got with testdata/<name>. With -update it rewrites the file.
func Golden(t testing.TB, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v; run the test with -update to write it", err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s -want +got:\n%s", path, diff)
	}
}
