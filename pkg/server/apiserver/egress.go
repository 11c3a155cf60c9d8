package apiserver

import (
	"context"
	"fmt"
	"net"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apiserver/pkg/server/egressselector"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/client-go/informers"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
	apioptions "k8s.io/kubernetes/cmd/kube-apiserver/app/options"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/controlplane"
	controlplaneapiserver "k8s.io/kubernetes/pkg/controlplane/apiserver"
	"k8s.io/kubernetes/pkg/generated/openapi"

	apiextensionsapiserver "k8s.io/apiextensions-apiserver/pkg/apiserver"
	"k8s.io/apimachinery/pkg/runtime"
	aggregatorscheme "k8s.io/kube-aggregator/pkg/apiserver/scheme"
)

// Egress is how the API server connects to what it calls.
type Egress struct {
	// Kubelet connects to kubelets.
	Kubelet func(ctx context.Context, network, addr string) (net.Conn, error)
	// Cluster connects to webhooks and aggregated APIs that are Services, and
	// to what is asked for through the proxy of the API; nil for directly.
	Cluster func(ctx context.Context, network, addr string) (net.Conn, error)
	// Use is given the API server's own informers, before they run.
	Use func(informers.SharedInformerFactory)
}

// lookup finds upstream's dialer for a purpose.
func lookup(dial utilnet.DialFunc) egressselector.Lookup {
	return func(egressselector.NetworkContext) (utilnet.DialFunc, error) { return dial, nil }
}

// configure makes the configuration of all servers. Upstream's app.NewConfig
// does it, but takes an egress selector only from a file and to a proxy; when
// one is wanted the same stages are gone through here, with ours set after the
// first.
func (a *APIServer) configure(opts apioptions.CompletedOptions) (*app.Config, error) {
	if a.Egress == nil || a.Egress.Cluster == nil {
		return app.NewConfig(opts)
	}
	generic, shared, storage, err := controlplaneapiserver.BuildGenericConfig(
		opts.CompletedOptions,
		[]*runtime.Scheme{legacyscheme.Scheme, apiextensionsapiserver.Scheme, aggregatorscheme.Scheme},
		controlplane.DefaultAPIResourceConfigSource(), openapi.GetOpenAPIDefinitions)
	if err != nil {
		return nil, fmt.Errorf("build: %w", err)
	}
	generic.EgressSelector = egressselector.NewEgressSelectorWithMap(map[egressselector.EgressType]utilnet.DialFunc{
		egressselector.Cluster: a.Egress.Cluster,
	})
	cfg := &app.Config{Options: opts}
	kube, resolver, initializers, err := app.CreateKubeAPIServerConfig(opts, generic, shared, storage)
	if err != nil {
		return nil, fmt.Errorf("kube-apiserver: %w", err)
	}
	kube.Extra.KubeletClientConfig.Lookup = lookup(a.Egress.Kubelet)
	cfg.KubeAPIs = kube
	control := &kube.ControlPlane
	cfg.ApiExtensions, err = controlplaneapiserver.CreateAPIExtensionsConfig(
		*control.Generic, control.VersionedInformers, initializers, opts.CompletedOptions, opts.MasterCount, resolver,
		webhook.NewDefaultAuthenticationInfoResolverWrapper(
			control.ProxyTransport, control.Generic.EgressSelector, control.Generic.LoopbackClientConfig, control.Generic.TracerProvider))
	if err != nil {
		return nil, fmt.Errorf("extensions: %w", err)
	}
	cfg.Aggregator, err = controlplaneapiserver.CreateAggregatorConfig(
		*control.Generic, opts.CompletedOptions, control.VersionedInformers, resolver, control.ProxyTransport, control.Extra.PeerProxy, initializers)
	if err != nil {
		return nil, fmt.Errorf("aggregator: %w", err)
	}
	return cfg, nil
}
