package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"skiff/pkg/payload"
	"skiff/pkg/release"
)

// testOptions are those of a release of this test, which is a Go program with
// modules in it, and carries itself.
func testOptions(t *testing.T) options {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, data := range map[string]string{
		"payload/tool":              string(program),
		"payload/nft":               "C",
		"payload/nft.d/libmnl.so.0": "library",
		"payload/licenses/libmnl0": "Package: libmnl0\nVersion: 1:1.0.5-3\nSource: libmnl\n\n" +
			"Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\nFiles: *\nCopyright: somebody\nLicense: LGPL-2.1+\n",
		"payload/licenses/static/libc": "Package: libc6-dev\nVersion: 2.36-9\nSource: glibc\n\nProse.\n",
	} {
		file := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(data), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	o := options{
		skiff: filepath.Join(dir, "skiff"), version: "v1.36.3+skiff1", commit: "0123456789abcdef",
		created: time.Date(2026, 11, 21, 15, 27, 0, 0, time.UTC), modcache: filepath.Join(dir, "modcache"),
		pub: filepath.Join(dir, "skiff.pub"), dir: filepath.Join(dir, "dist"), out: filepath.Join(dir, "out"),
	}
	if err := errors.Join(payload.WriteFile(o.skiff, self, filepath.Join(dir, "payload")), os.Mkdir(o.dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	return o
}

// output runs a command twice and returns what it has written, which has to be
// the same.
func output(t *testing.T, o options, command func(options) error) []byte {
	t.Helper()
	var first []byte
	for range 2 {
		if err := command(o); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(o.out)
		if err != nil {
			t.Fatal(err)
		}
		if first != nil && !bytes.Equal(first, data) {
			t.Error("two runs give different bytes")
		}
		first = data
	}
	return first
}

func TestSBOM(t *testing.T) {
	o := testOptions(t)
	var d spdxDocument
	if err := json.Unmarshal(output(t, o, writeSBOM), &d); err != nil {
		t.Fatal(err)
	}
	names := map[string]string{spdxDocumentID: "the document"}
	for _, p := range d.Packages {
		if names[p.ID] != "" {
			t.Errorf("%s is there twice", p.ID)
		}
		names[p.ID] = p.Name
		if p.Name == "" || p.DownloadLocation == "" || p.LicenseConcluded == "" || p.LicenseDeclared == "" || p.Copyright == "" {
			t.Errorf("%s lacks what SPDX demands: %+v", p.ID, p)
		}
	}
	relations := map[string]bool{}
	for _, r := range d.Relationships {
		if names[r.From] == "" || names[r.To] == "" {
			t.Errorf("a relationship of what does not exist: %+v", r)
		}
		relations[names[r.From]+" "+r.Type+" "+names[r.To]] = true
	}
	for _, want := range []string{
		"the document DESCRIBES skiff", "skiff CONTAINS tool", "skiff CONTAINS nft", "skiff CONTAINS libmnl0",
		"skiff STATIC_LINK libc6-dev", "tool DEPENDS_ON stdlib",
	} {
		if !relations[want] {
			t.Errorf("the bill does not say: %s", want)
		}
	}
	file, err := os.ReadFile(o.skiff)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(file)
	for _, p := range d.Packages {
		switch p.Name {
		case "skiff":
			if diff := cmp.Diff([]spdxChecksum{{"SHA256", hex.EncodeToString(sum[:])}}, p.Checksums); diff != "" {
				t.Errorf("checksum of skiff (-want +got):\n%s", diff)
			}
		case "libmnl0":
			if p.LicenseDeclared != "LGPL-2.1-or-later" || !strings.HasPrefix(p.References[0].Locator, "pkg:deb/debian/libmnl0@1%3A1.0.5-3?arch=") {
				t.Errorf("libmnl0: %+v", p)
			}
		}
	}
}

// makeKey makes the public key o.pub and returns its second line.
func makeKey(t *testing.T, o options) (release.Signer, string) {
	t.Helper()
	signer, err := release.NewSigner()
	if err != nil {
		t.Fatal(err)
	}
	key, err := signer.Key()
	if err != nil {
		t.Fatal(err)
	}
	text, err := key.Text()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(o.pub, text, 0o644); err != nil {
		t.Fatal(err)
	}
	return signer, lastLine(string(text))
}

// What is listed can be read the way an upgrade reads it.
func TestSums(t *testing.T) {
	o := testOptions(t)
	o.names = "skiff-linux-amd64"
	signer, _ := makeKey(t, o)
	if err := errors.Join(os.WriteFile(filepath.Join(o.dir, "install.sh"), []byte("echo"), 0o755), writeSums(o)); err != nil {
		t.Fatal(err)
	}
	list, err := os.ReadFile(filepath.Join(o.dir, release.SumsName))
	if err != nil {
		t.Fatal(err)
	}
	signature, err := signer.Sign(list, "test")
	if err != nil {
		t.Fatal(err)
	}
	key, err := release.ReadKey(o.pub)
	if err != nil {
		t.Fatal(err)
	}
	sums, err := release.ReadSums(bytes.NewReader(list), bytes.NewReader(signature), key)
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(o.skiff)
	if err != nil {
		t.Fatal(err)
	}
	sum, script := sha256.Sum256(program), sha256.Sum256([]byte("echo"))
	want := release.Sums{"skiff-linux-amd64": hex.EncodeToString(sum[:]), "install.sh": hex.EncodeToString(script[:])}
	if diff := cmp.Diff(want, sums); diff != "" {
		t.Errorf("sums (-want +got):\n%s", diff)
	}
	// Once more: the list is not in itself.
	if err := writeSums(o); err != nil {
		t.Fatal(err)
	}
	if again, err := os.ReadFile(filepath.Join(o.dir, release.SumsName)); err != nil || !bytes.Equal(list, again) {
		t.Errorf("the second list differs (%v):\n%s", err, again)
	}
}

func TestInstaller(t *testing.T) {
	o := testOptions(t)
	_, public := makeKey(t, o)
	o.install = filepath.Join(filepath.Dir(o.out), "install.sh")
	for _, tt := range []struct {
		name, script string
		fails        bool
	}{
		{"as it is in git", "#!/bin/sh\nrelease_key=''\nrelease_version=''\nexit\n", false},
		{"without a place", "#!/bin/sh\nrelease_version=''\n", true},
		{"stamped already", "#!/bin/sh\nrelease_key='RW'\nrelease_version=''\n", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := os.WriteFile(o.install, []byte(tt.script), 0o755); err != nil {
				t.Fatal(err)
			}
			err := writeInstaller(o)
			if tt.fails {
				if err == nil {
					t.Error("it was written")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(o.out)
			if err != nil {
				t.Fatal(err)
			}
			want := "#!/bin/sh\nrelease_key='" + public + "'\nrelease_version='v1.36.3+skiff1'\nexit\n"
			if diff := cmp.Diff(want, string(got)); diff != "" {
				t.Errorf("installer (-want +got):\n%s", diff)
			}
		})
	}
}
