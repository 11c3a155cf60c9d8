package helm

import (
	"context"
	"net/http"
	"strings"

	"helm.sh/helm/v4/pkg/registry"
	"oras.land/oras-go/v2/registry/remote/auth"
)

const ociScheme = "oci://"

// fetchOCI pulls a chart from a registry. ref may end in a tag or digest; then
// version is not asked.
func (r *remote) fetchOCI(ctx context.Context, ref, version string) ([]byte, error) {
	host, path, ok := strings.Cut(ref, "/")
	if !ok || path == "" {
		return nil, badSpec("%s%s names a registry and no chart in it", ociScheme, ref)
	}
	client, err := r.registryClient(ctx, host)
	if err != nil {
		return nil, unavailable(err, "no client for the registry %s", host)
	}
	if !strings.ContainsAny(path, ":@") {
		tag, err := r.tag(client, ref, version)
		if err != nil {
			return nil, err
		}
		ref += ":" + tag
	}
	result, err := client.Pull(ref)
	if err != nil {
		return nil, unavailable(unwrapURL(err), "the chart %s%s cannot be pulled", ociScheme, ref)
	}
	if len(result.Chart.Data) > maxArchive {
		return nil, unavailable(nil, "%s%s has more than %d MB", ociScheme, ref, maxArchive>>20)
	}
	return result.Chart.Data, nil
}

// tag finds the version: itself if it is a whole one, else the newest that fits.
func (r *remote) tag(client *registry.Client, ref, version string) (string, error) {
	if exact(version) {
		return strings.ReplaceAll(version, "+", "_"), nil
	}
	tags, err := client.Tags(ref)
	if err != nil {
		return "", unavailable(unwrapURL(err), "the versions of %s%s cannot be listed", ociScheme, ref)
	}
	tag, err := registry.GetTagMatchingVersionOrConstraint(tags, version)
	if err != nil {
		return "", unavailable(nil, "%s%s has no version that fits %q", ociScheme, ref, version)
	}
	return strings.ReplaceAll(tag, "+", "_"), nil
}

// exact reports whether a version is one, not a range such as ^1.2 or 1.x.
func exact(version string) bool {
	core, _, _ := strings.Cut(strings.TrimPrefix(version, "v"), "-")
	core, _, _ = strings.Cut(core, "+")
	return strings.Count(core, ".") == 2 && strings.Trim(core, ".0123456789") == ""
}

// registryClient has the credentials of the chart and no others: by itself
// Helm's client asks the configuration of docker in root's home directory.
func (r *remote) registryClient(ctx context.Context, host string) (*registry.Client, error) {
	httpClient := &http.Client{Timeout: fetchTimeout, Transport: bound{ctx, r.client.Transport}}
	authorizer := auth.Client{Client: httpClient, Cache: auth.NewCache()}
	if user, password := r.registryLogin(host); user != "" {
		authorizer.Credential = auth.StaticCredential(host, auth.Credential{Username: user, Password: password})
	}
	o := []registry.ClientOption{registry.ClientOptHTTPClient(httpClient), registry.ClientOptAuthorizer(authorizer)}
	if r.plainHTTP {
		o = append(o, registry.ClientOptPlainHTTP())
	}
	return registry.NewClient(o...)
}

// bound ends requests together with a context, which Helm's registry client
// does not take.
type bound struct {
	ctx context.Context //nolint:containedctx // See above.
	rt  http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (b bound) RoundTrip(r *http.Request) (*http.Response, error) {
	return b.rt.RoundTrip(r.WithContext(b.merge(r.Context())))
}

// merge returns a context that ends with either. It is given back when the
// request's own context ends, which is at its time limit at the latest.
func (b bound) merge(request context.Context) context.Context {
	ctx, cancel := context.WithCancelCause(request)
	stop := context.AfterFunc(b.ctx, func() { cancel(context.Cause(b.ctx)) })
	context.AfterFunc(request, func() { stop() })
	return ctx
}
