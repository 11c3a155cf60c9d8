package payload

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Prune removes from dir what another version has staged there and this payload
// does not have, unless a process runs it: a shim that lives on needs its file
// for as long as it does. It returns what it has removed. An executable without
// payload leaves everything alone.
func (p *Payload) Prune(dir string) (removed []string, err error) {
	if len(p.entries) == 0 {
		return nil, nil
	}
	var strange []string
	err = filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasPrefix(d.Name(), ".") {
			return err
		}
		rel, err := filepath.Rel(dir, name)
		if _, known := p.entries[filepath.ToSlash(rel)]; err == nil && !known {
			strange = append(strange, name)
		}
		return err
	})
	if err != nil || len(strange) == 0 {
		return nil, wrapPrune(dir, err)
	}
	used, err := running(dir)
	if err != nil {
		return nil, wrapPrune(dir, err)
	}
	for _, name := range strange {
		// What lies beside an executable for it alone goes with it.
		owner := strings.TrimSuffix(filepath.Dir(name), companions)
		if used[name] || used[owner] {
			continue
		}
		if err := os.Remove(name); err != nil {
			return removed, wrapPrune(dir, err)
		}
		removed = append(removed, name)
		os.Remove(filepath.Dir(name)) // only if that is empty now
	}
	return removed, nil
}

func wrapPrune(dir string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("remove what is not needed any more from %s: %w", dir, err)
}

// running are the files below dir that processes execute.
func running(dir string) (map[string]bool, error) {
	processes, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		return nil, err
	}
	used := make(map[string]bool)
	for _, exe := range processes {
		name, err := os.Readlink(exe)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			continue // it has ended, is a thread of the kernel, or certainly not ours
		}
		if err != nil {
			return nil, err
		}
		if strings.HasPrefix(name, dir+"/") {
			used[strings.TrimSuffix(name, " (deleted)")] = true
		}
	}
	return used, nil
}
