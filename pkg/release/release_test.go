package release

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What minisign 0.11 has made of "hello\n": in its older form, and in its newer.
const (
	theirKey = `untrusted comment: minisign public key 142CE97B8AB955B4
RWS0VbmKe+ksFPUfEI1Btx1sX5ngZDXi4aNVehsrigocf5HqVwsUzCLb
`
	theirPrivateKey = `untrusted comment: minisign encrypted secret key
RWQAAEIyAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAtFW5invpLBSlkMhRpVNnAIIecsov6eAn+1BzQaTrax/MivDBTVuTUvUfEI1Btx1sX5ngZDXi4aNVehsrigocf5HqVwsUzCLbAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=
`
	theirOlder = `untrusted comment: signature from minisign secret key
RWS0VbmKe+ksFPPJ+5S4hVCeA6i6FgspTHFTuny6VtI31x+et3lT8heoVjoY/995wcEMThmoka5sL/BG4wGgXL5ulFrnZXEwmws=
trusted comment: file:m legacy
BmHtapmiCqj1F+2OvgO+c631mgoy9zyT6nsYsQn4fwHG5ekkJgnidrZ12mpviMxFVK3jr7/8F52PxEnt7ca2Aw==
`
	theirNewer = `untrusted comment: signature from minisign secret key
RUS0VbmKe+ksFNU4bBKGsyO4c9vgpA8WisFnQd0G0FXl1dG6OXB03Z9+q8T0VTKGv8yuqrcR/sjabFLrUZGlERMnOZ2wjeNLAg8=
trusted comment: file:m hashed
weL0IWjVNaJ+0eHzjmwQJKrD5Kpr7Ff3neBXqF7sLDDSRuNJWWY6PgE4XiTs58Ec4TkK03s4zlnEe2AfixkMAQ==
`
)

// theirs reads minisign's keys.
func theirs(t *testing.T) (Key, Signer) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "key")
	must(t, os.WriteFile(name, []byte(theirPrivateKey), 0o600))
	must(t, os.WriteFile(name+".pub", []byte(theirKey), 0o600))
	key, err := ReadKey(name + ".pub")
	must(t, err)
	signer, err := ReadSigner(name)
	must(t, err)
	return key, signer
}

func TestVerifyMinisign(t *testing.T) {
	key, signer := theirs(t)
	if key.ID() != "142CE97B8AB955B4" {
		t.Errorf("ID() = %s", key.ID())
	}
	ours, err := signer.Sign([]byte("hello\n"), "file:m legacy")
	must(t, err)
	_, theirs, _ := strings.Cut(theirOlder, "\n")
	if _, rest, _ := strings.Cut(string(ours), "\n"); rest != theirs {
		t.Errorf("Sign differs from minisign (-want +got):\n%s", cmp.Diff(theirs, rest))
	}
	public, err := signer.Key()
	must(t, err)
	for name, signature := range map[string]string{"older": theirOlder, "newer": theirNewer, "ours": string(ours)} {
		for _, k := range []Key{key, public} {
			if err := k.Verify([]byte("hello\n"), []byte(signature)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if err := key.Verify([]byte("hello!\n"), []byte(signature)); !errors.Is(err, ErrSignature) {
			t.Errorf("%s of something else: %v", name, err)
		}
		comment := strings.Replace(signature, "file:m", "file:n", 1)
		if err := key.Verify([]byte("hello\n"), []byte(comment)); !errors.Is(err, ErrSignature) {
			t.Errorf("%s with another comment: %v", name, err)
		}
	}
}

func TestVerifyRefuses(t *testing.T) {
	key, _ := theirs(t)
	other, err := NewSigner()
	must(t, err)
	foreign, err := other.Sign([]byte("hello\n"), "x")
	must(t, err)
	for name, signature := range map[string]string{
		"empty": "", "of another key": string(foreign), "cut": theirOlder[:120], "not base64": strings.Replace(theirOlder, "RWS0", "****", 1),
	} {
		if err := key.Verify([]byte("hello\n"), []byte(signature)); err == nil {
			t.Errorf("%s: verified", name)
		}
	}
}

func TestKeys(t *testing.T) {
	for name, text := range map[string]string{"empty": "", "prose": "this is no key\n", "cut": theirKey[:70], "private": theirPrivateKey} {
		if _, err := ParseKey([]byte(text)); err == nil {
			t.Errorf("%s: read as a key", name)
		}
	}
	large := filepath.Join(t.TempDir(), "large")
	must(t, os.WriteFile(large, []byte(theirKey+strings.Repeat("\n", maxKey)), 0o600))
	if _, err := ReadKey(large); err == nil {
		t.Error("a file of 4 KiB was read as a key")
	}
	signer, err := NewSigner()
	must(t, err)
	text, err := signer.Text()
	must(t, err)
	name := filepath.Join(t.TempDir(), "key")
	must(t, os.WriteFile(name, text, 0o600))
	again, err := ReadSigner(name)
	must(t, err)
	key, err := signer.Key()
	must(t, err)
	public, err := key.Text()
	must(t, err)
	parsed, err := ParseKey(public)
	must(t, err)
	signature, err := again.Sign([]byte("x"), "")
	must(t, err)
	must(t, parsed.Verify([]byte("x"), signature))
	if _, err := signer.Sign(nil, "two\nlines"); err == nil {
		t.Error("a comment of two lines was signed")
	}
}

func TestReadSums(t *testing.T) {
	signer, err := NewSigner()
	must(t, err)
	key, err := signer.Key()
	must(t, err)
	a, b := strings.Repeat("0a", 32), strings.Repeat("B7", 32)
	tests := []struct {
		name, text string
		want       Sums
	}{
		{"two files", a + "  skiff.gz\n" + b + " *skiff.xz\n", Sums{"skiff.gz": a, "skiff.xz": strings.ToLower(b)}},
		{"none", "", Sums{}},
		{"no name", a + "\n", nil},
		{"short sum", a[2:] + "  skiff.gz\n", nil},
		{"twice", a + "  x\n" + b + "  x\n", nil},
		{"too large", strings.Repeat(a+"  x\n", 10_000), nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			signature, err := signer.Sign([]byte(tt.text), "sums")
			must(t, err)
			got, err := ReadSums(strings.NewReader(tt.text), strings.NewReader(string(signature)), key)
			if (err == nil) != (tt.want != nil) {
				t.Fatalf("error %v", err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if _, err := ReadSums(strings.NewReader(tt.text+"\n"), strings.NewReader(string(signature)), key); err == nil {
				t.Error("a changed list was read")
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
