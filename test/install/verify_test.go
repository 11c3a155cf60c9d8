package install

import (
	"crypto/ed25519"
	"encoding/hex"
	"fmt"
	"math/big"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"skiff/pkg/release"
)

const script = "../../scripts/install.sh"

// vector is one of RFC 8032, section 7.1.
type vector struct{ name, seed, public, message, signature string }

func vectors() []vector {
	return []vector{
		{
			"test 1",
			"9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
			"d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
			"",
			"e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
		},
		{
			"test 2",
			"4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
			"3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
			"72",
			"92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
		},
		{
			"test 3",
			"c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
			"fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
			"af82",
			"6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
		},
		{
			"test SHA(abc)",
			"833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42",
			"ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
			"ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
			"dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704",
		},
	}
}

// awk is an implementation of awk and what to put before the PATH for it.
type awk struct{ name, path string }

// awks are all that the script has to do with.
func awks(t *testing.T) []awk {
	t.Helper()
	var all []awk
	for _, program := range []string{"mawk", "gawk", "busybox"} {
		path, err := exec.LookPath(program)
		if err != nil {
			t.Fatalf("%v; scripts/needs.sh installs it", err)
		}
		dir := t.TempDir()
		if err := os.Symlink(path, filepath.Join(dir, "awk")); err != nil {
			t.Fatal(err)
		}
		all = append(all, awk{program, dir + ":" + os.Getenv("PATH")})
	}
	return all
}

// verify asks the script about a signature and returns what it says, "" if it
// is content.
func verify(t *testing.T, shell []string, path, public string, message, signature []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file")
	for name, content := range map[string][]byte{file: message, file + ".minisig": signature} {
		if err := os.WriteFile(name, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), shell[0], append(slices.Clone(shell[1:]), script, "verify", file)...)
	cmd.Env = []string{"PATH=" + path, "INSTALL_SKIFF_PUBLIC_KEY=" + public}
	out, err := cmd.CombinedOutput()
	if err == nil {
		return ""
	}
	return string(out) + err.Error()
}

func TestVerifyVectors(t *testing.T) {
	t.Parallel()
	for _, a := range awks(t) {
		t.Run(a.name, func(t *testing.T) {
			t.Parallel()
			for _, v := range vectors() {
				seed, public, message, signature := unhex(t, v.seed), unhex(t, v.public), unhex(t, v.message), unhex(t, v.signature)
				if private := ed25519.NewKeyFromSeed(seed); string(ed25519.Sign(private, message)) != string(signature) || string(private[32:]) != string(public) {
					t.Fatalf("%s: the vector is not what it should be", v.name)
				}
				if got := verify(t, []string{"sh"}, a.path, PublicKey(public), message, Signature(signature)); got != "" {
					t.Errorf("%s: %s", v.name, got)
				}
			}
		})
	}
}

// Every shell prints the bytes that are hashed in a way of its own.
func TestVerifyShells(t *testing.T) {
	t.Parallel()
	key, message := NewKey('a'), []byte("text")
	for _, shell := range [][]string{{"dash"}, {"bash"}, {"bash", "--posix"}, {"busybox", "ash"}} {
		t.Run(strings.Join(shell, " "), func(t *testing.T) {
			t.Parallel()
			signature := Signature(ed25519.Sign(key.Private, message))
			if got := verify(t, shell, os.Getenv("PATH"), key.Public, message, signature); got != "" {
				t.Error(got)
			}
			if got := verify(t, shell, os.Getenv("PATH"), key.Public, []byte("texT"), signature); !strings.Contains(got, "does not fit") {
				t.Errorf("a changed file: %q", got)
			}
		})
	}
}

