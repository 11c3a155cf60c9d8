package release

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func manifest() Manifest {
	return Manifest{Version: "v1.36.3+skiff1-4-gabc", Commit: "abc", OS: "linux", Arch: "arm64", Kubernetes: "v1.36.3", Schema: 1}
}

// packed is the upgrade file of an executable.
func packed(t *testing.T, m Manifest, executable string, signer Signer) []byte {
	t.Helper()
	name := filepath.Join(t.TempDir(), "skiff")
	must(t, os.WriteFile(name, []byte(executable), 0o755))
	f, err := os.Open(name)
	must(t, err)
	defer f.Close()
	var b bytes.Buffer
	must(t, Write(&b, m, f, signer, Small))
	return b.Bytes()
}

func unpack(file []byte, key Key) (Manifest, string, error) {
	r, err := Open(bytes.NewReader(file), key)
	if err != nil {
		return Manifest{}, "", err
	}
	var b strings.Builder
	err = r.Extract(&b)
	return r.Manifest, b.String(), err
}

func TestUpgradeFile(t *testing.T) {
	key, signer := theirs(t)
	executable := strings.Repeat("an executable ", 10_000)
	file := packed(t, manifest(), executable, signer)
	if !bytes.Equal(file, packed(t, manifest(), executable, signer)) {
		t.Error("the same input gives other bytes")
	}
	m, got, err := unpack(file, key)
	must(t, err)
	if got != executable {
		t.Errorf("unpacked are %d bytes", len(got))
	}
	want := manifest()
	want.Kind, want.Size, want.SHA256 = Kind, int64(len(executable)), m.SHA256
	if diff := cmp.Diff(want, m); diff != "" {
		t.Errorf("manifest (-want +got):\n%s", diff)
	}
}

// No bit of the file can be changed, and nothing left out or added.
func TestUpgradeFileTampered(t *testing.T) {
	key, signer := theirs(t)
	executable := strings.Repeat("an executable ", 100)
	file := packed(t, manifest(), executable, signer)
	for i := range file {
		bad := bytes.Clone(file)
		bad[i] ^= 1 << (i % 8)
		m, got, err := unpack(bad, key)
		// minisign's first line of a signature is not signed, nor need it be; and
		// zstd ignores a bit or two of its frame's head.
		if err == nil && (got != executable || m.Version != manifest().Version) {
			t.Fatalf("byte %d changed: %q and %d bytes", i, m.Version, len(got))
		}
	}
	for n := range file {
		if _, _, err := unpack(file[:n], key); err == nil {
			t.Fatalf("cut to %d bytes of %d: no error", n, len(file))
		}
	}
	other := packed(t, manifest(), strings.Replace(executable, "an", "no", 1), signer)
	swapped := append(bytes.Clone(file[:bytes.LastIndex(file, []byte("=\n"))+2]), other[bytes.LastIndex(other, []byte("=\n"))+2:]...)
	if _, _, err := unpack(swapped, key); !errors.Is(err, ErrSignature) {
		t.Errorf("the executable of another file: %v", err)
	}
	longer := append(bytes.Clone(file), file[bytes.LastIndex(file, []byte("=\n"))+2:]...)
	if _, _, err := unpack(longer, key); !errors.Is(err, ErrSignature) {
		t.Errorf("two executables: %v", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	key, signer := theirs(t)
	head := func(number int, manifest string) string {
		signature, err := signer.Sign([]byte(manifest), "x")
		must(t, err)
		return fmt.Sprintf("skiff-upgrade %d %d %d\n%s%s", number, len(manifest), len(signature), manifest, signature)
	}
	good := string(packed(t, manifest(), "x", signer))
	text := good[strings.Index(good, "{") : strings.LastIndex(good, "}")+2]
	if _, err := Open(strings.NewReader(head(1, text)), key); err != nil {
		t.Fatal(err)
	}
	tests := []struct{ name, file, want string }{
		{"empty", "", "no upgrade file"},
		{"an executable", "\x7fELF" + strings.Repeat("\x00", 1000), "no upgrade file"},
		{"a long line", "skiff-upgrade " + strings.Repeat("1", 1000), "no upgrade file"},
		{"of the future", head(2, text), "format 2"},
		{"huge lengths", "skiff-upgrade 1 999999999 10\n", "make no sense"},
		{"negative lengths", "skiff-upgrade 1 -1 10\n", "make no sense"},
		{"of another kind", head(1, strings.Replace(text, Kind, "skiff-bundle", 1)), "kind"},
		{"no version", head(1, strings.Replace(text, `"v1.36.3+skiff1-4-gabc"`, `"latest"`, 1)), "latest"},
		{"a path for an architecture", head(1, strings.Replace(text, "arm64", "../../x", 1)), "platform"},
		{"too large", head(1, strings.Replace(text, `"size": 1`, `"size": 9999999999`, 1)), "9999999999"},
		{"a checksum too short", head(1, strings.Replace(text, `"sha256": "`, `"sha256": "00`, 1)), "sha256"},
		{"no JSON", head(1, "0a1b  skiff.gz\n"), "manifest"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Open(strings.NewReader(tt.file), key)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Open: %v, want %q", err, tt.want)
			}
		})
	}
}

// A manifest may say less than what is there: no more of it is written.
func TestExtractIsBounded(t *testing.T) {
	key, signer := theirs(t)
	file := packed(t, manifest(), strings.Repeat("\x00", 64<<20), signer)
	r, err := Open(bytes.NewReader(file), key)
	must(t, err)
	r.Manifest.Size = 1000
	var n counter
	if err := r.Extract(&n); !errors.Is(err, ErrSignature) || n > 1001 {
		t.Errorf("Extract: %v after %d bytes", err, n)
	}
}

type counter int64

func (c *counter) Write(p []byte) (int, error) { *c += counter(len(p)); return len(p), nil }

func TestDescribe(t *testing.T) {
	if _, err := Describe("/proc/self/exe"); err == nil || !strings.Contains(err.Error(), "no Kubernetes") {
		t.Errorf("Describe of the test: %v", err)
	}
	name := filepath.Join(t.TempDir(), "script")
	must(t, os.WriteFile(name, []byte("#!/bin/sh\n"), 0o755))
	if _, err := Describe(name); err == nil {
		t.Error("a script was described")
	}
}
