// Package images makes container images without any container tool and without
// pulling anything: from Debian's static busybox, from our own executables and
// from directories. It knows the OCI image format and nothing of skiff or of
// what the images are used for. Start reading at Layout.Add.
package images

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// nameAnnotation is how containerd finds an image's full name in an index.
const nameAnnotation = "io.containerd.image.name"

// Layout is a directory in the OCI image layout that collects images and
// shares their blobs.
type Layout struct{ Dir string }

// Image describes an image to make. Empty fields are taken from the base.
type Image struct {
	Ref        string // "registry.example/name:tag"
	Base       string // Ref of an image in the same layout, or ""
	Layers     []Layer
	Entrypoint []string // a non-nil empty slice removes the base's
	Cmd        []string
	User       string
	Env        []string // added to the base's
	// Architecture is the base's if it is empty, and without a base this machine's.
	Architecture string
}

// Add makes the image and enters it into the layout's index. The same input
// gives the same bytes.
func (l Layout) Add(image Image) error {
	index, err := l.index()
	if err != nil {
		return err
	}
	manifest, config, err := l.base(index, image.Base)
	if err != nil {
		return fmt.Errorf("make image %s: %w", image.Ref, err)
	}
	if image.Architecture != "" {
		config.Architecture = image.Architecture
	}
	for _, layer := range image.Layers {
		descriptor, diff, err := l.addLayer(layer)
		if err != nil {
			return fmt.Errorf("make image %s: %w", image.Ref, err)
		}
		manifest.Layers = append(manifest.Layers, descriptor)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, diff)
	}
	image.applyTo(&config.Config)
	if manifest.Config, err = l.putJSON(config, v1.MediaTypeImageConfig); err != nil {
		return err
	}
	descriptor, err := l.putJSON(manifest, v1.MediaTypeImageManifest)
	if err != nil {
		return err
	}
	descriptor.Platform = &config.Platform
	descriptor.Annotations = map[string]string{nameAnnotation: image.Ref, v1.AnnotationRefName: image.Ref[strings.LastIndex(image.Ref, ":")+1:]}
	index.Manifests = slices.DeleteFunc(index.Manifests, func(d v1.Descriptor) bool { return d.Annotations[nameAnnotation] == image.Ref })
	index.Manifests = append(index.Manifests, descriptor)
	if err := writeJSON(filepath.Join(l.Dir, v1.ImageLayoutFile), v1.ImageLayout{Version: v1.ImageLayoutVersion}); err != nil {
		return err
	}
	return writeJSON(filepath.Join(l.Dir, v1.ImageIndexFile), index)
}

// applyTo overlays what the image sets on what its base had.
func (image Image) applyTo(c *v1.ImageConfig) {
	c.Env = append(c.Env, image.Env...)
	if image.Entrypoint != nil {
		c.Entrypoint = image.Entrypoint
	}
	if image.Cmd != nil {
		c.Cmd = image.Cmd
	}
	if image.User != "" {
		c.User = image.User
	}
}

// base returns copies of the base's manifest and configuration, or empty ones.
func (l Layout) base(index v1.Index, ref string) (v1.Manifest, v1.Image, error) {
	manifest := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
	config := v1.Image{
		Platform: v1.Platform{Architecture: runtime.GOARCH, OS: "linux"},
		RootFS:   v1.RootFS{Type: "layers"},
		Config:   v1.ImageConfig{Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}},
	}
	if ref == "" {
		return manifest, config, nil
	}
	for _, d := range index.Manifests {
		if d.Annotations[nameAnnotation] != ref {
			continue
		}
		if err := l.getJSON(d, &manifest); err != nil {
			return manifest, config, err
		}
		config = v1.Image{}
		return manifest, config, l.getJSON(manifest.Config, &config)
	}
	return manifest, config, fmt.Errorf("find base image %q: not in %s", ref, l.Dir)
}

