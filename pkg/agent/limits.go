package agent

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// limits are kernel settings that are raised to these values where they are
// lower. The kernel's 128 inotify instances are for all processes of root
// together: a node needs thirty, each `kubectl logs -f` one more, and what
// fails without them (certificate reload, log following, static pods) fails
// quietly. The values are kubelet documentation's for busy nodes.
var limits = []struct {
	name string // below /proc/sys
	min  int
}{
	{"fs/inotify/max_user_instances", 8192},
	{"fs/inotify/max_user_watches", 524288},
}

// raiseLimits raises the limits in a directory like /proc/sys. A host where
// that is not allowed works, until the limit is hit: it is a warning.
func raiseLimits(root string, logger *slog.Logger) {
	for _, l := range limits {
		name := strings.ReplaceAll(l.name, "/", ".")
		switch raised, err := raise(filepath.Join(root, l.name), l.min); {
		case err != nil:
			logger.Warn("a kernel limit is low and cannot be raised", "try", fmt.Sprintf("sysctl %s=%d", name, l.min), "error", err)
		case raised:
			logger.Info("sysctl set", "name", name, "value", l.min)
		}
	}
}

// raise writes least to a sysctl's file if what it holds is less.
func raise(file string, least int) (bool, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return false, fmt.Errorf("read sysctl: %w", err)
	}
	have, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return false, fmt.Errorf("read sysctl %s: %w", file, err)
	}
	if have >= least {
		return false, nil
	}
	if err := os.WriteFile(file, []byte(strconv.Itoa(least)), 0); err != nil {
		return false, fmt.Errorf("set sysctl: %w", err)
	}
	return true, nil
}
