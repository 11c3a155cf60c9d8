package hostchange

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"skiff/internal/backoff"
)

// cgroupLimit is how long processes may take to die that have been killed: the
// kernel may be waiting for a disk on their behalf.
const cgroupLimit = 15 * time.Second

// CgroupDirs are the directories of a control group, one in each hierarchy
// where it exists.
func CgroupDirs(path string) ([]string, error) {
	list, err := mounts()
	if err != nil {
		return nil, err
	}
	var dirs []string
	for _, m := range list {
		if m.FSType != "cgroup" && m.FSType != "cgroup2" {
			continue
		}
		dir := filepath.Join(m.Mountpoint, path)
		if info, err := os.Stat(dir); err == nil && info.IsDir() && dir != m.Mountpoint && !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs, nil
}

// EndCgroup kills all processes in a control group and below it, and removes it.
func EndCgroup(ctx context.Context, path string) error {
	dirs, err := CgroupDirs(path)
	if err != nil || len(dirs) == 0 {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, cgroupLimit)
	defer cancel()
	again := backoff.Sequence{Min: time.Millisecond, Max: 100 * time.Millisecond}
	for {
		var errs []error
		for _, dir := range dirs {
			errs = append(errs, endCgroup(dir))
		}
		err := errors.Join(errs...)
		if err == nil {
			return nil
		}
		if again.Wait(ctx) != nil {
			return fmt.Errorf("end what runs in control group %s: %w", path, err)
		}
	}
}

// endCgroup kills, and removes what is empty. It is called until there is no
// error: processes take a moment to die, and new ones may have been made.
func endCgroup(top string) error {
	var dirs []string
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return nil //nolint:nilerr // Groups come and go.
	})
	if err != nil {
		return err
	}
	var errs []error
	for _, dir := range slices.Backward(dirs) {
		if err := killGroup(dir); err != nil {
			errs = append(errs, err)
		}
		if err := unix.Rmdir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("remove %s: %w", dir, err))
		}
	}
	return errors.Join(errs...)
}

func killGroup(dir string) error {
	procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return nil //nolint:nilerr // It is gone, or has threads only, whose process is listed above.
	}
	var left []string
	for word := range strings.FieldsSeq(string(procs)) {
		pid, err := strconv.Atoi(word)
		if err != nil || pid <= 1 || pid == os.Getpid() {
			continue
		}
		if err := unix.Kill(pid, unix.SIGKILL); err == nil {
			left = append(left, word)
		}
	}
	if len(left) > 0 {
		return fmt.Errorf("processes %s in %s have been killed and are not gone yet", strings.Join(left, ", "), dir)
	}
	return nil
}
