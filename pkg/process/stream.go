package process

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
)

// Stream runs a program to its end, which comes with ctx at the latest, and
// writes what it prints to w as it comes, however much that is. It gets no
// input, and of the environment only PATH, so that it prints what others can
// read and nobody has configured.
func Stream(ctx context.Context, w io.Writer, path string, args ...string) error {
	var complaint tail
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = []string{"LC_ALL=C", "PATH=" + os.Getenv("PATH")}
	cmd.Stdout, cmd.Stderr = w, &complaint
	cmd.WaitDelay = drainTimeout
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("run %s: %w: %s", path, err, complaint.lines())
	}
	return nil
}
