package process

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// command is this test as a command that acts a script.
func command(script string) Command {
	return Command{Path: "/proc/self/exe", Env: append(os.Environ(), childEnv+"="+script)}
}

func TestOutput(t *testing.T) {
	got, err := Output(t.Context(), command("err noise; say result"))
	if err != nil || string(got) != "result\n" {
		t.Errorf("Output: %q, %v", got, err)
	}
	_, err = Output(t.Context(), command("say result; err the disk is full; exit 3"))
	if err == nil || !strings.Contains(err.Error(), "the disk is full") || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("Output of a failure: %v", err)
	}
	_, err = Output(t.Context(), command("spam 100000; exit 1"))
	if err == nil || len(err.Error()) > 1000 || !strings.Contains(err.Error(), "line 99999") {
		t.Errorf("Output of much: %.2000v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := Output(ctx, command("forever")); err == nil {
		t.Error("Output of what never ends: no error")
	}
	if _, err := Output(t.Context(), Command{Path: "/nonexistent"}); err == nil {
		t.Error("Output of nothing: no error")
	}
}

func TestDetach(t *testing.T) {
	file := filepath.Join(t.TempDir(), "output")
	if err := Detach(command("say first"), file); err != nil {
		t.Fatal(err)
	}
	deadline := time.After(10 * time.Second)
	for {
		if got, _ := os.ReadFile(file); string(got) == "first\n" {
			return
		}
		select {
		case <-deadline:
			t.Fatal("the command has written nothing")
		case <-time.After(10 * time.Millisecond):
		}
	}
}
