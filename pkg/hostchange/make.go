package hostchange

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"skiff/internal/netx"
	"skiff/pkg/paths"
)

// SetSysctl sets a kernel setting, "net.ipv4.ip_forward" say, and remembers how
// it was. changed is false if it was so already.
func (r *Recorder) SetSysctl(name, value string) (changed bool, err error) {
	file := sysctlFile(name)
	have, err := readSysctl(file)
	if err != nil {
		return false, fmt.Errorf("read sysctl %s: %w", name, err)
	}
	if have == value {
		return false, nil
	}
	if err := r.Record(Change{Sysctl, name + "=" + value, have}); err != nil {
		return false, err
	}
	if err := os.WriteFile(file, []byte(value), 0); err != nil {
		return false, fmt.Errorf("set sysctl %s = %s: %w", name, value, err)
	}
	return true, nil
}

// RecordSysctl is for a setting that code of others is about to set. One that
// is not there is not set either.
func (r *Recorder) RecordSysctl(name, value string) error {
	have, err := readSysctl(sysctlFile(name))
	if errors.Is(err, fs.ErrNotExist) || err == nil && have == value {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read sysctl %s: %w", name, err)
	}
	return r.Record(Change{Sysctl, name + "=" + value, have})
}

// SysctlChange is the change of a setting by its file.
func SysctlChange(file, value, before string) Change {
	return Change{Sysctl, sysctlName(file) + "=" + value, before}
}

// AddLoopbackAddress gives the machine an address on its loopback interface.
func (r *Recorder) AddLoopbackAddress(addr netip.Addr) error {
	there, err := netx.HasAddress(addr)
	if err != nil {
		return err
	}
	if !there {
		if err := r.Record(Change{Kind: Address, Value: addr.String()}); err != nil {
			return err
		}
	}
	return netx.AddLoopbackAddress(addr)
}

// Forward makes the kernel forward packets of a family, "ipv4" or "ipv6". It
// then changes other settings by itself, and changes them again when that is
// undone: those are remembered first, where they would not come back as they
// were.
func (r *Recorder) Forward(family string) (changed bool, err error) {
	name := map[string]string{"ipv4": "net.ipv4.ip_forward", "ipv6": "net.ipv6.conf.all.forwarding"}[family]
	have, err := readSysctl(sysctlFile(name))
	if err != nil {
		return false, fmt.Errorf("read sysctl %s: %w", name, err)
	}
	if have != "0" {
		return false, nil
	}
	files, err := filepath.Glob(filepath.Join(paths.Sysctl, "net", family, "conf/*/forwarding"))
	if err != nil {
		return false, fmt.Errorf("find sysctls: %w", err)
	}
	beside := map[string]string{}
	for _, file := range files {
		beside[file] = "1" // would be 0 afterwards
	}
	if family == "ipv4" {
		beside[sysctlFile("net.ipv4.conf.all.accept_redirects")] = "0" // would be 1
	}
	var changes []Change
	for file, value := range beside {
		if have, err := readSysctl(file); err == nil && have == value {
			changes = append(changes, Change{Sysctl, sysctlName(file) + "=*", value})
		}
	}
	slices.SortFunc(changes, func(a, b Change) int { return strings.Compare(a.Value, b.Value) })
	if err := r.Record(changes...); err != nil {
		return false, err
	}
	return r.SetSysctl(name, "1")
}

// sysctlFile is the file of a setting. Names of interfaces may have dots, and
// are written with slashes then, as sysctl(8) has it.
func sysctlFile(name string) string {
	return filepath.Join(paths.Sysctl, strings.Map(func(c rune) rune {
		switch c {
		case '.':
			return '/'
		case '/':
			return '.'
		}
		return c
	}, name))
}

func sysctlName(file string) string {
	name, err := filepath.Rel(paths.Sysctl, file)
	if err != nil {
		return file
	}
	return strings.Map(func(c rune) rune {
		switch c {
		case '.':
			return '/'
		case '/':
			return '.'
		}
		return c
	}, name)
}

func readSysctl(file string) (string, error) {
	data, err := os.ReadFile(file)
	return strings.Join(strings.Fields(string(data)), " "), err
}

// all is the Before of a directory of which nothing is to be removed.
const all = "/*"

// mostNames bounds what is remembered of a directory that was there before.
const mostNames = 32 << 10

// Contents says for the Before of a Tree what is in a directory: "" if there is
// none.
func Contents(dir string) (string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("look at what is there already: %w", err)
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	before := "/" + strings.Join(names, "/")
	if len(before) > mostNames {
		return all, nil
	}
	return before, nil
}

// NewTree is the change that a directory will be skiff's, with what will be in
// it. Who has put a link in its place wants it elsewhere.
func NewTree(kind Kind, dir string) (Change, error) {
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	before, err := Contents(dir)
	return Change{kind, dir, before}, err
}

// NewFile and NewDir are the changes that there will be a file or a directory.
func NewFile(path string) Change { return newEntry(File, path) }

// NewDir is NewFile for a directory.
func NewDir(path string) Change { return newEntry(Dir, path) }

func newEntry(kind Kind, path string) Change {
	c := Change{Kind: kind, Value: path}
	if _, err := os.Lstat(path); err == nil {
		c.Before = Present
	}
	return c
}

func bootID() (string, error) {
	id, err := os.ReadFile(paths.BootID)
	if err != nil {
		return "", fmt.Errorf("tell this boot from others: %w", err)
	}
	return strings.TrimSpace(string(id)), nil
}
