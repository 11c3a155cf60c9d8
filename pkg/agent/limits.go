package agent

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"skiff/pkg/hostchange"
	"skiff/pkg/preflight"
)

// raiseLimits raises preflight.Limits in a directory like /proc/sys. A host where
// that is not allowed works, until the limit is hit: it is a warning.
func raiseLimits(root string, changes *hostchange.Recorder, logger *slog.Logger) {
	for _, l := range preflight.Limits() {
		switch raised, err := raise(filepath.Join(root, l.Name), l.Min, changes); {
		case err != nil:
			logger.Warn("a kernel limit is low and cannot be raised", "try", fmt.Sprintf("sysctl %s=%d", l.Sysctl(), l.Min), "error", err)
		case raised:
			logger.Info("sysctl set", "name", l.Sysctl(), "value", l.Min)
		}
	}
}

// raise writes least to a sysctl's file if what it holds is less.
func raise(file string, least int, changes *hostchange.Recorder) (bool, error) {
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
	if err := changes.Record(hostchange.SysctlChange(file, strconv.Itoa(least), strconv.Itoa(have))); err != nil {
		return false, err
	}
	if err := os.WriteFile(file, []byte(strconv.Itoa(least)), 0); err != nil {
		return false, fmt.Errorf("set sysctl: %w", err)
	}
	return true, nil
}
