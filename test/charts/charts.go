// Package charts makes Helm charts for tests and serves them, as a chart
// repository and as a registry at once. It knows nothing of skiff. Start
// reading at Archive, then Server.
package charts

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
)

// Archive makes the archive of a chart: files by their name below the chart's
// directory, "templates/cm.yaml". Chart.yaml is added.
func Archive(name, version string, files map[string]string) []byte {
	all := maps.Clone(files)
	if all == nil {
		all = map[string]string{}
	}
	all["Chart.yaml"] = fmt.Sprintf("apiVersion: v2\nname: %s\nversion: %s\n", name, version)
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	t := tar.NewWriter(z)
	for _, file := range slices.Sorted(maps.Keys(all)) {
		text := all[file]
		// A bytes.Buffer takes everything.
		_ = t.WriteHeader(&tar.Header{Name: name + "/" + file, Mode: 0o644, Size: int64(len(text))})
		_, _ = t.Write([]byte(text))
	}
	_, _ = t.Close(), z.Close()
	return out.Bytes()
}

// Server serves charts: as a repository at /index.yaml, and in a registry as
// charts/NAME:VERSION.
type Server struct {
	// User and Password are asked for unless they are empty.
	User, Password string

	mu       sync.Mutex
	archives map[string][]byte // guarded by mu; by NAME-VERSION.tgz
	versions map[string]string // guarded by mu; the newest by name
	blobs    map[string][]byte // guarded by mu; by digest
	asked    int               // guarded by mu
}

// Add adds a version of a chart; the last one added counts as the newest.
func (s *Server) Add(name, version string, archive []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.archives == nil {
		s.archives, s.versions, s.blobs = map[string][]byte{}, map[string]string{}, map[string][]byte{}
	}
	s.archives[name+"-"+version+".tgz"] = archive
	s.versions[name] = version
}

// Asked is how many requests there have been.
func (s *Server) Asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	if user, password, _ := r.BasicAuth(); s.User != "" && (user != s.User || password != s.Password) {
		w.Header().Set("WWW-Authenticate", `Basic realm="charts"`)
		http.Error(w, `{"errors":[{"code":"UNAUTHORIZED"}]}`, http.StatusUnauthorized)
		return
	}
	switch path := r.URL.Path; {
	case path == "/index.yaml":
		s.index(w)
	case path == "/v2/" || path == "/v2":
		_, _ = w.Write([]byte("{}"))
	case strings.HasPrefix(path, "/v2/charts/"):
		s.registry(w, r, strings.Split(strings.TrimPrefix(path, "/v2/charts/"), "/"))
	default:
		archive, ok := s.archives[strings.TrimPrefix(path, "/")]
		if !ok {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(archive)
	}
}

// index writes the repository's index.
func (s *Server) index(w http.ResponseWriter) {
	fmt.Fprintln(w, "apiVersion: v1\nentries:")
	for _, name := range slices.Sorted(maps.Keys(s.versions)) {
		fmt.Fprintf(w, "  %s:\n", name)
		for _, file := range slices.Sorted(maps.Keys(s.archives)) {
			version, ok := strings.CutPrefix(strings.TrimSuffix(file, ".tgz"), name+"-")
			if ok {
				fmt.Fprintf(w, "  - {apiVersion: v2, name: %s, version: %s, urls: [%s]}\n", name, version, file)
			}
		}
	}
}

// registry answers /v2/charts/NAME/….
func (s *Server) registry(w http.ResponseWriter, r *http.Request, path []string) {
	if len(path) != 3 {
		http.NotFound(w, r)
		return
	}
	name, kind, ref := path[0], path[1], path[2]
	switch kind {
	case "tags":
		_ = json.NewEncoder(w).Encode(map[string]any{"name": "charts/" + name, "tags": []string{s.versions[name]}})
	case "manifests":
		body, ok := s.blobs[ref]
		if archive, tagged := s.archives[name+"-"+ref+".tgz"]; tagged {
			body, ok = s.manifest(name, ref, archive), true
		}
		if !ok {
			http.NotFound(w, r)
			return
		}
		write(w, r, manifestType, body)
	case "blobs":
		body, ok := s.blobs[ref]
		if !ok {
			http.NotFound(w, r)
			return
		}
		write(w, r, "application/octet-stream", body)
	default:
		http.NotFound(w, r)
	}
}

const manifestType = "application/vnd.oci.image.manifest.v1+json"

// manifest makes the manifest of a chart and keeps what it refers to.
func (s *Server) manifest(name, version string, archive []byte) []byte {
	descriptor := func(media string, body []byte) map[string]any {
		s.blobs[digest(body)] = body
		return map[string]any{"mediaType": media, "digest": digest(body), "size": len(body)}
	}
	config := fmt.Appendf(nil, `{"name":%q,"version":%q,"apiVersion":"v2"}`, name, version)
	body, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": manifestType,
		"config": descriptor("application/vnd.cncf.helm.config.v1+json", config),
		"layers": []any{descriptor("application/vnd.cncf.helm.chart.content.v1.tar+gzip", archive)},
	})
	if err != nil {
		return nil
	}
	s.blobs[digest(body)] = body
	return body
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func write(w http.ResponseWriter, r *http.Request, media string, body []byte) {
	w.Header().Set("Content-Type", media)
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	w.Header().Set("Docker-Content-Digest", digest(body))
	if r.Method != http.MethodHead {
		_, _ = w.Write(body)
	}
}