// addLayer stores a layer, compressed, and returns its uncompressed digest too.
func (l Layout) addLayer(layer Layer) (v1.Descriptor, digest.Digest, error) {
	var packed bytes.Buffer
	z, err := gzip.NewWriterLevel(&packed, gzip.BestSpeed)
	if err != nil {
		return v1.Descriptor{}, "", err
	}
	diff := digest.Canonical.Digester()
	t := tar.NewWriter(io.MultiWriter(z, diff.Hash()))
	if err := layer(t); err != nil {
		return v1.Descriptor{}, "", fmt.Errorf("make layer: %w", err)
	}
	if err := errors.Join(t.Close(), z.Close()); err != nil {
		return v1.Descriptor{}, "", fmt.Errorf("make layer: %w", err)
	}
	d, err := l.put(packed.Bytes(), v1.MediaTypeImageLayerGzip)
	return d, diff.Digest(), err
}

// Archive writes one image of the layout as a self-contained archive that
// containerd and docker both import.
func (l Layout) Archive(ref string, w io.Writer) error {
	index, err := l.index()
	if err != nil {
		return err
	}
	i := slices.IndexFunc(index.Manifests, func(d v1.Descriptor) bool { return d.Annotations[nameAnnotation] == ref })
	if i < 0 {
		return fmt.Errorf("find image %q: not in %s", ref, l.Dir)
	}
	d := index.Manifests[i]
	index.Manifests = []v1.Descriptor{d}
	var manifest v1.Manifest
	if err := l.getJSON(d, &manifest); err != nil {
		return err
	}
	t := tar.NewWriter(w)
	for name, value := range map[string]any{v1.ImageLayoutFile: v1.ImageLayout{Version: v1.ImageLayoutVersion}, v1.ImageIndexFile: index} {
		b, err := json.Marshal(value)
		if err != nil {
			return err
		}
		if err := addFile(t, name, 0o644, b); err != nil {
			return err
		}
	}
	written := map[digest.Digest]bool{}
	for _, blob := range append([]v1.Descriptor{d, manifest.Config}, manifest.Layers...) {
		if written[blob.Digest] {
			continue
		}
		written[blob.Digest] = true
		b, err := os.ReadFile(l.path(blob.Digest))
		if err != nil {
			return err
		}
		if err := addFile(t, "blobs/sha256/"+blob.Digest.Encoded(), 0o644, b); err != nil {
			return err
		}
	}
	return t.Close()
}

// ArchiveFile writes the archive of one image to a file, by rename.
func (l Layout) ArchiveFile(ref, path string) error {
	f, err := os.Create(path + ".tmp")
	if err != nil {
		return err
	}
	if err := errors.Join(l.Archive(ref, f), f.Close()); err != nil {
		return fmt.Errorf("write archive of %s: %w", ref, err)
	}
	return os.Rename(f.Name(), path)
}

func (l Layout) index() (v1.Index, error) {
	index := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex}
	b, err := os.ReadFile(filepath.Join(l.Dir, v1.ImageIndexFile))
	if errors.Is(err, fs.ErrNotExist) {
		return index, nil
	}
	if err != nil {
		return index, err
	}
	return index, json.Unmarshal(b, &index)
}

func (l Layout) path(d digest.Digest) string {
	return filepath.Join(l.Dir, v1.ImageBlobsDir, d.Algorithm().String(), d.Encoded())
}

func (l Layout) put(b []byte, mediaType string) (v1.Descriptor, error) {
	d := v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	path := l.path(d.Digest)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return d, err
	}
	return d, os.WriteFile(path, b, 0o644)
}

func (l Layout) putJSON(value any, mediaType string) (v1.Descriptor, error) {
	b, err := json.Marshal(value)
	if err != nil {
		return v1.Descriptor{}, err
	}
	return l.put(b, mediaType)
}

func (l Layout) getJSON(d v1.Descriptor, value any) error {
	b, err := os.ReadFile(l.path(d.Digest))
	if err != nil {
		return err
	}
	return json.Unmarshal(b, value)
}

func writeJSON(path string, value any) error {
	b, err := json.Marshal(value)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o644)
}
