package images

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"runtime"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// pauseArchive makes an OCI image layout, as a tar archive, of an image that
// holds nothing but the pause executable. The same executable and name give
// the same bytes, so the digest tells whether containerd has it already.
func pauseArchive(name string, pause []byte) (io.Reader, digest.Digest, error) {
	layer, err := tarOf(map[string]file{"pause": {data: pause, mode: 0o755}}, []string{"pause"})
	if err != nil {
		return nil, "", fmt.Errorf("make pause image: %w", err)
	}
	platform := ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}
	if runtime.GOARCH == "arm" {
		platform.Variant = "v7"
	}
	blobs := map[string]file{}
	add := func(mediaType string, v any) (ocispec.Descriptor, error) {
		data, ok := v.([]byte)
		if !ok {
			var err error
			if data, err = json.Marshal(v); err != nil {
				return ocispec.Descriptor{}, fmt.Errorf("make pause image: %w", err)
			}
		}
		d := digest.FromBytes(data)
		blobs["blobs/sha256/"+d.Encoded()] = file{data: data, mode: 0o644}
		return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}, nil
	}
	layerDesc, err := add(ocispec.MediaTypeImageLayer, layer)
	if err != nil {
		return nil, "", err
	}
	config, err := add(ocispec.MediaTypeImageConfig, ocispec.Image{
		Platform: platform,
		// The user of the upstream pause image.
		Config: ocispec.ImageConfig{Entrypoint: []string{"/pause"}, User: "65535:65535", WorkingDir: "/"},
		RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{layerDesc.Digest}},
	})
	if err != nil {
		return nil, "", err
	}
	manifest, err := add(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    config,
		Layers:    []ocispec.Descriptor{layerDesc},
	})
	if err != nil {
		return nil, "", err
	}
	manifest.Platform = &platform
	manifest.Annotations = map[string]string{ocispec.AnnotationRefName: name}
	index, err := json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{manifest},
	})
	if err != nil {
		return nil, "", fmt.Errorf("make pause image: %w", err)
	}
	blobs["index.json"] = file{data: index, mode: 0o644}
	blobs["oci-layout"] = file{data: []byte(`{"imageLayoutVersion":"1.0.0"}`), mode: 0o644}
	order := []string{
		"oci-layout", "index.json",
		"blobs/sha256/" + manifest.Digest.Encoded(),
		"blobs/sha256/" + config.Digest.Encoded(),
		"blobs/sha256/" + layerDesc.Digest.Encoded(),
	}
	data, err := tarOf(blobs, order)
	if err != nil {
		return nil, "", fmt.Errorf("make pause image: %w", err)
	}
	return bytes.NewReader(data), manifest.Digest, nil
}

type file struct {
	data []byte
	mode int64
}

func tarOf(files map[string]file, order []string) ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, name := range order {
		f := files[name]
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: f.mode, Size: int64(len(f.data))}); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.data); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}
