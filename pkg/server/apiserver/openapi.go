package apiserver

import (
	"errors"
	"fmt"
	"net/http"
	"sync"

	"github.com/emicklei/go-restful/v3"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/mux"
	"k8s.io/apiserver/pkg/server/routes"
	"k8s.io/kube-aggregator/pkg/apiserver"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/common/restfuladapter"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
)

// openAPIv2 is the path of the API's description in OpenAPI version 2, which
// hardly anybody asks for any more: kubectl and the controllers read version 3.
const openAPIv2 = "/openapi/v2"

// postponeOpenAPI keeps upstream from building the description of version 2
// while it starts: that takes time and 11 MB for
// good. What it returns adds the description again, to be built by the first
// request. Call it between completing the configuration and creating the
// servers.
func postponeOpenAPI(c *genericapiserver.Config) (add func(*apiserver.APIAggregator) error) {
	config := c.OpenAPIConfig
	c.OpenAPIConfig = nil
	return func(aggregator *apiserver.APIAggregator) error {
		// The aggregator merges what the servers behind it answer, and asks
		// them when it is asked itself.
		server, ok := aggregator.GenericAPIServer.NextDelegate().(*genericapiserver.GenericAPIServer)
		if !ok {
			return errors.New("describe the API: kube-apiserver is not behind the aggregator")
		}
		server.Handler.NonGoRestfulMux.Handle(openAPIv2, &lazyOpenAPI{server: server, config: config})
		return nil
	}
}

// nameOperations gives the configurations the function that names operations.
// Without it, upstream's builders put one there that holds the first builder,
// and with it the schemas of all types, for as long as the server lives.
func nameOperations(c *genericapiserver.Config) {
	c.OpenAPIConfig.GetOperationIDAndTagsFromRoute = operations(c.OpenAPIConfig.GetOperationIDAndTags)     //nolint:staticcheck // Deprecated, and what upstream sets.
	c.OpenAPIV3Config.GetOperationIDAndTagsFromRoute = operations(c.OpenAPIV3Config.GetOperationIDAndTags) //nolint:staticcheck // Deprecated, and what upstream sets.
}

func operations(name func(*restful.Route) (string, []string, error)) func(common.Route) (string, []string, error) {
	return func(r common.Route) (string, []string, error) {
		adapter, ok := r.(*restfuladapter.RouteAdapter)
		if !ok {
			return "", nil, fmt.Errorf("describe the API: route %s is a %T, want one of go-restful", r.Path(), r)
		}
		return name(adapter.Route)
	}
}

// forgetSchemas lets go of the schemas of all types, which the description in
// version 3 has been made from. Whoever should want them again makes them anew.
func forgetSchemas(c *app.Config) {
	for _, g := range genericConfigs(c) {
		g.OpenAPIV3Config.Definitions = nil
	}
}

// lazyOpenAPI builds the description of a server's API when it is first asked
// for.
type lazyOpenAPI struct {
	server *genericapiserver.GenericAPIServer
	config *common.Config

	once  sync.Once
	built *mux.PathRecorderMux
}

// ServeHTTP implements http.Handler.
func (l *lazyOpenAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.once.Do(func() {
		l.built = mux.NewPathRecorderMux("openapi")
		routes.OpenAPI{Config: l.config}.InstallV2(l.server.Handler.GoRestfulContainer, l.built)
	})
	l.built.ServeHTTP(w, r)
}
