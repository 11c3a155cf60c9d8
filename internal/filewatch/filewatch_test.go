package filewatch

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestRun changes a file in each way there is; each must be seen, also what
// happens below a directory that did not exist.
func TestRun(t *testing.T) {
	dir := t.TempDir()
	linked, late := filepath.Join(dir, "linked"), filepath.Join(dir, "a", "b", "late")
	elsewhere := filepath.Join(t.TempDir(), "real")
	write := func(file, text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(elsewhere, "1")
	if err := os.Symlink(elsewhere, linked); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	seen, done := make(chan struct{}, 1), make(chan struct{})
	go func() {
		defer close(done)
		Run(ctx, []string{linked, late, ""}, slog.New(slog.DiscardHandler), func() {
			select {
			case seen <- struct{}{}:
			default:
			}
		})
	}()
	wait := func(what string) {
		t.Helper()
		select {
		case <-seen:
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: no change seen", what)
		}
		for quiet := false; !quiet; {
			select {
			case <-seen:
			case <-time.After(100 * time.Millisecond):
				quiet = true
			}
		}
	}
	wait("begin")
	write(elsewhere, "2")
	wait("write behind a link")
	if err := os.MkdirAll(filepath.Dir(late), 0o700); err != nil {
		t.Fatal(err)
	}
	wait("directory made")
	write(late, "1")
	wait("file made")
	write(late+".new", "2")
	if err := os.Rename(late+".new", late); err != nil {
		t.Fatal(err)
	}
	wait("file replaced")
	if err := os.Remove(late); err != nil {
		t.Fatal(err)
	}
	wait("file removed")
	cancel()
	<-done
}
