package images

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestAddInheritsFromBase(t *testing.T) {
	l := Layout{Dir: t.TempDir()}
	add(t, l, Image{Ref: "a.test/base:1", Layers: []Layer{Files(map[string]string{"etc/x": "1"})}, Cmd: []string{"sh"}, Env: []string{"A=1"}})
	add(t, l, Image{Ref: "a.test/top:2", Base: "a.test/base:1", Layers: []Layer{Files(map[string]string{"y": "2"})}, User: "7", Env: []string{"B=2"}})
	server := httptest.NewServer(l.Registry())
	defer server.Close()

	var m v1.Manifest
	fetch(t, server.URL+"/v2/top/manifests/2", &m)
	var config v1.Image
	fetch(t, server.URL+"/v2/top/blobs/"+m.Config.Digest.String(), &config)
	config.Config.Env = config.Config.Env[1:] // PATH
	want := v1.ImageConfig{User: "7", Cmd: []string{"sh"}, Env: []string{"A=1", "B=2"}}
	if diff := cmp.Diff(want, config.Config); diff != "" {
		t.Errorf("config (-want +got):\n%s", diff)
	}
	if len(m.Layers) != 2 || len(config.RootFS.DiffIDs) != 2 {
		t.Errorf("%d layers, %d diff ids, want 2 each", len(m.Layers), len(config.RootFS.DiffIDs))
	}
}

func TestArchiveIsReproducibleAndComplete(t *testing.T) {
	image := Image{Ref: "a.test/x:1", Layers: []Layer{Files(map[string]string{"b": "2", "a": "1"}), Links("a", "d", "c"), Dirs(0o1777, "tmp")}}
	var names [2][]string
	for i := range names {
		l := Layout{Dir: t.TempDir()}
		add(t, l, image)
		var b bytes.Buffer
		if err := l.Archive("a.test/x:1", &b); err != nil {
			t.Fatal(err)
		}
		r := tar.NewReader(&b)
		got := map[string]bool{}
		for {
			h, err := r.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			got[h.Name] = true
			names[i] = append(names[i], h.Name)
		}
		if !got["oci-layout"] || !got["index.json"] || len(got) != 2+1+1+3 {
			t.Errorf("archive holds %v", names[i])
		}
	}
	sortStrings := cmp.Transformer("set", func(s []string) map[string]bool {
		m := map[string]bool{}
		for _, x := range s {
			m[x] = true
		}
		return m
	})
	if diff := cmp.Diff(names[0], names[1], sortStrings); diff != "" {
		t.Errorf("two archives of one image differ:\n%s", diff)
	}
}

func TestRegistryRefusesWhatItDoesNotHave(t *testing.T) {
	l := Layout{Dir: t.TempDir()}
	add(t, l, Image{Ref: "a.test/x:1"})
	for path, want := range map[string]int{
		"/v2/": 200, "/v2/x/manifests/1": 200, "/v2/x/manifests/2": 404, "/v2/y/manifests/1": 404,
		"/v2/x/blobs/sha256:00": 404, "/other": 404,
	} {
		w := httptest.NewRecorder()
		l.Registry().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if w.Code != want {
			t.Errorf("GET %s = %d, want %d", path, w.Code, want)
		}
	}
}

func add(t *testing.T, l Layout, i Image) {
	t.Helper()
	if err := l.Add(i); err != nil {
		t.Fatal(err)
	}
}

func fetch(t *testing.T, url string, into any) {
	t.Helper()
	r, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if err := json.NewDecoder(r.Body).Decode(into); err != nil {
		t.Fatal(err)
	}
}
