package runtime

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"sigs.k8s.io/yaml"

	"skiff/internal/atomicfile"
)

// registries is the content of registries.yaml, in the format that K3s
// documents under "Private Registry Configuration".
type registries struct {
	Mirrors map[string]mirror         `json:"mirrors"`
	Configs map[string]registryConfig `json:"configs"`
}

type mirror struct {
	Endpoints []string          `json:"endpoint"`
	Rewrites  map[string]string `json:"rewrite"`
}

type registryConfig struct {
	Auth *auth      `json:"auth"`
	TLS  *tlsConfig `json:"tls"`
}

type auth struct {
	Username      string `json:"username"`
	Password      string `json:"password"`
	Auth          string `json:"auth"`           // base64 of "user:password"
	IdentityToken string `json:"identity_token"` // OAuth2 refresh token
	Token         string `json:"token"`          // the older name of the same
}

type tlsConfig struct {
	CAFile             string `json:"ca_file"`
	CertFile           string `json:"cert_file"`
	KeyFile            string `json:"key_file"`
	InsecureSkipVerify bool   `json:"insecure_skip_verify"`
}

// anyRegistry is the name under which registries.yaml speaks of all registries
// that it does not name.
const anyRegistry = "*"

// loadRegistries reads file; one that does not exist is an empty one. Unknown
// keys are errors.
func loadRegistries(file string) (*registries, error) {
	r := &registries{}
	if file == "" {
		return r, nil
	}
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read registry configuration: %w", err)
	}
	if err := yaml.UnmarshalStrict(data, r); err != nil {
		return nil, fmt.Errorf("read registry configuration %s: %w", file, err)
	}
	if err := r.validate(); err != nil {
		return nil, fmt.Errorf("registry configuration %s: %w", file, err)
	}
	return r, nil
}

func (r *registries) validate() error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(r.Mirrors)) {
		m := r.Mirrors[name]
		for _, e := range m.Endpoints {
			if _, err := endpointURL(e); err != nil {
				errs = append(errs, fmt.Errorf("mirrors.%s.endpoint: %w", name, err))
			}
		}
		if _, err := m.prefix(); err != nil {
			errs = append(errs, fmt.Errorf("mirrors.%s.rewrite: %w", name, err))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.Configs)) {
		if a := r.Configs[name].Auth; a != nil && a.Auth != "" {
			if _, err := base64.StdEncoding.DecodeString(a.Auth); err != nil {
				errs = append(errs, fmt.Errorf("configs.%q.auth.auth: not base64 of \"user:password\": %w", name, err))
			}
		}
	}
	return errors.Join(errs...)
}

// endpointURL parses a mirror's endpoint; without a scheme it is https.
func endpointURL(s string) (*url.URL, error) {
	text := s
	if !strings.Contains(text, "://") {
		text = "https://" + text
	}
	u, err := url.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("invalid endpoint %q: %w", s, err)
	}
	if u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, fmt.Errorf("invalid endpoint %q: want http(s)://host[:port][/path]", s)
	}
	return u, nil
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

// writeHosts makes dir hold one directory for each registry, with a hosts.toml
// that containerd reads anew at every pull, and nothing else.
//
// Source: github.com/containerd/containerd/v2, docs/hosts.md.
func (r *registries) writeHosts(dir string) error {
	want := map[string]bool{}
	for _, name := range r.names() {
		data, err := r.hosts(name)
		if err != nil {
			return fmt.Errorf("render hosts.toml for %s: %w", name, err)
		}
		sub := hostDir(name)
		want[sub] = true
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return fmt.Errorf("write registry configuration: %w", err)
		}
		if err := atomicfile.Write(filepath.Join(dir, sub, "hosts.toml"), data, 0o600); err != nil {
			return fmt.Errorf("write registry configuration: %w", err)
		}
	}
	old, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("write registry configuration: %w", err)
	}
	for _, e := range old {
		if want[e.Name()] {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("remove old registry configuration: %w", err)
		}
	}
	return nil
}

// names are the registries that need a hosts.toml.
func (r *registries) names() []string {
	names := map[string]bool{}
	for name := range r.Mirrors {
		names[name] = true
	}
	for name, c := range r.Configs {
		if c.TLS != nil && name != anyRegistry {
			names[name] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

func hostDir(name string) string {
	if name == anyRegistry {
		return "_default"
	}
	return name
}

func (r *registries) hosts(name string) ([]byte, error) {
	m := r.Mirrors[name]
	prefix, err := m.prefix()
	if err != nil {
		return nil, err
	}
	var text []byte
	if name != anyRegistry {
		// The registry itself, asked when no mirror has the image.
		root := r.tls(name)
		root["server"] = upstream(name)
		if text, err = toml.Marshal(root); err != nil {
			return nil, err
		}
	}
	// The order of hosts is the order in the file, so they are not one map.
	for _, e := range m.Endpoints {
		u, err := endpointURL(e)
		if err != nil {
			return nil, err
		}
		t := r.tls(u.Host)
		t["capabilities"] = []string{"pull", "resolve"}
		if p := strings.Trim(u.Path, "/"); p != "" || prefix != "" {
			if p == "" {
				p = "v2"
			}
			u.Path = "/" + strings.Trim(p+"/"+prefix, "/")
			t["override_path"] = true
		}
		part, err := toml.Marshal(table{"host": table{u.String(): t}})
		if err != nil {
			return nil, err
		}
		text = append(append(text, '\n'), part...)
	}
	return text, nil
}

// upstream is where a registry is when no mirror is asked.
func upstream(name string) string {
	if name == "docker.io" {
		return "https://registry-1.docker.io"
	}
	return "https://" + name
}

func (r *registries) tls(host string) table {
	t := table{}
	c, ok := r.Configs[host]
	if !ok {
		c = r.Configs[anyRegistry]
	}
	if c.TLS == nil {
		return t
	}
	if c.TLS.CAFile != "" {
		t["ca"] = c.TLS.CAFile
	}
	if c.TLS.CertFile != "" {
		t["client"] = [][]string{{c.TLS.CertFile, c.TLS.KeyFile}}
	}
	if c.TLS.InsecureSkipVerify {
		t["skip_verify"] = true
	}
	return t
}

// auth returns the credentials by registry host.
func (r *registries) auth() map[string]auth {
	found := map[string]auth{}
	for host, c := range r.Configs {
		if c.Auth != nil {
			found[host] = *c.Auth
		}
	}
	return found
}

func (a auth) table() table {
	t := table{}
	token := a.IdentityToken
	if token == "" {
		token = a.Token
	}
	for key, value := range map[string]string{
		"username": a.Username, "password": a.Password, "auth": a.Auth, "identitytoken": token,
	} {
		if value != "" {
			t[key] = value
		}
	}
	return t
}
