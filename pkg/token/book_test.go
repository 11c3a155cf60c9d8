package token

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func testFiles(t *testing.T) Files {
	dir := filepath.Join(t.TempDir(), "server")
	return Files{Server: filepath.Join(dir, "token"), Agent: filepath.Join(dir, "agent-token"), Node: filepath.Join(dir, "node-token")}
}

func mustOpen(t *testing.T, f Files, ca []byte, server, agent Token) (*Book, []string) {
	t.Helper()
	b, made, err := Open(f, ca, server, agent)
	if err != nil {
		t.Fatal(err)
	}
	return b, made
}

func content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

func TestOpen(t *testing.T) {
	f := testFiles(t)
	first, made := mustOpen(t, f, caA, Token{}, Token{})
	if len(made) != 2 {
		t.Errorf("made %v, want both", made)
	}
	for _, path := range []string{f.Server, f.Agent, f.Node} {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
	server, agent := first.Token(Server), first.Token(Agent)
	if server.Secret == agent.Secret || server.User != UserServer || agent.User != UserNode || content(t, f.Node) != agent.Reveal() {
		t.Errorf("tokens %q and %q, node-token %q", server.Reveal(), agent.Reveal(), content(t, f.Node))
	}
	again, made := mustOpen(t, f, caA, Token{}, Token{})
	if len(made) != 0 || again.Token(Server) != server || again.Token(Agent) != agent {
		t.Errorf("second start made %v", made)
	}
	moved, made := mustOpen(t, f, caB, Token{}, Token{})
	if len(made) != 0 || moved.Token(Server).Secret != server.Secret || moved.Token(Agent).VerifyCA(caB) != nil {
		t.Errorf("another authority: %v", moved.Token(Agent))
	}
	if err := os.WriteFile(f.Server, make([]byte, 64), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, made = mustOpen(t, f, caB, Token{}, Token{}); len(made) != 1 {
		t.Errorf("after a power cut: %v", made)
	}
	given, _ := mustOpen(t, f, caB, Token{Secret: "of the configuration"}, Token{})
	if given.Kind("of the configuration") != Server || content(t, f.Server) != given.Token(Server).Reveal() {
		t.Errorf("configured token: %q", content(t, f.Server))
	}
	if err := os.WriteFile(f.Server, []byte("two words"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Open(f, caB, Token{}, Token{}); !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), f.Server) {
		t.Errorf("garbage: %v", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	for name, given := range map[string][2]Token{
		"agent token for a server":    {{User: UserNode, Secret: "s"}, {}},
		"server token for agents":     {{}, {User: UserServer, Secret: "s"}},
		"form of a bootstrap token":   {{Secret: "abcdef.0123456789abcdef"}, {}},
		"form of a bootstrap token 2": {{}, {Secret: "abcdef.0123456789abcdef"}},
	} {
		if _, _, err := Open(testFiles(t), caA, given[0], given[1]); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestKind(t *testing.T) {
	b, _ := mustOpen(t, testFiles(t), caA, Token{Secret: "one for all"}, Token{Secret: "for agents"})
	for secret, want := range map[string]Kind{"one for all": Server, "for agents": Agent, "": Unknown, "one for al": Unknown} {
		if got := b.Kind(secret); got != want {
			t.Errorf("%q is a %s, want %s", secret, got, want)
		}
	}
	same, _ := mustOpen(t, testFiles(t), caA, Token{Secret: "same"}, Token{Secret: "same"})
	if got := same.Kind("same"); got != Server {
		t.Errorf("one secret for both is a %s", got)
	}
}

func TestRotate(t *testing.T) {
	f := testFiles(t)
	b, _ := mustOpen(t, f, caA, Token{}, Token{})
	old := b.Token(Agent)
	fresh, err := b.Rotate(Agent, "")
	if err != nil || fresh.Secret == old.Secret || fresh.CAHash != old.CAHash {
		t.Fatalf("%v, %v", fresh, err)
	}
	if b.Kind(old.Secret.Reveal()) != Unknown || b.Kind(fresh.Secret.Reveal()) != Agent {
		t.Error("the old secret is good, or the new one is not")
	}
	if content(t, f.Agent) != fresh.Reveal() || content(t, f.Node) != fresh.Reveal() {
		t.Error("the files have another token")
	}
	if fresh, err = b.Rotate(Server, "a secret one chooses"); err == nil {
		t.Errorf("white space: %v", fresh)
	}
	if fresh, err = b.Rotate(Server, "chosen-by-a-person"); err != nil || fresh.Secret != "chosen-by-a-person" {
		t.Errorf("%v, %v", fresh, err)
	}
	for _, secret := range []Secret{"short", "abcdef.0123456789abcdef", Secret(old.Reveal())} {
		if _, err := b.Rotate(Server, secret); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: %v", secret.Reveal(), err)
		}
	}
	reopened, made := mustOpen(t, f, caA, Token{}, Token{})
	if len(made) != 0 || reopened.Kind("chosen-by-a-person") != Server {
		t.Error("a restart has forgotten the rotation")
	}
	fixed, _ := mustOpen(t, f, caA, Token{Secret: "configured-secret"}, Token{})
	if _, err := fixed.Rotate(Server, ""); !errors.Is(err, ErrConfigured) || !strings.Contains(err.Error(), "--token") {
		t.Errorf("rotation of a configured token: %v", err)
	}
	if _, err := fixed.Rotate(Agent, ""); err != nil {
		t.Errorf("the other token: %v", err)
	}
}

func TestNewBootstrap(t *testing.T) {
	seen := map[Secret]bool{}
	for range 100 {
		tok, err := NewBootstrap()
		if err != nil || !tok.Bootstrap() || len(tok.ID()) != 6 || seen[tok.Secret] {
			t.Fatalf("%q, %v", tok.Reveal(), err)
		}
		seen[tok.Secret] = true
	}
	if id := (Token{Secret: "secret"}).ID(); id != "" {
		t.Errorf("ID of another token: %q", id)
	}
}

func TestRead(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("from-a-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, text, file, want, err string
	}{
		{"text", "plain", "", "plain", ""},
		{"file", "", file, "from-a-file", ""},
		{"both", "plain", file, "", "both"},
		{"no such file", "", file + "x", "", "--token-file"},
		{"garbage", "a b", "", "", "--token"},
		{"neither", "", "", "", ErrNone.Error()},
	} {
		got, err := Read("token", tt.text, tt.file)
		if got.Reveal() != tt.want || (err == nil) != (tt.err == "") || (err != nil && !strings.Contains(err.Error(), tt.err)) {
			t.Errorf("%s: %q, %v", tt.name, got.Reveal(), err)
		}
	}
}
