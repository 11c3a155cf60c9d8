package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"skiff/pkg/release"
)

// writeInstaller puts the public key and the version into the lines of
// install.sh that wait for them.
func writeInstaller(o options) error {
	key, err := release.ReadKey(o.pub)
	if err != nil {
		return err
	}
	public, err := key.Text()
	if err != nil {
		return err
	}
	script, err := os.ReadFile(o.install)
	if err != nil {
		return err
	}
	text := string(script)
	for name, value := range map[string]string{"release_key": lastLine(string(public)), "release_version": o.version} {
		empty := "\n" + name + "=''\n"
		if strings.Count(text, empty) != 1 {
			return fmt.Errorf("%s has the line %s %d times, want once", o.install, strings.TrimSpace(empty), strings.Count(text, empty))
		}
		if strings.ContainsAny(value, "'\n") {
			return fmt.Errorf("%s %q cannot stand in a script", name, value)
		}
		text = strings.Replace(text, empty, "\n"+name+"='"+value+"'\n", 1)
	}
	return os.WriteFile(o.out, []byte(text), 0o755)
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

// writeSums lists what is in the directory, and the executables themselves,
// which lie there compressed only: so an installer knows what it must get.
func writeSums(o options) error {
	files, err := releaseFiles(o)
	if err != nil {
		return err
	}
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	var list strings.Builder
	for _, name := range names {
		sum, err := sumOf(files[name])
		if err != nil {
			return err
		}
		fmt.Fprintf(&list, "%s  %s\n", sum, name)
	}
	return os.WriteFile(filepath.Join(o.dir, release.SumsName), []byte(list.String()), 0o644)
}

// releaseFiles are the files of the list by their names in it.
func releaseFiles(o options) (map[string]string, error) {
	files := map[string]string{}
	entries, err := os.ReadDir(o.dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if name := e.Name(); e.Type().IsRegular() && name != release.SumsName && name != release.SumsSignatureName {
			files[name] = filepath.Join(o.dir, name)
		}
	}
	programs, names := strings.Split(o.skiff, ","), strings.Split(o.names, ",")
	if len(programs) != len(names) {
		return nil, fmt.Errorf("-skiff has %d files and -names %d", len(programs), len(names))
	}
	for i, name := range names {
		files[name] = programs[i]
	}
	return files, nil
}

func sumOf(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read %s: %w", file, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
