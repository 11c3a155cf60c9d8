// Package metrics serves metrics.k8s.io/v1beta1, what `kubectl top` and the
// horizontal pod autoscaler ask for, from inside the API server. Nothing is
// collected before somebody asks: the kubelets keep the figures anyway. It must
// not know how the API server is put together. Start reading at Install; the
// kubelets are asked in kubelets.go.
//
// The API is described in
// https://github.com/kubernetes/design-proposals-archive/blob/main/instrumentation/resource-metrics-api.md.
package metrics

import (
	"fmt"
	"log/slog"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	clientrest "k8s.io/client-go/rest"
	"k8s.io/metrics/pkg/apis/metrics"
	"k8s.io/metrics/pkg/apis/metrics/install"
	"k8s.io/metrics/pkg/apis/metrics/v1beta1"
)

// Options is what Install needs.
type Options struct {
	// Loopback returns how to reach the API server itself; it is called when
	// the first request comes in.
	Loopback func() *clientrest.Config
	Logger   *slog.Logger
}

// Install adds the API group to a server that is not serving yet.
func Install(server *genericapiserver.GenericAPIServer, o Options) error {
	scheme := runtime.NewScheme()
	install.Install(scheme)
	// The options of requests and the answers of discovery are of version v1.
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	scheme.AddUnversionedTypes(schema.GroupVersion{Version: "v1"},
		&metav1.Status{}, &metav1.APIVersions{}, &metav1.APIGroupList{}, &metav1.APIGroup{}, &metav1.APIResourceList{})
	k := newKubelets(o)
	group := genericapiserver.NewDefaultAPIGroupInfo(metrics.GroupName, scheme, runtime.NewParameterCodec(scheme), serializer.NewCodecFactory(scheme))
	group.VersionedResourcesStorageMap[v1beta1.SchemeGroupVersion.Version] = map[string]rest.Storage{
		"nodes": &nodes{k}, "pods": &pods{k},
	}
	if err := server.InstallAPIGroup(&group); err != nil {
		return fmt.Errorf("install %s: %w", v1beta1.SchemeGroupVersion, err)
	}
	return nil
}
