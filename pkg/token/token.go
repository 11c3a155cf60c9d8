// Package token is the join token: its written forms, the pin of the server's
// authority in it (Token), and the files a server keeps its tokens in (Book).
// It knows no HTTP, no cluster, and no certificates beyond their bytes. Start
// reading at Token.
package token

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"strings"
)

// Users of a token.
const (
	UserServer = "server"
	UserNode   = "node"
)

// prefix marks the full form and its version.
const prefix = "K10"

// Secret is text that never shows up in a log or an error.
type Secret string

// String hides the secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "[redacted]"
}

// GoString hides the secret from %#v.
func (s Secret) GoString() string { return s.String() }

// LogValue hides the secret from slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// Reveal returns the text.
func (s Secret) Reveal() string { return string(s) }

// Token lets a machine join. The full form is
//
//	K10<sha256 of the server's authority>::<user>:<secret>
//
// and pins the server. The short form is the secret alone; who uses it trusts
// whatever answers first. A bootstrap token (KEP: "abcdef.0123456789abcdef")
// stands in place of user and secret.
type Token struct {
	CAHash string // 64 hexadecimal digits, or empty in the short form
	User   string // "server" or "node"; empty in the short form and for a bootstrap token
	Secret Secret
}

// Errors of this package that callers decide on.
var (
	ErrMalformed  = errors.New("malformed token")
	ErrCAMismatch = errors.New("the server's authority is not the one in the token")
)

const maxLength = 1024

// Parse reads either form. Its errors never contain the secret.
func Parse(text string) (Token, error) {
	text = strings.TrimSpace(text)
	if text == "" {
		return Token{}, fmt.Errorf("%w: it is empty", ErrMalformed)
	}
	if len(text) > maxLength {
		return Token{}, fmt.Errorf("%w: longer than %d characters", ErrMalformed, maxLength)
	}
	if i := strings.IndexFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }); i >= 0 {
		return Token{}, fmt.Errorf("%w: white space or an unprintable character at position %d", ErrMalformed, i+1)
	}
	if !strings.HasPrefix(text, prefix) || !strings.Contains(text, "::") {
		return parseShort(text)
	}
	hash, rest, _ := strings.Cut(text[len(prefix):], "::")
	if len(hash) != 2*sha256.Size {
		return Token{}, fmt.Errorf("%w: %d characters between %s and \"::\", expected the %d of a SHA-256; was it copied whole?", ErrMalformed, len(hash), prefix, 2*sha256.Size)
	}
	if _, err := hex.DecodeString(hash); err != nil {
		return Token{}, fmt.Errorf("%w: the part between %s and \"::\" is not hexadecimal", ErrMalformed, prefix)
	}
	t := Token{CAHash: strings.ToLower(hash)}
	user, secret, found := strings.Cut(rest, ":")
	if !found {
		if !isBootstrap(rest) {
			return Token{}, fmt.Errorf("%w: \"::\" must be followed by <user>:<secret>", ErrMalformed)
		}
		t.Secret = Secret(rest)
		return t, nil
	}
	if user != UserServer && user != UserNode {
		return Token{}, fmt.Errorf("%w: unknown user, expected %q or %q after \"::\"", ErrMalformed, UserServer, UserNode)
	}
	if secret == "" {
		return Token{}, fmt.Errorf("%w: the secret after \"::%s:\" is empty", ErrMalformed, user)
	}
	t.User, t.Secret = user, Secret(secret)
	return t, nil
}

func parseShort(text string) (Token, error) {
	if strings.HasPrefix(text, prefix) && len(text) >= len(prefix)+2*sha256.Size {
		return Token{}, fmt.Errorf("%w: it begins with %s but has no \"::<user>:<secret>\"; was it copied whole?", ErrMalformed, prefix)
	}
	if strings.Contains(text, ":") {
		return Token{}, fmt.Errorf("%w: a short token is the secret alone, without \":\"", ErrMalformed)
	}
	return Token{Secret: Secret(text)}, nil
}

// isBootstrap reports whether s has the form of a bootstrap token:
// six characters, a dot, sixteen characters of a-z and 0-9.
func isBootstrap(s string) bool {
	id, secret, ok := strings.Cut(s, ".")
	return ok && len(id) == 6 && len(secret) == 16 && strings.Trim(id+secret, letters) == ""
}

// Bootstrap reports whether this is a bootstrap token.
func (t Token) Bootstrap() bool { return t.User == "" && isBootstrap(string(t.Secret)) }

// Pinned reports whether the token tells which server to trust.
func (t Token) Pinned() bool { return t.CAHash != "" }

// Reveal returns the written form, secret included.
func (t Token) Reveal() string {
	if t.CAHash == "" {
		return string(t.Secret)
	}
	if t.User == "" {
		return prefix + t.CAHash + "::" + string(t.Secret)
	}
	return prefix + t.CAHash + "::" + t.User + ":" + string(t.Secret)
}

// String returns the written form with the secret hidden.
func (t Token) String() string {
	t.Secret = Secret(t.Secret.String())
	return t.Reveal()
}

// GoString hides the secret from %#v.
func (t Token) GoString() string { return t.String() }

// LogValue hides the secret from slog.
func (t Token) LogValue() slog.Value { return slog.StringValue(t.String()) }

// Accepts reports whether a caller knows the secret; it takes the same time
// however much of a guess is right. The empty token accepts nobody.
func (t Token) Accepts(secret string) bool {
	want, got := sha256.Sum256([]byte(t.Secret)), sha256.Sum256([]byte(secret))
	return subtle.ConstantTimeCompare(want[:], got[:]) == 1 && t.Secret != ""
}

// VerifyCA checks the authority a server presents against the pin. A short
// token verifies any.
func (t Token) VerifyCA(caPEM []byte) error {
	if !t.Pinned() {
		return nil
	}
	have, err := Hash(caPEM)
	if err != nil {
		return err
	}
	if subtle.ConstantTimeCompare([]byte(have), []byte(t.CAHash)) != 1 {
		return fmt.Errorf("%w: token says %s…, server has %s…; use the token of this server, or check what answers at its address", ErrCAMismatch, t.CAHash[:12], have[:12])
	}
	return nil
}

// Hash returns the pin of an authority: of a single certificate the SHA-256 of
// its PEM form (what `sha256sum server-ca.crt` prints), of a chain that of the
// root's DER form, as K3s does.
func Hash(caPEM []byte) (string, error) {
	var blocks []*pem.Block
	for block, rest := pem.Decode(caPEM); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			blocks = append(blocks, block)
		}
	}
	if len(blocks) == 0 {
		return "", errors.New("hash authority: no certificate in PEM form")
	}
	if len(blocks) == 1 {
		sum := sha256.Sum256(pem.EncodeToMemory(&pem.Block{Type: blocks[0].Type, Bytes: blocks[0].Bytes}))
		return hex.EncodeToString(sum[:]), nil
	}
	for _, b := range blocks {
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return "", fmt.Errorf("hash authority: %w", err)
		}
		if bytes.Equal(c.RawIssuer, c.RawSubject) && c.CheckSignatureFrom(c) == nil {
			sum := sha256.Sum256(b.Bytes)
			return hex.EncodeToString(sum[:]), nil
		}
	}
	return "", errors.New("hash authority: the chain has no self-signed root")
}

// Generate returns a new server token pinned to the authority.
func Generate(caPEM []byte) (Token, error) {
	hash, err := Hash(caPEM)
	if err != nil {
		return Token{}, err
	}
	secret, err := random()
	if err != nil {
		return Token{}, err
	}
	return Token{CAHash: hash, User: UserServer, Secret: secret}, nil
}
