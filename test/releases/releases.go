// Package releases makes upgrade files for tests: of the skiff under test, which
// then calls itself by a later version, and of whatever does not work. It knows
// nothing of how they are used. Start reading at New.
package releases

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"skiff/pkg/release"
	"skiff/test/hosts"
)

// Maker makes upgrade files in a directory. All are signed by its own key.
type Maker struct {
	Dir     string
	Binary  string // the skiff under test
	Version string // of that
	Key     string // public, as it is written to a file

	t      hosts.T
	signer release.Signer
}

// New asks the skiff under test for its version, and makes a key.
func New(t hosts.T, binary, dir string) *Maker {
	t.Helper()
	m := &Maker{Dir: dir, Binary: binary, t: t}
	out, err := exec.Command(binary, "version", "-o", "json").Output() //nolint:noctx // it ends by itself
	m.must(err)
	var v struct{ Version string }
	m.must(json.Unmarshal(out, &v))
	if m.Version = v.Version; !strings.Contains(m.Version, "+skiff1") {
		t.Fatalf("the skiff under test is of version %q; make one of v1.36.3+skiff1 or the like", m.Version)
	}
	m.newKey()
	return m
}

func (m *Maker) newKey() {
	m.t.Helper()
	signer, err := release.NewSigner()
	m.must(err)
	key, err := signer.Key()
	m.must(err)
	text, err := key.Text()
	m.must(err)
	m.signer, m.Key = signer, string(text)
}

// Foreign is a Maker with another key.
func (m *Maker) Foreign() *Maker {
	m.t.Helper()
	other := *m
	other.newKey()
	return &other
}

// Later is the version of the skiff under test as the n-th of its kind.
func (m *Maker) Later(n int) string {
	return strings.Replace(m.Version, "+skiff1", fmt.Sprintf("+skiff%d", n), 1)
}

// Manifest describes the n-th skiff.
func (m *Maker) Manifest(n int) release.Manifest {
	kubernetes, _, _ := strings.Cut(m.Version, "+")
	return release.Manifest{Version: m.Later(n), OS: "linux", Arch: runtime.GOARCH, Kubernetes: kubernetes, Schema: 1}
}

// Skiff is the upgrade file of the n-th skiff: the one under test, which calls
// itself something else wherever it says its name.
func (m *Maker) Skiff(n int) string {
	m.t.Helper()
	name := filepath.Join(m.Dir, release.FileName(m.Later(n), runtime.GOARCH))
	if _, err := os.Stat(name); err == nil {
		return name
	}
	content, err := os.ReadFile(m.Binary)
	m.must(err)
	if !bytes.Contains(content, []byte(m.Version)) {
		m.t.Fatalf("%s does not call itself %s", m.Binary, m.Version)
	}
	return m.write(name, m.Manifest(n), bytes.ReplaceAll(content, []byte(m.Version), []byte(m.Later(n))))
}

// Content is the upgrade file of something that is no skiff.
func (m *Maker) Content(manifest release.Manifest, content []byte) string {
	m.t.Helper()
	return m.write(filepath.Join(m.Dir, "content.skiff"), manifest, content)
}

// CrashesAtStart is the upgrade file of a version that stands the trial, but
// does not start: everything else the skiff at path does.
func (m *Maker) CrashesAtStart(n int, path string) string {
	m.t.Helper()
	return m.Content(m.Manifest(n), []byte("#!/bin/sh\n[ \"$1\" != server ] || exit 1\nexec "+path+" \"$@\"\n"))
}

func (m *Maker) write(name string, manifest release.Manifest, content []byte) string {
	m.t.Helper()
	in, err := os.CreateTemp(m.Dir, "executable")
	m.must(err)
	defer os.Remove(in.Name())
	defer in.Close()
	_, err = in.Write(content)
	m.must(err)
	_, err = in.Seek(0, 0)
	m.must(err)
	out, err := os.Create(name)
	m.must(err)
	m.must(errors.Join(release.Write(out, manifest, in, m.signer, release.Fast), out.Close()))
	return name
}

func (m *Maker) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatalf("make an upgrade file: %v", err)
	}
}
