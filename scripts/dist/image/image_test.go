package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestImage(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Skiff: self, Version: "v1.36.3+skiff1", Created: time.Unix(1_800_000_000, 0).UTC(), Level: gzip.BestSpeed}
	archive := filepath.Join(t.TempDir(), "image.tar")
	var first []byte
	for range 2 {
		if err := Write(archive, o); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(archive)
		if err != nil {
			t.Fatal(err)
		}
		if first != nil && !bytes.Equal(first, data) {
			t.Error("two runs give different bytes")
		}
		first = data
	}
	files := untar(t, bytes.NewReader(first))
	blob := func(digest string) []byte {
		data, ok := files["blobs/sha256/"+strings.TrimPrefix(digest, "sha256:")]
		if !ok {
			t.Fatalf("there is no blob %s", digest)
		}
		return data
	}
	var index v1.Index
	var manifest v1.Manifest
	var config v1.Image
	var docker []struct {
		Config           string
		RepoTags, Layers []string
	}
	decode(t, files["index.json"], &index)
	decode(t, blob(index.Manifests[0].Digest.String()), &manifest)
	decode(t, blob(manifest.Config.Digest.String()), &config)
	decode(t, files["manifest.json"], &docker)

	if len(docker) != 1 || !bytes.Equal(files[docker[0].Config], blob(manifest.Config.Digest.String())) ||
		!bytes.Equal(files[docker[0].Layers[0]], blob(manifest.Layers[0].Digest.String())) {
		t.Errorf("docker's manifest is of something else: %+v", docker)
	}
	if diff := cmp.Diff([]string{"skiff:v1.36.3-skiff1"}, docker[0].RepoTags); diff != "" {
		t.Errorf("tags (-want +got):\n%s", diff)
	}
	z, err := gzip.NewReader(bytes.NewReader(blob(manifest.Layers[0].Digest.String())))
	if err != nil {
		t.Fatal(err)
	}
	layer, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(layer)
	if got := config.RootFS.DiffIDs[0].Encoded(); got != hex.EncodeToString(sum[:]) {
		t.Errorf("the layer is %x, the configuration says %s", sum, got)
	}
	program, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(untar(t, bytes.NewReader(layer))["bin/skiff"], program) {
		t.Error("bin/skiff of the layer is not the executable")
	}
}

func untar(t *testing.T, r io.Reader) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for archive := tar.NewReader(r); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[h.Name], err = io.ReadAll(archive); err != nil {
			t.Fatal(err)
		}
	}
}

func decode(t *testing.T, data []byte, v any) {
	t.Helper()
	if err := json.Unmarshal(data, v); err != nil {
		t.Fatalf("%v: %s", err, data)
	}
}
