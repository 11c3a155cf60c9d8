package images

import (
	"encoding/json"
	"net/http"
	"os"
	"regexp"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Registry serves the layout as a read-only container registry (OCI
// distribution specification, pull only), whatever host name was asked for.
// What it does not have is a 404, at once.
func (l Layout) Registry() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v2/{$}", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("{}")) })
	mux.HandleFunc("GET /v2/{rest...}", func(w http.ResponseWriter, r *http.Request) {
		m := registryPath.FindStringSubmatch(r.PathValue("rest"))
		if m == nil {
			http.NotFound(w, r)
			return
		}
		l.serveBlob(w, r, m[1], m[2], m[3])
	})
	return mux
}

// registryPath splits a path into repository, kind and tag or digest.
var registryPath = regexp.MustCompile(`^(.+)/(manifests|blobs)/([\w.:+-]+)$`)

func (l Layout) serveBlob(w http.ResponseWriter, r *http.Request, repository, kind, ref string) {
	d, err := digest.Parse(ref)
	if err != nil && kind == "manifests" {
		d = l.tagged("/" + repository + ":" + ref)
	}
	if d.Validate() != nil {
		http.NotFound(w, r)
		return
	}
	b, err := os.ReadFile(l.path(d))
	if err != nil {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	if kind == "manifests" {
		var m struct{ MediaType string }
		if json.Unmarshal(b, &m) == nil && m.MediaType != "" {
			w.Header().Set("Content-Type", m.MediaType)
		}
	}
	w.Header().Set("Docker-Content-Digest", d.String())
	_, _ = w.Write(b)
}

// tagged finds the manifest of the image whose name ends in suffix.
func (l Layout) tagged(suffix string) digest.Digest {
	index, err := l.index()
	if err != nil {
		return ""
	}
	for _, m := range index.Manifests {
		if strings.HasSuffix(m.Annotations[nameAnnotation], suffix) {
			return m.Digest
		}
	}
	return ""
}
