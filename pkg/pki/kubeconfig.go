package pki

import (
	"encoding/base64"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"skiff/internal/atomicfile"
)

// Kubeconfig is a client configuration with one cluster and one user. Each of
// the three credentials is given as a file (components: client-go reads it
// again when it changes) or as data (people, who copy the file elsewhere).
type Kubeconfig struct {
	Cluster string // name of cluster and context; default "default"
	User    string
	Server  string // "https://127.0.0.1:6443"

	CAFile, CertFile, KeyFile string
	CA, Cert, Key             []byte // PEM
}

// Bytes returns the configuration as YAML.
func (k Kubeconfig) Bytes() []byte {
	name := k.Cluster
	if name == "" {
		name = "default"
	}
	user := k.User
	if user == "" {
		user = name
	}
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	credential := func(key, file string, data []byte) {
		if file != "" {
			line("    %s: %s", key, strconv.Quote(file))
			return
		}
		line("    %s-data: %s", key, base64.StdEncoding.EncodeToString(data))
	}
	line("apiVersion: v1")
	line("kind: Config")
	line("clusters:")
	line("- name: %s", strconv.Quote(name))
	line("  cluster:")
	line("    server: %s", strconv.Quote(k.Server))
	credential("certificate-authority", k.CAFile, k.CA)
	line("users:")
	line("- name: %s", strconv.Quote(user))
	line("  user:")
	credential("client-certificate", k.CertFile, k.Cert)
	credential("client-key", k.KeyFile, k.Key)
	line("contexts:")
	line("- name: %s", strconv.Quote(name))
	line("  context:")
	line("    cluster: %s", strconv.Quote(name))
	line("    user: %s", strconv.Quote(user))
	line("current-context: %s", strconv.Quote(name))
	return []byte(b.String())
}

// KubeconfigFor returns the configuration of a certificate of the store, with
// references to its files. The authority is the server's.
func (s *Store) KubeconfigFor(name, server string) Kubeconfig {
	return Kubeconfig{
		User: name, Server: server,
		CAFile: s.CertFile(ServerCA), CertFile: s.CertFile(name), KeyFile: s.KeyFile(name),
	}
}

// KubeconfigFile is a kubeconfig that carries its credentials with it.
type KubeconfigFile struct {
	Name   string // of the certificate, such as ClientAdmin
	Path   string
	Mode   fs.FileMode // default 0600
	Server string
}

// WriteKubeconfig writes the file if its content is another, and reports
// whether it did. Ensure must have run.
func (s *Store) WriteKubeconfig(k KubeconfigFile) (bool, error) {
	key, err := os.ReadFile(s.KeyFile(k.Name))
	if err != nil {
		return false, fmt.Errorf("write kubeconfig: %w", err)
	}
	if k.Mode == 0 {
		k.Mode = 0o600
	}
	data := Kubeconfig{
		User: k.Name, Server: k.Server,
		CA: s.CertPEM(ServerCA), Cert: s.CertPEM(k.Name), Key: key,
	}.Bytes()
	if err := os.MkdirAll(filepath.Dir(k.Path), 0o755); err != nil {
		return false, fmt.Errorf("write kubeconfig: %w", err)
	}
	old, err := os.ReadFile(k.Path)
	same := err == nil && string(old) == string(data)
	if err := atomicfile.Write(k.Path, data, k.Mode); err != nil {
		return false, fmt.Errorf("write kubeconfig: %w", err)
	}
	return !same, nil
}
