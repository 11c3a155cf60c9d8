package runtime

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	settings "skiff/pkg/config"
)

// registries is the content of registries.yaml, in the format that K3s
// documents under "Private Registry Configuration".
type registries struct {
	Mirrors map[string]mirror         `yaml:"mirrors"`
	Configs map[string]registryConfig `yaml:"configs"`

	// NoDefault says that a registry with mirrors is not asked itself.
	NoDefault bool `yaml:"-"`
}

type mirror struct {
	Endpoints []string          `yaml:"endpoint"`
	Rewrites  map[string]string `yaml:"rewrite"`
}

type registryConfig struct {
	Auth *auth      `yaml:"auth"`
	TLS  *tlsConfig `yaml:"tls"`
}

type auth struct {
	Username      string `yaml:"username"`
	Password      string `yaml:"password"`
	Auth          string `yaml:"auth"`           // base64 of "user:password"
	IdentityToken string `yaml:"identity_token"` // OAuth2 refresh token
	Token         string `yaml:"token"`          // the older name of the same
}

type tlsConfig struct {
	CAFile             string `yaml:"ca_file"`
	CertFile           string `yaml:"cert_file"`
	KeyFile            string `yaml:"key_file"`
	InsecureSkipVerify bool   `yaml:"insecure_skip_verify"`
}

// anyRegistry is the name under which registries.yaml speaks of all registries
// that it does not name.
const anyRegistry = "*"

// loadRegistries reads file; one that does not exist is an empty one. Unknown
// keys are errors. Every error names the file and the line.
func loadRegistries(file string) (*registries, error) {
	if file == "" {
		return &registries{}, nil
	}
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return &registries{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read registry configuration: %w", err)
	}
	r, err := parseRegistries(data)
	if err != nil {
		return nil, fmt.Errorf("registry configuration %s: %w", file, err)
	}
	return r, nil
}

func parseRegistries(data []byte) (*registries, error) {
	r := &registries{}
	d := yaml.NewDecoder(strings.NewReader(string(data)))
	d.KnownFields(true)
	if err := d.Decode(r); err != nil && !errors.Is(err, io.EOF) {
		if e, ok := errors.AsType[*yaml.TypeError](err); ok {
			return nil, unknownKeys(e)
		}
		return nil, err
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return nil, err
	}
	return r, r.validate(&doc)
}

// unknownKey is what the library says of a key that a type does not have. The
// names of our types are nobody's business.
var unknownKey = regexp.MustCompile(`field (\S+) not found in type runtime\.(\w+)`)

// unknownKeys says what the library says in our words, with a suggestion.
func unknownKeys(e *yaml.TypeError) error {
	known := map[string][]string{
		"registries": {"mirrors", "configs"}, "mirror": {"endpoint", "rewrite"}, "registryConfig": {"auth", "tls"},
		"auth":      {"username", "password", "auth", "identity_token", "token"},
		"tlsConfig": {"ca_file", "cert_file", "key_file", "insecure_skip_verify"},
	}
	return errors.New(unknownKey.ReplaceAllStringFunc(strings.Join(e.Errors, "; "), func(text string) string {
		m := unknownKey.FindStringSubmatch(text)
		text = fmt.Sprintf("unknown key %q", m[1])
		if s := settings.Suggest(m[1], known[m[2]]); s != "" {
			text += ", did you mean " + s + "?"
		}
		return text
	}))
}

// CheckRegistries reports what is wrong with a registries.yaml, if it is there.
func CheckRegistries(file string) error {
	_, err := loadRegistries(file)
	return err
}

// line is where the value at a path of keys begins.
func line(n *yaml.Node, keys ...string) int {
	if n.Kind == yaml.DocumentNode && len(n.Content) > 0 {
		n = n.Content[0]
	}
	at := n.Line
	for _, key := range keys {
		i := 0
		for i < len(n.Content) && n.Content[i].Value != key {
			i += 2
		}
		if i+1 >= len(n.Content) {
			return at
		}
		at, n = n.Content[i].Line, n.Content[i+1]
	}
	return at
}

func (r *registries) validate(doc *yaml.Node) error {
	var errs []error
	bad := func(format string, err error, keys ...string) {
		errs = append(errs, fmt.Errorf("line %d: "+format+": %w", line(doc, keys...), keys[1], err))
	}
	for _, name := range slices.Sorted(maps.Keys(r.Mirrors)) {
		m := r.Mirrors[name]
		if err := checkName(name); err != nil {
			bad("mirrors.%s", err, "mirrors", name)
		}
		for _, e := range m.Endpoints {
			if _, err := endpointURL(e); err != nil {
				bad("mirrors.%s.endpoint", err, "mirrors", name, "endpoint")
			}
		}
		if _, err := m.prefix(); err != nil {
			bad("mirrors.%s.rewrite", err, "mirrors", name, "rewrite")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.Configs)) {
		c := r.Configs[name]
		if err := checkName(name); err != nil {
			bad("configs.%s", err, "configs", name)
		}
		if err := c.Auth.validate(name); err != nil {
			bad("configs.%q.auth", err, "configs", name, "auth")
		}
		if err := c.TLS.validate(); err != nil {
			bad("configs.%q.tls", err, "configs", name, "tls")
		}
	}
	return errors.Join(errs...)
}

// checkName refuses what would leave the directory of registries.
func checkName(name string) error {
	if name == "" || strings.ContainsAny(name, "/\\") || name == "." || name == ".." {
		return fmt.Errorf("invalid name %q: want a registry's host[:port], or \"*\"", name)
	}
	return nil
}

func (a *auth) validate(name string) error {
	if a == nil {
		return nil
	}
	if name == anyRegistry {
		return errors.New("credentials for \"*\" would be sent to every registry there is; name the registry")
	}
	if a.Auth == "" {
		return nil
	}
	text, err := base64.StdEncoding.DecodeString(a.Auth)
	if err != nil {
		return fmt.Errorf("auth is not base64 of \"user:password\": %w", err)
	}
	if !strings.Contains(string(text), ":") {
		return errors.New("auth is not base64 of \"user:password\": no colon in it")
	}
	return nil
}

// validate looks for the files, too: containerd would fail each pull instead.
func (t *tlsConfig) validate() error {
	if t == nil {
		return nil
	}
	var errs []error
	for _, file := range []string{t.CAFile, t.CertFile, t.KeyFile} {
		if file == "" {
			continue
		}
		if _, err := os.Stat(file); err != nil {
			errs = append(errs, err)
		}
	}
	if (t.CertFile == "") != (t.KeyFile == "") {
		errs = append(errs, errors.New("cert_file and key_file go together"))
	}
	return errors.Join(errs...)
}

// whole are the patterns that match a whole repository name as $1.
var whole = regexp.MustCompile(`^\^?\(\^?\.[*+]\$?\)\$?$`)

// prefix returns what a mirror's rewrite puts before every repository name.
// Stock containerd has no rewriting, only a path per mirror, so no other kind
// of rewrite can be had.
func (m mirror) prefix() (string, error) {
	if len(m.Rewrites) > 1 {
		return "", errors.New("only one rewrite for each registry is possible")
	}
	for pattern, to := range m.Rewrites {
		prefix, ok := strings.CutSuffix(to, "/$1")
		if !ok || !whole.MatchString(pattern) || strings.Contains(prefix, "$") {
			return "", fmt.Errorf("cannot rewrite %q to %q: containerd can only put a path before every name, written \"^(.*)$\": \"some/path/$1\"", pattern, to)
		}
		return strings.Trim(prefix, "/"), nil
	}
	return "", nil
}
