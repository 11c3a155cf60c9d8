package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
)

// checkTimeout is how long containerd gets to read a configuration.
const checkTimeout = 30 * time.Second

// usableDropIns are the files that containerd can merge into its
// configuration. It ends at the first one that it cannot; here such a file is
// left out, and the rest of the node works.
func (r *Runtime) usableDropIns(ctx context.Context) []string {
	dir := r.Layout.ContainerdDropIns()
	files, err := filepath.Glob(filepath.Join(dir, "*.toml"))
	if err != nil {
		r.Logger.Error("drop-ins of containerd's configuration left out", "dir", dir, "error", err)
		return nil
	}
	return slices.DeleteFunc(files, func(file string) bool {
		note := "containerd/" + filepath.Base(file)
		err := r.checkDropIn(ctx, file)
		if err == nil {
			r.Notes.Clear(note)
			return false
		}
		if ctx.Err() == nil {
			r.Logger.Error("drop-in of containerd's configuration left out", "file", file, "error", err)
			r.Notes.Set(note, fmt.Sprintf("drop-in %s of containerd's configuration left out: %v; restart skiff when it is right", file, err))
		}
		return true
	})
}

// checkDropIn parses the file for a message with a line, and then asks
// containerd itself.
func (r *Runtime) checkDropIn(ctx context.Context, file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var head struct {
		Version int `toml:"version"`
	}
	if err := toml.Unmarshal(data, &head); err != nil {
		if e, ok := errors.AsType[*toml.DecodeError](err); ok {
			row, column := e.Position()
			return fmt.Errorf("line %d, column %d: %w", row, column, err)
		}
		return err
	}
	if head.Version != 3 {
		return fmt.Errorf("it has version = %d: want version = 3, and names of plug-ins as in containerd 2", head.Version)
	}
	return r.askContainerd(ctx, file)
}

func (r *Runtime) askContainerd(ctx context.Context, file string) (err error) {
	text, err := toml.Marshal(table{"version": 3, "imports": []string{file}})
	if err != nil {
		return err
	}
	probe := filepath.Join(r.Layout.ContainerdRun(), "check.toml")
	if err := os.WriteFile(probe, text, 0o600); err != nil {
		return err
	}
	defer func() {
		if e := os.Remove(probe); e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "-c", probe, "config", "dump")
	cmd.Args[0] = "containerd"
	cmd.Env = r.environ(os.Environ())
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		lines := strings.Split(strings.TrimSpace(stderr.String()), "\n")
		return fmt.Errorf("containerd: %s (%w)", lines[len(lines)-1], err)
	}
	return nil
}
