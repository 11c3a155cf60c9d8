package offline

import (
	"fmt"
	"net/http"
	"path/filepath"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"skiff/internal/atomicfile"
)

// Kubeconfig is the path of the kubeconfig with whose clients of this process
// go by the Cache. It is there once the Cache is ready, if name is one of
// Options.Kubeconfigs' last elements. Other processes cannot use it.
func (c *Cache) Kubeconfig(name string) string { return filepath.Join(c.o.Dir, name) }

// provider is the name of the plug-in, by which the kubeconfigs refer to it:
// there is a registry per process, and a Cache per directory.
func (c *Cache) provider() string { return "skiff-offline:" + c.o.Dir }

// register makes the Cache known to client-go. kube-proxy takes nothing but the
// path of a kubeconfig, and the only thing in a kubeconfig that may wrap a
// transport is an authentication plug-in.
func (c *Cache) register() error {
	err := rest.RegisterAuthProviderPlugin(c.provider(), func(string, map[string]string, rest.AuthProviderConfigPersister) (rest.AuthProvider, error) {
		return plugin{c}, nil
	})
	if err != nil {
		return fmt.Errorf("register the way to the API server: %w", err)
	}
	return nil
}

// writeKubeconfigs makes copies that lead by the Cache.
func (c *Cache) writeKubeconfigs() error {
	for _, from := range c.o.Kubeconfigs {
		conf, err := clientcmd.LoadFromFile(from)
		if err != nil {
			return fmt.Errorf("read %s: %w", from, err)
		}
		for _, user := range conf.AuthInfos {
			user.AuthProvider = &clientcmdapi.AuthProviderConfig{Name: c.provider()}
		}
		data, err := clientcmd.Write(*conf)
		if err != nil {
			return fmt.Errorf("encode %s: %w", from, err)
		}
		if err := atomicfile.Write(c.Kubeconfig(filepath.Base(from)), data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// plugin is a rest.AuthProvider.
type plugin struct{ cache *Cache }

var _ rest.AuthProvider = plugin{}

// WrapTransport implements rest.AuthProvider.
func (p plugin) WrapTransport(next http.RoundTripper) http.RoundTripper { return p.cache.Wrap(next) }

// Login implements rest.AuthProvider.
func (p plugin) Login() error { return nil }
