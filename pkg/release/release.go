// Package release reads and writes what a release of skiff consists of: public
// keys and signatures in minisign's form, the list of checksums, and the
// upgrade file, which is one executable with what must be known about it before
// it is run. It trusts nothing that the given key has not signed, and reads no
// more than it has room for. It knows neither where files come from nor what is
// done with them. Start reading at Key, then Open.
package release

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"aead.dev/minisign"
)

// The most that is read of files that are small.
const (
	maxKey       = 4 << 10
	maxSignature = 4 << 10
	maxSums      = 256 << 10
	maxManifest  = 64 << 10
)

// ErrSignature says that something is not what the owner of the key has signed.
var ErrSignature = errors.New("the signature does not match")

// Key is a public key: what it has signed is believed.
type Key struct{ public minisign.PublicKey }

// ParseKey reads a public key as minisign writes it: with or without the line of
// comment.
func ParseKey(text []byte) (Key, error) {
	var k Key
	if err := k.public.UnmarshalText([]byte(strings.TrimSpace(string(text)))); err != nil {
		return k, fmt.Errorf("read public key: %w; want a key as minisign writes it, two lines of which the second begins with RW", err)
	}
	return k, nil
}

// ReadKey reads a public key from a file.
func ReadKey(path string) (Key, error) {
	text, err := readSmall(path, maxKey)
	if err != nil {
		return Key{}, fmt.Errorf("read public key: %w", err)
	}
	k, err := ParseKey(text)
	if err != nil {
		return Key{}, fmt.Errorf("%s: %w", path, err)
	}
	return k, nil
}

// ID is the short name of the key, as minisign prints it.
func (k Key) ID() string { return keyID(k.public.ID()) }

// Text is the key as it is written to a file.
func (k Key) Text() ([]byte, error) {
	text, err := k.public.MarshalText()
	if err != nil {
		return nil, fmt.Errorf("write public key: %w", err)
	}
	return append(text, '\n'), nil
}

// Verify compares a signature, which may be in either of minisign's forms, with
// the message. Its error is ErrSignature where the signature is of this key and
// of something else.
func (k Key) Verify(message, signature []byte) error {
	var s minisign.Signature
	if err := s.UnmarshalText(signature); err != nil {
		return fmt.Errorf("read signature: %w", err)
	}
	if s.KeyID != k.public.ID() {
		return fmt.Errorf("the signature is by key %s, trusted is key %s", keyID(s.KeyID), k.ID())
	}
	if !minisign.Verify(k.public, message, signature) {
		return fmt.Errorf("%w the content: it was changed after key %s signed it", ErrSignature, k.ID())
	}
	return nil
}

// Signer is a private key.
type Signer struct{ private minisign.PrivateKey }

// NewSigner makes a key.
func NewSigner() (Signer, error) {
	_, private, err := minisign.GenerateKey(nil)
	if err != nil {
		return Signer{}, fmt.Errorf("make key: %w", err)
	}
	return Signer{private}, nil
}

// ReadSigner reads a private key that has no password, as `minisign -G -W` makes
// it.
func ReadSigner(path string) (Signer, error) {
	text, err := readSmall(path, maxKey)
	if err != nil {
		return Signer{}, fmt.Errorf("read private key: %w", err)
	}
	var s Signer
	if err := s.private.UnmarshalText([]byte(strings.TrimSpace(string(text)))); err != nil {
		return Signer{}, fmt.Errorf("read private key %s: %w", path, err)
	}
	return s, nil
}

// Text is the private key as it is written to a file.
func (s Signer) Text() ([]byte, error) {
	text, err := s.private.MarshalText()
	if err != nil {
		return nil, fmt.Errorf("write private key: %w", err)
	}
	return append(text, '\n'), nil
}

// Key is the public key.
func (s Signer) Key() (Key, error) {
	public, ok := s.private.Public().(minisign.PublicKey)
	if !ok {
		return Key{}, errors.New("take public key: the private key has none")
	}
	return Key{public}, nil
}

// Sign signs a message in minisign's older form, which is plain ed25519 of the
// message: a shell script can verify it. The comment is signed, too; it must be
// one line. The same message gives the same bytes.
func (s Signer) Sign(message []byte, comment string) ([]byte, error) {
	if strings.ContainsAny(comment, "\r\n") {
		return nil, fmt.Errorf("sign: the comment %q is more than one line", comment)
	}
	return minisign.SignWithComments(s.private, message, comment, "signature of skiff's release key "+keyID(s.private.ID())), nil
}

func keyID(id uint64) string { return strings.ToUpper(strconv.FormatUint(id, 16)) }

// readSmall reads a file that must not be larger than most.
func readSmall(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := readAtMost(f, most)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return data, nil
}

func readAtMost(r io.Reader, most int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, most+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > most {
		return nil, fmt.Errorf("it is larger than %d bytes", most)
	}
	return data, nil
}
