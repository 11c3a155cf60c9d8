package release

import (
	"debug/buildinfo"
	"debug/elf"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
)

// Kind is what the manifest of an upgrade file says it is, so that nothing else
// that the key has signed can be taken for one.
const Kind = "skiff-upgrade"

// maxBinary is the largest executable that is unpacked.
const maxBinary = 1 << 30

// Manifest says what is in an upgrade file. It is what is signed; the checksum
// in it vouches for the rest.
type Manifest struct {
	Kind    string `json:"kind"`
	Version string `json:"version"`
	Commit  string `json:"commit,omitempty"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
	// Kubernetes is the version of Kubernetes in it.
	Kubernetes string `json:"kubernetes"`
	// Schema is the form in which it keeps its datastore. A version with a lower
	// one cannot read what a version with a higher one has written.
	Schema int    `json:"schema"`
	SHA256 string `json:"sha256"` // of the executable, unpacked
	Size   int64  `json:"size"`   // the same
}

// check refuses a manifest that leaves something open. A later skiff may have
// more in it than this one knows.
func (m Manifest) check() error {
	version := regexp.MustCompile(`^v[0-9]+\.[0-9]+\.[0-9]+[0-9A-Za-z.+-]*$`)
	word := regexp.MustCompile(`^[a-z0-9]{1,16}$`)
	switch {
	case m.Kind != Kind:
		return fmt.Errorf("it is of kind %q, want %q", m.Kind, Kind)
	case len(m.Version) > 100 || !version.MatchString(m.Version):
		return fmt.Errorf("version %q is none; want one like v1.36.3+skiff1", m.Version)
	case len(m.Kubernetes) > 100 || !version.MatchString(m.Kubernetes):
		return fmt.Errorf("kubernetes version %q is none; want one like v1.36.3", m.Kubernetes)
	case !word.MatchString(m.OS) || !word.MatchString(m.Arch):
		return fmt.Errorf("platform %q/%q is none; want one like linux/arm64", m.OS, m.Arch)
	case m.Size <= 0 || m.Size > maxBinary:
		return fmt.Errorf("size %d is not between 1 and %d", m.Size, maxBinary)
	}
	if raw, err := hex.DecodeString(m.SHA256); err != nil || len(raw) != 32 {
		return fmt.Errorf("sha256 %q is none", m.SHA256)
	}
	return nil
}

// FileName is what an upgrade file is called.
func FileName(version, arch string) string {
	return "skiff-" + version + "-linux-" + arch + ".skiff"
}

func parseManifest(text []byte) (Manifest, error) {
	var m Manifest
	if err := json.Unmarshal(text, &m); err != nil {
		return m, fmt.Errorf("read manifest: %w", err)
	}
	if err := m.check(); err != nil {
		return m, fmt.Errorf("read manifest: %w", err)
	}
	return m, nil
}

// Describe reads from an executable of skiff what its manifest has to say about
// it: for which machine it is, and which Kubernetes is in it. It need not be for
// this machine.
func Describe(executable string) (m Manifest, err error) {
	info, err := buildinfo.ReadFile(executable)
	if err != nil {
		return m, fmt.Errorf("look into %s: %w", executable, err)
	}
	m = Manifest{Kind: Kind, OS: "linux"}
	for _, s := range info.Settings {
		switch s.Key {
		case "GOARCH":
			m.Arch = s.Value
		case "GOOS":
			m.OS = s.Value
		}
	}
	for _, d := range info.Deps {
		if d.Path == "k8s.io/kubernetes" {
			m.Kubernetes = d.Version
		}
	}
	if m.Kubernetes == "" {
		return m, fmt.Errorf("look into %s: there is no Kubernetes in it; is it skiff?", executable)
	}
	if err := machine(executable, m.Arch); err != nil {
		return m, fmt.Errorf("look into %s: %w", executable, err)
	}
	return m, nil
}

// machine compares what the header says with what the build recorded.
func machine(executable, arch string) (err error) {
	f, err := elf.Open(executable)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	known := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}
	if want, ok := known[arch]; !ok || f.Machine != want {
		return fmt.Errorf("it is for %s and was built for %q", f.Machine, arch)
	}
	return nil
}
