package inventory

import (
	"bytes"
	"crypto/sha256"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"testing"

	"github.com/google/go-cmp/cmp"

	"skiff/pkg/payload"
)

// A test is a Go program too: it is the executable, and its own helper.
func TestRead(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, data := range map[string][]byte{
		"runc":                       program,
		"nft":                        []byte("\x7fELF in C"),
		"nft.d/libc.so.6":            []byte("a library"),
		"licenses/libc6":             []byte("Package: libc6\nVersion: 2.41-12\nSource: glibc\n\nThe text.\n\nMore.\n"),
		"licenses/nftables":          []byte("Package: nftables\nVersion: 1.1.3-1\n\nIts text.\n"),
		"licenses/static/libseccomp": []byte("Package: libseccomp-dev\nVersion: 2.5.4-1\nSource: libseccomp\n\nLGPL.\n"),
	} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	skiff := filepath.Join(t.TempDir(), "skiff")
	if err := payload.WriteFile(skiff, self, dir); err != nil {
		t.Fatal(err)
	}

	got, err := Read(skiff)
	if err != nil {
		t.Fatal(err)
	}
	if got.Build.GoVersion != runtime.Version() || Setting(got.Build, "GOARCH") != runtime.GOARCH {
		t.Errorf("the executable's own build is %v", got.Build)
	}
	type helper struct {
		Name string
		Go   bool
		Sum  [sha256.Size]byte
	}
	var helpers []helper
	for _, h := range got.Helpers {
		helpers = append(helpers, helper{h.Name, h.Build != nil, h.SHA256})
	}
	want := []helper{
		{"nft", false, sha256.Sum256([]byte("\x7fELF in C"))},
		{"nft.d/libc.so.6", false, sha256.Sum256([]byte("a library"))},
		{"runc", true, sha256.Sum256(program)},
	}
	if diff := cmp.Diff(want, helpers); diff != "" {
		t.Errorf("helpers (-want +got):\n%s", diff)
	}
	packages := []Package{
		{Name: "libc6", Version: "2.41-12", Source: "glibc", Copyright: "The text.\n\nMore.\n"},
		{Name: "nftables", Version: "1.1.3-1", Copyright: "Its text.\n"},
		{Name: "libseccomp-dev", Version: "2.5.4-1", Source: "libseccomp", Linked: true, Copyright: "LGPL.\n"},
	}
	if diff := cmp.Diff(packages, got.Packages); diff != "" {
		t.Errorf("packages (-want +got):\n%s", diff)
	}
}

func TestReadWithoutPayload(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Read(self)
	if err != nil {
		t.Fatal(err)
	}
	if got.Build == nil || len(got.Helpers)+len(got.Packages) != 0 {
		t.Errorf("Read of a bare executable: %+v", got)
	}
}

func TestReadForeign(t *testing.T) {
	file := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(file, bytes.Repeat([]byte("no executable "), 100), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(file); err == nil {
		t.Error("Read of a text file succeeded")
	}
}

func TestModule(t *testing.T) {
	build := &debug.BuildInfo{
		Main: debug.Module{Path: "github.com/opencontainers/runc", Version: "v1.4.0"},
		Deps: []*debug.Module{
			{Path: "k8s.io/api", Version: "v0.0.0", Replace: &debug.Module{Path: "k8s.io/api", Version: "v0.36.3"}},
			{Path: "k8s.io/kubernetes", Version: "v1.36.3"},
		},
		Settings: []debug.BuildSetting{{Key: "GOFIPS140", Value: "v1.0.0"}},
	}
	for module, want := range map[string]string{
		"github.com/opencontainers/runc": "v1.4.0",
		"k8s.io/api":                     "v0.36.3",
		"k8s.io/kubernetes":              "v1.36.3",
		"k8s.io":                         "",
	} {
		if got := Module(build, module); got != want {
			t.Errorf("Module(%s) = %q, want %q", module, got, want)
		}
	}
	if got := Setting(build, "GOFIPS140"); got != "v1.0.0" {
		t.Errorf("Setting(GOFIPS140) = %q", got)
	}
	if got := Setting(build, "GOARCH"); got != "" {
		t.Errorf("Setting(GOARCH) = %q", got)
	}
}