// What the script thinks of random signatures, and of ones with one bit changed
// somewhere, is what crypto/ed25519 thinks.
func TestVerifyRandom(t *testing.T) {
	t.Parallel()
	rounds := 4
	if os.Getenv("SKIFF_SOAK") != "" {
		rounds = 500
	}
	seed := rand.Uint64()
	for _, a := range awks(t) {
		t.Run(a.name, func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(seed, 1))
			for range rounds {
				private := ed25519.NewKeyFromSeed(noise(random, ed25519.SeedSize))
				message := noise(random, random.IntN(300))
				public, signature := slices.Clone([]byte(private.Public().(ed25519.PublicKey))), ed25519.Sign(private, message)
				switch part := [][]byte{public, message, signature}[random.IntN(3)]; {
				case random.IntN(2) == 0 || len(part) == 0:
				default:
					part[random.IntN(len(part))] ^= 1 << random.IntN(8)
				}
				got := verify(t, []string{"sh"}, a.path, PublicKey(public), message, Signature(signature))
				if want := ed25519.Verify(public, message, signature); (got == "") != want {
					t.Errorf("seed %d: key %x, message %x, signature %x: the script says %q, want good %t", seed, public, message, signature, got, want)
				}
			}
		})
	}
}

// What `make release` signs is what the script verifies.
func TestVerifyRelease(t *testing.T) {
	t.Parallel()
	signer, err := release.NewSigner()
	if err != nil {
		t.Fatal(err)
	}
	message := []byte("0123  skiff-linux-amd64\n")
	signature, err := signer.Sign(message, "a release")
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
	file := filepath.Join(t.TempDir(), "key.pub")
	if err := os.WriteFile(file, text, 0o644); err != nil {
		t.Fatal(err)
	}
	if got := verify(t, []string{"sh"}, os.Getenv("PATH"), file, message, signature); got != "" {
		t.Error(got)
	}
}

func TestVerifyRefuses(t *testing.T) {
	t.Parallel()
	key, other, message := NewKey('a'), NewKey('b'), []byte("text")
	raw := ed25519.Sign(key.Private, message)
	good := string(Signature(raw))
	line := strings.Split(good, "\n")[1]
	for _, tc := range []struct {
		name, public, signature, want string
	}{
		{"another key with the same number", other.Public, good, "does not fit"},
		{"a key with another number", "RWQ" + key.Public[3:], good, "another key"},
		{"half a key", key.Public[:30], good, "none of minisign's"},
		{"a word for a key", "secret", good, "none of minisign's"},
		{"a signature cut off", key.Public, good[:60], "no signature"},
		{"an empty signature", key.Public, "", "no signature"},
		{"the comment only", key.Public, strings.Split(good, "\n")[0] + "\n", "no signature"},
		{"other characters", key.Public, strings.Replace(good, line, "$(id)"+line, 1), "no signature"},
		{"the newer form", key.Public, strings.Replace(good, line, "RUR"+line[3:], 1), "no signature"},
		{"S with the order of the group added", key.Public, string(Signature(malleable(raw))), "does not fit"},
		{"all zero", key.Public, string(Signature(make([]byte, 64))), "does not fit"},
		{"all ones", key.Public, string(Signature([]byte(strings.Repeat("\xff", 64)))), "does not fit"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if got := verify(t, []string{"sh"}, os.Getenv("PATH"), tc.public, message, []byte(tc.signature)); !strings.Contains(got, tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

// malleable is another number for the same S: a verifier that does not look
// takes both.
func malleable(signature []byte) []byte {
	order, _ := new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)
	s := slices.Clone(signature[32:])
	slices.Reverse(s)
	s = new(big.Int).Add(new(big.Int).SetBytes(s), order).FillBytes(make([]byte, 32))
	slices.Reverse(s)
	return append(slices.Clone(signature[:32]), s...)
}

func noise(random *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(random.UintN(256))
	}
	return b
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestShellcheck is the script's linter.
func TestShellcheck(t *testing.T) {
	t.Parallel()
	scripts, err := filepath.Glob("../../scripts/*.sh")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("find the scripts: %v", err)
	}
	out, err := exec.CommandContext(t.Context(), "shellcheck", append([]string{"--"}, scripts...)...).CombinedOutput()
	if err != nil {
		t.Errorf("shellcheck: %v\n%s", err, out)
	}
	if len(out) > 0 {
		fmt.Fprintf(t.Output(), "%s", out)
	}
}
