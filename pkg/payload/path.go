package payload

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// ErrMissing says that neither the executable, nor the staging directory, nor
// PATH has a helper executable.
var ErrMissing = errors.New("this skiff was built without payload (use `make`) and the tool is not in PATH")

// stageFromPath serves an executable without payload. All missing tools are
// reported at once.
func stageFromPath(dir, path string, names []string) error {
	var errs []error
	for _, name := range names {
		target := filepath.Join(dir, name)
		if executable(target) {
			continue
		}
		found, ok := lookPath(path, name)
		if !ok {
			errs = append(errs, fmt.Errorf("find %s: %w", name, ErrMissing))
			continue
		}
		if err := link(found, target); err != nil {
			errs = append(errs, fmt.Errorf("link %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// lookPath finds an executable in a PATH list. Relative elements are skipped:
// what they name depends on the working directory.
func lookPath(path, name string) (string, bool) {
	for _, dir := range filepath.SplitList(path) {
		if candidate := filepath.Join(dir, name); filepath.IsAbs(dir) && executable(candidate) {
			return candidate, true
		}
	}
	return "", false
}

func executable(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0
}

// link makes target a symbolic link to found, replacing what is there.
func link(found, target string) error {
	temp := target + ".tmp"
	if err := os.Remove(temp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Symlink(found, temp); err != nil {
		return err
	}
	return os.Rename(temp, target)
}
