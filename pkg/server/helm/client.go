package helm

import (
	"fmt"
	"io"
	"log/slog"

	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/kube"
	"helm.sh/helm/v4/pkg/storage"
	"helm.sh/helm/v4/pkg/storage/driver"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// getter gives Helm its clients: ours, where its command line would read a
// kubeconfig and the environment. One lives as long as one action, and what it
// has learnt of the API goes with it.
type getter struct {
	config    *rest.Config
	namespace string
	discovery discovery.CachedDiscoveryInterface
	mapper    *restmapper.DeferredDiscoveryRESTMapper
}

func newGetter(config *rest.Config, namespace string) (*getter, error) {
	d, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make discovery client: %w", err)
	}
	cached := memory.NewMemCacheClient(d)
	return &getter{config: config, namespace: namespace, discovery: cached, mapper: restmapper.NewDeferredDiscoveryRESTMapper(cached)}, nil
}

// ToRESTConfig implements genericclioptions.RESTClientGetter.
func (g *getter) ToRESTConfig() (*rest.Config, error) { return rest.CopyConfig(g.config), nil }

// ToDiscoveryClient implements genericclioptions.RESTClientGetter.
func (g *getter) ToDiscoveryClient() (discovery.CachedDiscoveryInterface, error) {
	return g.discovery, nil
}

// ToRESTMapper implements genericclioptions.RESTClientGetter.
func (g *getter) ToRESTMapper() (meta.RESTMapper, error) { return g.mapper, nil }

// ToRawKubeConfigLoader implements genericclioptions.RESTClientGetter; only the
// namespace is ever asked of it.
func (g *getter) ToRawKubeConfigLoader() clientcmd.ClientConfig {
	const only = "skiff"
	return clientcmd.NewDefaultClientConfig(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{only: {Server: g.config.Host}},
		Contexts:       map[string]*clientcmdapi.Context{only: {Cluster: only, Namespace: g.namespace}},
		CurrentContext: only,
	}, &clientcmd.ConfigOverrides{})
}

// configuration is Helm's for one action in a namespace. It is put together
// here since Helm's own Init asks the environment.
func (w *worker) configuration(namespace string, logger *slog.Logger) (*action.Configuration, *getter, error) {
	g, err := newGetter(w.config, namespace)
	if err != nil {
		return nil, nil, err
	}
	handler := logger.Handler()
	client := kube.New(g)
	client.Namespace = namespace
	client.SetLogger(handler)
	d := driver.NewSecrets(w.kube.CoreV1().Secrets(namespace))
	d.SetLogger(handler)
	store := storage.Init(d)
	store.SetLogger(handler)
	cfg := action.NewConfiguration(action.ConfigurationSetLogger(handler))
	cfg.RESTClientGetter, cfg.KubeClient, cfg.Releases = g, client, store
	cfg.HookOutputFunc = func(_, _, _ string) io.Writer { return io.Discard }
	return cfg, g, nil
}
