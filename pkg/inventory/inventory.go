// Package inventory says what a skiff executable is made of: the Go modules
// that were linked into it, the helper executables it carries with what was
// linked into those, and the packages of Debian that lie in it. All of it is
// read from the executable, nothing is known beforehand, so `skiff version
// --verbose` and the bill of materials of a release cannot differ from what is
// there. It does not know licences, nor how its findings are shown. Start
// reading at Read.
package inventory

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"fmt"
	"path"
	"runtime/debug"
	"strings"

	"skiff/pkg/payload"
)

// Where in the payload the copyright files of Debian's packages lie. Those
// whose libraries were linked into skiff and runc have a directory of their own.
const (
	carried = "licenses"
	linked  = "licenses/static"
)

// Inventory is what one executable contains.
type Inventory struct {
	Build    *debug.BuildInfo // the executable's own
	Helpers  []Helper         // sorted by name
	Packages []Package        // sorted by where they lie
}

// Helper is one executable or library of the payload.
type Helper struct {
	Name   string // as nft or nft.d/libc.so.6
	Size   int
	SHA256 [sha256.Size]byte
	Build  *debug.BuildInfo // nil for what is not a Go program
}

// Package is one of Debian's packages, of which something lies in the
// executable.
type Package struct {
	Name, Version, Source string // Source is the source package; empty: its name is the package's
	Linked                bool   // a library in skiff and runc, not a file in nft.d
	Copyright             string // Debian's file
}

// Read takes stock of the executable called name.
func Read(name string) (*Inventory, error) {
	build, err := buildinfo.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read what %s was built from: %w", name, err)
	}
	p, err := payload.OpenFile(name)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	v := &Inventory{Build: build}
	for _, file := range p.Files() {
		data, err := p.ReadFile(file)
		if err != nil {
			return nil, err
		}
		if dir := path.Dir(file); dir == carried || dir == linked {
			v.Packages = append(v.Packages, debianPackage(string(data), dir == linked))
			continue
		}
		h := Helper{Name: file, Size: len(data), SHA256: sha256.Sum256(data)}
		// Programs in C have none, which is the only thing that can be wrong here.
		if info, err := buildinfo.Read(bytes.NewReader(data)); err == nil {
			h.Build = info
		}
		v.Helpers = append(v.Helpers, h)
	}
	return v, nil
}

// debianPackage reads a file made by payload/nft/fetch.sh or payload/static.sh:
// fields of the package, an empty line, its copyright.
func debianPackage(text string, linked bool) Package {
	head, copyright, _ := strings.Cut(text, "\n\n")
	p := Package{Linked: linked, Copyright: copyright}
	for line := range strings.Lines(head) {
		field, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		value = strings.TrimSpace(value)
		switch field {
		case "Package":
			p.Name = value
		case "Version":
			p.Version = value
		case "Source":
			// "glibc (2.41-12)" where the source's version differs.
			p.Source = value
		}
	}
	return p
}

// Setting is one of the go command's settings of a build, as GOFIPS140; empty
// if it was not set.
func Setting(build *debug.BuildInfo, key string) string {
	for _, s := range build.Settings {
		if s.Key == key {
			return s.Value
		}
	}
	return ""
}

// Module looks up the version of a module in a build; empty if it is not there.
func Module(build *debug.BuildInfo, modulePath string) string {
	if build.Main.Path == modulePath {
		return build.Main.Version
	}
	for _, m := range build.Deps {
		if m.Path == modulePath {
			return Effective(m).Version
		}
	}
	return ""
}

// Effective is the module that was compiled where go.mod asks for m.
func Effective(m *debug.Module) *debug.Module {
	if m.Replace != nil {
		return m.Replace
	}
	return m
}
