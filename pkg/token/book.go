package token

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"skiff/internal/atomicfile"
)

// Kind says what the holder of a token may do.
type Kind int

// The kinds of a token.
const (
	Unknown   Kind = iota
	Bootstrap      // lets agents join for a time; kept in the cluster, not in a Book
	Agent          // lets agents join
	Server         // lets agents and servers join, and changes tokens
)

// String names the kind for people.
func (k Kind) String() string {
	switch k {
	case Bootstrap:
		return "bootstrap token"
	case Agent:
		return "agent token"
	case Server:
		return "server token"
	default:
		return "unknown token"
	}
}

// Files are where a server keeps its tokens. Node has the content of Agent,
// under the name by which K3s' users look for what an agent needs.
type Files struct{ Server, Agent, Node string }

// ErrConfigured is returned by Rotate for a token that the configuration sets.
var ErrConfigured = errors.New("the token is set in the server's configuration")

// Book holds the two tokens of a server, in memory and in Files.
type Book struct {
	files      Files
	configured map[Kind]bool

	mu     sync.RWMutex
	tokens map[Kind]Token // guarded by mu
}

// Open reads the tokens, and makes and writes those that are missing. Given
// are those of the configuration, which win; a zero Token is none. It returns
// the files in which there is a new secret.
func Open(files Files, caPEM []byte, server, agent Token) (*Book, []string, error) {
	b := &Book{files: files, configured: map[Kind]bool{}, tokens: map[Kind]Token{}}
	var made []string
	for _, one := range []struct {
		kind  Kind
		given Token
		user  string
		file  string
	}{{Server, server, UserServer, files.Server}, {Agent, agent, UserNode, files.Agent}} {
		if err := usable(one.kind, one.given); err != nil {
			return nil, nil, err
		}
		t, created, err := ensureFile(one.file, one.user, caPEM, one.given.Secret)
		if err != nil {
			return nil, nil, err
		}
		if created {
			made = append(made, one.file)
		}
		b.tokens[one.kind], b.configured[one.kind] = t, one.given.Secret != ""
	}
	return b, made, b.write(files.Node, b.tokens[Agent])
}

// usable refuses a token that cannot be what the configuration makes of it.
func usable(kind Kind, t Token) error {
	switch {
	case t.Bootstrap():
		return fmt.Errorf("invalid %s: it has the form of a bootstrap token (abcdef.0123456789abcdef), which `skiff token create` makes; choose another secret", kind)
	case kind == Server && t.User == UserNode:
		return errors.New("invalid --token: this is an agent token, which a server cannot use; take the server's, from server/token below its data directory")
	case kind == Agent && t.User == UserServer:
		return errors.New("invalid --agent-token: this is a server token; choose another secret for agents")
	}
	return nil
}

// Kind tells what a secret is, in a time that does not depend on how much of a
// guess is right.
func (b *Book) Kind(secret string) Kind {
	b.mu.RLock()
	defer b.mu.RUnlock()
	kind := Unknown
	for _, k := range []Kind{Agent, Server} {
		if b.tokens[k].Accepts(secret) {
			kind = k
		}
	}
	return kind
}

// Token returns the token of a kind.
func (b *Book) Token(kind Kind) Token {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.tokens[kind]
}

// Rotate replaces the secret of a token, from this moment on and in its file.
// An empty secret means a new random one.
func (b *Book) Rotate(kind Kind, secret Secret) (Token, error) {
	if kind != Server && kind != Agent {
		return Token{}, fmt.Errorf("rotate token: there is no %s to rotate", kind)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.configured[kind] {
		option := map[Kind]string{Server: "token", Agent: "agent-token"}[kind]
		return Token{}, fmt.Errorf("%w: change --%s (or --%s-file) there and restart the server; nodes that have joined are not affected", ErrConfigured, option, option)
	}
	if secret == "" {
		text, err := random()
		if err != nil {
			return Token{}, err
		}
		secret = text
	}
	if t, err := Parse(secret.Reveal()); err != nil || t.Pinned() || t.Bootstrap() || len(secret) < minSecret {
		return Token{}, fmt.Errorf("%w: the new one must be a secret alone, of at least %d characters, without \":\" and not in the form of a bootstrap token", ErrMalformed, minSecret)
	}
	t := b.tokens[kind]
	t.Secret = secret
	if err := b.write(b.file(kind), t); err != nil {
		return Token{}, err
	}
	b.tokens[kind] = t
	if kind == Agent {
		return t, b.write(b.files.Node, t)
	}
	return t, nil
}

// minSecret keeps people from secrets that can be guessed over the network.
const minSecret = 12

func (b *Book) file(kind Kind) string {
	if kind == Agent {
		return b.files.Agent
	}
	return b.files.Server
}

func (b *Book) write(path string, t Token) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("write token: %w", err)
	}
	if err := atomicfile.Write(path, []byte(t.Reveal()+"\n"), 0o600); err != nil {
		return fmt.Errorf("write token: %w", err)
	}
	return nil
}

// ensureFile reads a token from path and makes one, mode 0600, if there is
// none or the file is empty, as a power cut leaves it. A given secret wins. A
// pin of another authority is corrected; the secret stays. created tells
// whether the secret is a new one of ours.
func ensureFile(path, user string, caPEM []byte, given Secret) (t Token, created bool, err error) {
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Token{}, false, fmt.Errorf("read token: %w", err)
	}
	fresh, err := Generate(caPEM)
	if err != nil {
		return Token{}, false, err
	}
	fresh.User = user
	switch created = len(bytes.Trim(data, "\x00 \r\n\t")) == 0; {
	case given != "":
		fresh.Secret, created = given, false
	case !created:
		if t, err = Parse(string(data)); err != nil {
			return Token{}, false, fmt.Errorf("read token %s: %w; correct the file, or remove it to get another token", path, err)
		}
		fresh.Secret = t.Secret
	}
	return fresh, created, (&Book{}).write(path, fresh)
}

// random is a secret of 128 bits.
func random() (Secret, error) {
	secret := make([]byte, 16)
	if _, err := rand.Read(secret); err != nil {
		return "", fmt.Errorf("generate token: %w", err)
	}
	return Secret(hex.EncodeToString(secret)), nil
}

// Bootstrap tokens are written with these letters.
const letters = "abcdefghijklmnopqrstuvwxyz0123456789"

// NewBootstrap returns a random bootstrap token.
func NewBootstrap() (Token, error) {
	text := make([]byte, 0, 22)
	for len(text) < cap(text) {
		var b [1]byte
		if _, err := rand.Read(b[:]); err != nil {
			return Token{}, fmt.Errorf("generate token: %w", err)
		}
		// All letters are equally likely: what is above a multiple of 36 is
		// thrown again.
		if int(b[0]) < 256/len(letters)*len(letters) {
			text = append(text, letters[int(b[0])%len(letters)])
		}
	}
	return Token{Secret: Secret(string(text[:6]) + "." + string(text[6:]))}, nil
}

// ID returns the public part of a bootstrap token, "" of another.
func (t Token) ID() string {
	if !t.Bootstrap() {
		return ""
	}
	id, _, _ := strings.Cut(string(t.Secret), ".")
	return id
}

// Pin makes the tokens name the present certificate of the authority, which
// it has renewed. The secrets stay.
func (b *Book) Pin(caPEM []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	hash, err := Hash(caPEM)
	if err != nil {
		return err
	}
	for kind, t := range b.tokens {
		t.CAHash = hash
		if err := b.write(b.file(kind), t); err != nil {
			return err
		}
		b.tokens[kind] = t
	}
	return b.write(b.files.Node, b.tokens[Agent])
}
