// Package install tests scripts/install.sh, on hosts of its own and without
// skiff: what is installed is a script that stands in for it. test/e2e installs
// skiff itself. The signatures are made here with nothing but crypto/ed25519,
// so that no mistake of pkg/release's can hide one of the script's.
//
// Start reading at Release; then verify_test.go for the signatures, run_test.go
// for installations and refusals_test.go for what must not be installed.
package install

import (
	"compress/gzip"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// keyID tells minisign's keys apart. The test has one key at a time.
const keyID = "skifftst"

// Key is a private key and how minisign writes its public part.
type Key struct {
	Private ed25519.PrivateKey
	Public  string
}

// NewKey makes a key. The same seed gives the same one.
func NewKey(seed byte) Key {
	private := ed25519.NewKeyFromSeed([]byte(strings.Repeat(string(rune(seed)), ed25519.SeedSize)))
	return Key{private, PublicKey(private.Public().(ed25519.PublicKey))}
}

// PublicKey is a key in minisign's form.
func PublicKey(key []byte) string {
	return base64.StdEncoding.EncodeToString(append([]byte("Ed"+keyID), key...))
}

// Signature is a file with a signature in minisign's older form.
func Signature(signature []byte) []byte {
	return fmt.Appendf(nil, "untrusted comment: of a test\n%s\ntrusted comment: none\n", base64.StdEncoding.EncodeToString(append([]byte("Ed"+keyID), signature...)))
}

// Release is a directory with the files of a release for this machine.
type Release struct {
	Dir     string
	Version string
	Key     Key
}

// Make writes a release of an executable, and with it the script, which trusts
// the key.
func Make(script, dir, version string, executable io.Reader, key Key) (*Release, error) {
	r := &Release{Dir: dir, Version: version, Key: key}
	whole, packed, err := pack(executable, r.path("gz"))
	if err != nil {
		return nil, err
	}
	name := "skiff-linux-" + runtime.GOARCH
	sums := fmt.Sprintf("%x  %s\n%x  %s.gz\n%x  skiff-%s-linux-%s.skiff\n", whole, name, packed, name, sha256.Sum256(nil), version, runtime.GOARCH)
	if err := r.WriteSums(sums); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(script)
	if err != nil {
		return nil, err
	}
	stamped := strings.Replace(string(text), "\nrelease_key=''\n", "\nrelease_key='"+key.Public+"'\n", 1)
	if stamped == string(text) {
		return nil, fmt.Errorf("%s has no line for the key", script)
	}
	return r, os.WriteFile(filepath.Join(dir, "install.sh"), []byte(stamped), 0o755)
}

func (r *Release) path(suffix string) string {
	return filepath.Join(r.Dir, "skiff-linux-"+runtime.GOARCH+"."+suffix)
}

// WriteSums writes the list of checksums and signs it.
func (r *Release) WriteSums(sums string) error {
	path := filepath.Join(r.Dir, "SHA256SUMS")
	if err := os.WriteFile(path, []byte(sums), 0o644); err != nil {
		return err
	}
	return os.WriteFile(path+".minisig", Signature(ed25519.Sign(r.Key.Private, []byte(sums))), 0o644)
}

// pack compresses a file and returns the checksums before and after.
func pack(from io.Reader, to string) (whole, packed []byte, err error) {
	f, err := os.Create(to)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	before, after := sha256.New(), sha256.New()
	z, err := gzip.NewWriterLevel(io.MultiWriter(f, after), gzip.BestSpeed)
	if err != nil {
		return nil, nil, err
	}
	if _, err := io.Copy(io.MultiWriter(z, before), from); err != nil {
		return nil, nil, err
	}
	if err := z.Close(); err != nil {
		return nil, nil, err
	}
	return before.Sum(nil), after.Sum(nil), f.Close()
}
