package token

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var (
	hash = strings.Repeat("0a", 32)
	caA  = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("a")})
	caB  = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("b")})
)

func TestParse(t *testing.T) {
	tests := []struct {
		name, in string
		want     Token
	}{
		{"full", "K10" + hash + "::server:s3cret", Token{hash, "server", "s3cret"}},
		{"node", "K10" + hash + "::node:a:b", Token{hash, "node", "a:b"}},
		{"line end", "K10" + hash + "::server:s\n", Token{hash, "server", "s"}},
		{"upper case hash", "K10" + strings.ToUpper(hash) + "::server:s", Token{hash, "server", "s"}},
		{"bootstrap", "K10" + hash + "::abcdef.0123456789abcdef", Token{hash, "", "abcdef.0123456789abcdef"}},
		{"short", "s3cret", Token{"", "", "s3cret"}},
		{"short that begins like the long one", "K10rabbits", Token{"", "", "K10rabbits"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Parse(tt.in)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	for _, in := range []string{
		"", "  ", "a b", "K10" + hash, "K10" + hash + "::", "K10" + hash + "::server:", "K10" + hash + "::server",
		"K10" + hash + "::root:TOPSECRET", "K10" + hash[1:] + "::server:TOPSECRET", "K10" + "zz" + hash[2:] + "::server:TOPSECRET",
		"server:TOPSECRET", strings.Repeat("x", 2000), "caf\u00e9",
	} {
		if _, err := Parse(in); !errors.Is(err, ErrMalformed) || strings.Contains(err.Error(), "TOPSECRET") {
			t.Errorf("Parse(%.20q): %v", in, err)
		}
	}
}

func TestSecretStaysSecret(t *testing.T) {
	tok := Token{hash, "server", "TOPSECRET"}
	var b bytes.Buffer
	slog.New(slog.NewTextHandler(&b, nil)).Info("x", "token", tok, "secret", tok.Secret)
	fmt.Fprintf(&b, "%v %+v %#v %s %q %v", tok, tok, tok, tok, tok, struct{ T Token }{tok})
	if strings.Contains(b.String(), "TOPSECRET") {
		t.Error(b.String())
	}
}

func TestPin(t *testing.T) {
	tok, err := Generate(caA)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(caA)
	if want := hex.EncodeToString(sum[:]); tok.CAHash != want {
		t.Errorf("pin %s, sha256sum of the file is %s", tok.CAHash, want)
	}
	if err := tok.VerifyCA(append([]byte("# a comment\n"), caA...)); err != nil {
		t.Error(err)
	}
	if err := tok.VerifyCA(caB); !errors.Is(err, ErrCAMismatch) {
		t.Errorf("other authority: %v", err)
	}
	if tok.Accepts("") || tok.Accepts("x") || !tok.Accepts(tok.Secret.Reveal()) || (Token{}).Accepts("") {
		t.Error("Accepts is wrong")
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"s", "K10" + hash + "::server:s", "K10::", "K10" + hash + "::abcdef.0123456789abcdef"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		tok, err := Parse(s)
		if err != nil {
			return
		}
		again, err := Parse(tok.Reveal())
		if err != nil || again != tok {
			t.Errorf("%q does not survive: %v", s, err)
		}
		if tok.Secret == "" {
			t.Errorf("%q: accepted without a secret", s)
		}
	})
}
