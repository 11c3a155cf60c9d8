package runtime

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"skiff/internal/atomicfile"
)

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
		if name == anyRegistry || c.TLS == nil && c.Auth == nil {
			continue
		}
		if name == dockerHost {
			name = dockerName
		}
		names[name] = true
	}
	return slices.Sorted(maps.Keys(names))
}

func hostDir(name string) string {
	if name == anyRegistry {
		return "_default"
	}
	return name
}

// hosts renders the hosts.toml of one registry: its mirrors in their order,
// and what is at the top, the registry itself, asked when none has the image.
func (r *registries) hosts(name string) ([]byte, error) {
	m := r.mirror(name)
	prefix, err := m.prefix()
	if err != nil {
		return nil, err
	}
	root := table{}
	if name != anyRegistry {
		host := upstream(name)
		root = r.tls(host)
		// Of a registry on this machine containerd knows itself whether it
		// speaks http.
		if !isLocal(name) {
			root["server"] = "https://" + host
		}
		r.header(root, host)
	}
	if r.NoDefault && len(m.Endpoints) > 0 {
		// There is always a last host; one that may only be pushed to is
		// never asked for an image.
		root["capabilities"] = []string{"push"}
		if root["server"] == nil {
			u, err := endpointURL(m.Endpoints[len(m.Endpoints)-1])
			if err != nil {
				return nil, err
			}
			root["server"] = u.Scheme + "://" + u.Host
		}
	}
	text, err := toml.Marshal(root)
	if err != nil {
		return nil, err
	}
	for _, e := range m.Endpoints {
		part, err := r.endpoint(e, prefix)
		if err != nil {
			return nil, err
		}
		text = append(append(text, '\n'), part...)
	}
	return text, nil
}

// mirror is what is said about a registry's mirrors: those of all registries,
// too, where it has credentials or a certificate only. A mirror has no mirrors.
func (r *registries) mirror(name string) mirror {
	if m, ok := r.Mirrors[name]; ok {
		return m
	}
	for _, m := range r.Mirrors {
		for _, e := range m.Endpoints {
			if u, err := endpointURL(e); err == nil && u.Host == name {
				return mirror{}
			}
		}
	}
	return r.Mirrors[anyRegistry]
}

// endpoint renders a mirror. The tables have their full names: the order of
// hosts is their order in the file, and TOML allows [host] only once.
func (r *registries) endpoint(text, prefix string) ([]byte, error) {
	u, err := endpointURL(text)
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
	body, err := toml.Marshal(t)
	if err != nil {
		return nil, err
	}
	key := "host." + strconv.Quote(u.String())
	out := append(fmt.Appendf(nil, "[%s]\n", key), body...)
	head := table{}
	r.header(head, u.Host)
	if len(head) == 0 {
		return out, nil
	}
	if body, err = toml.Marshal(head["header"]); err != nil {
		return nil, err
	}
	return append(fmt.Appendf(out, "[%s.header]\n", key), body...), nil
}

// The name of Docker's registry in images, and its host.
const (
	dockerName = "docker.io"
	dockerHost = "registry-1.docker.io"
)

// upstream is the host of a registry.
func upstream(name string) string {
	if name == dockerName {
		return dockerHost
	}
	return name
}

// isLocal reports whether a registry is on this machine.
func isLocal(name string) bool {
	host, _, err := net.SplitHostPort(name)
	if err != nil {
		host = name
	}
	ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// of is what is said about a host.
func (r *registries) of(host string) registryConfig {
	if c, ok := r.Configs[host]; ok {
		return c
	}
	if host == dockerHost {
		if c, ok := r.Configs[dockerName]; ok {
			return c
		}
	}
	return r.Configs[anyRegistry]
}

func (r *registries) tls(host string) table {
	t, c := table{}, r.of(host)
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

// header gives a host its user and password. As a header they are read anew at
// every pull like the rest of the file, where containerd's own configuration
// is read once; containerd sends it both to the registry and to whoever issues
// that registry's tokens. A pod's pull secret goes before it, where there is one.
func (r *registries) header(t table, host string) {
	a := r.of(host).Auth
	if a == nil {
		return
	}
	basic := a.Auth
	if a.Username != "" {
		basic = base64.StdEncoding.EncodeToString([]byte(a.Username + ":" + a.Password))
	}
	if basic != "" {
		t["header"] = table{"Authorization": "Basic " + basic}
	}
}

// tokens returns the identity tokens by registry host. They are good for
// nothing but being exchanged, which only containerd's own configuration asks
// for.
func (r *registries) tokens() map[string]string {
	found := map[string]string{}
	for host, c := range r.Configs {
		if c.Auth == nil || c.Auth.Username != "" || c.Auth.Auth != "" {
			continue
		}
		token := c.Auth.IdentityToken
		if token == "" {
			token = c.Auth.Token
		}
		if token != "" {
			found[upstream(host)] = token
		}
	}
	return found
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
