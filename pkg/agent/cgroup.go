package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// ownLeaf is the control group that the processes of a container go to.
const ownLeaf = "skiff"

// leaveCgroupRoot moves the processes of a container, this one among them, into
// a group of their own. In version 2 a group with processes cannot have others
// below it that are limited, as pods' are, and a container begins in what it
// sees as the root. The real root has no such rule, and has no file cgroup.type.
func leaveCgroupRoot(root string, logger *slog.Logger) error {
	if _, err := os.Stat(filepath.Join(root, "cgroup.type")); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("look at the control group of this container: %w", err)
	}
	leaf := filepath.Join(root, ownLeaf)
	// Processes may be born while others are moved; a few rounds catch them.
	for range 10 {
		text, err := os.ReadFile(filepath.Join(root, "cgroup.procs"))
		if err != nil {
			return fmt.Errorf("list the processes of this container: %w", err)
		}
		pids := strings.Fields(string(text))
		if len(pids) == 0 {
			return nil
		}
		if err := os.MkdirAll(leaf, 0o755); err != nil {
			return fmt.Errorf("make a control group in the one of this container: %w; is it privileged?", err)
		}
		logger.Info("moving the processes of this container into a control group of their own, to make room for pods", "group", leaf, "processes", len(pids))
		for _, pid := range pids {
			err := os.WriteFile(filepath.Join(leaf, "cgroup.procs"), []byte(pid), 0)
			// ESRCH: it has ended meanwhile.
			if err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("move process %s of this container to the control group %s: %w", pid, leaf, err)
			}
		}
	}
	return fmt.Errorf("make room for pods in the control group of this container: %s keeps getting new processes", root)
}
