// Package image writes the container image of skiff as an archive that is an OCI
// layout and what `docker save` writes at the same time: docker, podman,
// containerd and skiff's images directory take it. It is the image that the
// Dockerfile describes. The same input gives the same bytes. It does not know
// what is in the executable but its architecture. Start reading at Write.
package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"skiff/pkg/inventory"
)

// name is what the image is called once it is loaded.
const name = "docker.io/library/skiff"

// Options say what is in an image.
type Options struct {
	Skiff   string // the executable
	Version string
	Commit  string
	Created time.Time
	Level   int // of gzip
}

// Ref is what the image is called where it is loaded.
func (o Options) Ref() string { return name + ":" + o.tag() }

// tag is the version, without the plus that a tag cannot have.
func (o Options) tag() string { return strings.ReplaceAll(o.Version, "+", "-") }

// Write writes the archive to the file target.
func Write(target string, o Options) error {
	build, err := buildinfo.ReadFile(o.Skiff)
	if err != nil {
		return fmt.Errorf("read what %s was built from: %w", o.Skiff, err)
	}
	layer, diff, err := layer(o.Skiff, o.Level)
	if err != nil {
		return fmt.Errorf("pack %s: %w", o.Skiff, err)
	}
	config, err := json.Marshal(v1.Image{
		Created:  &o.Created,
		Platform: v1.Platform{OS: "linux", Architecture: inventory.Setting(build, "GOARCH")},
		Config: v1.ImageConfig{
			Entrypoint: []string{"/bin/skiff"}, Cmd: []string{"server"}, Env: []string{"PATH=/bin"},
			Volumes: map[string]struct{}{"/var/lib/skiff": {}, "/var/lib/kubelet": {}, "/var/log": {}},
			Labels:  map[string]string{v1.AnnotationTitle: "skiff", v1.AnnotationVersion: o.Version, v1.AnnotationRevision: o.Commit, v1.AnnotationLicenses: "Apache-2.0"},
		},
		RootFS: v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{diff}},
	})
	if err != nil {
		return err
	}
	out, err := os.Create(target)
	if err != nil {
		return err
	}
	defer out.Close()
	a := &archive{tar: tar.NewWriter(out), time: o.Created}
	if err := a.image(o, config, layer); err != nil {
		return fmt.Errorf("write %s: %w", target, err)
	}
	if err := a.tar.Close(); err != nil {
		return fmt.Errorf("write %s: %w", target, err)
	}
	return out.Close()
}

// layer is the one layer, compressed, and the digest of what it unpacks to.
func layer(skiff string, level int) (compressed []byte, diff digest.Digest, err error) {
	program, err := os.ReadFile(skiff)
	if err != nil {
		return nil, "", err
	}
	var packed bytes.Buffer
	sum := sha256.New()
	z, err := gzip.NewWriterLevel(&packed, level)
	if err != nil {
		return nil, "", err
	}
	w := tar.NewWriter(io.MultiWriter(z, sum))
	a := &archive{tar: w}
	for _, step := range []error{a.dir("bin/", 0o755), a.file("bin/skiff", program, 0o755), a.dir("tmp/", 0o1777), w.Close(), z.Close()} {
		if step != nil {
			return nil, "", step
		}
	}
	return packed.Bytes(), digest.NewDigestFromBytes(digest.SHA256, sum.Sum(nil)), nil
}

// archive is a tar that looks the same whoever writes it.
type archive struct {
	tar  *tar.Writer
	time time.Time
}

func (a *archive) dir(name string, mode int64) error {
	return a.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode, ModTime: a.time, Format: tar.FormatUSTAR})
}

func (a *archive) file(name string, data []byte, mode int64) error {
	if err := a.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(data)), ModTime: a.time, Format: tar.FormatUSTAR}); err != nil {
		return err
	}
	_, err := a.tar.Write(data)
	return err
}

// blob adds content under its digest.
func (a *archive) blob(mediaType string, data []byte) (v1.Descriptor, error) {
	sum := sha256.Sum256(data)
	return v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))},
		a.file(blobPath(hex.EncodeToString(sum[:])), data, 0o644)
}

func blobPath(sum string) string { return path.Join("blobs/sha256", sum) }

func (a *archive) json(name string, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return a.file(name, data, 0o644)
}

// image writes both layouts; their blobs are the same.
func (a *archive) image(o Options, config, layer []byte) error {
	for _, dir := range []string{"blobs/", "blobs/sha256/"} {
		if err := a.dir(dir, 0o755); err != nil {
			return err
		}
	}
	c, err := a.blob(v1.MediaTypeImageConfig, config)
	if err != nil {
		return err
	}
	l, err := a.blob(v1.MediaTypeImageLayerGzip, layer)
	if err != nil {
		return err
	}
	manifest, err := json.Marshal(v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest, Config: c, Layers: []v1.Descriptor{l},
	})
	if err != nil {
		return err
	}
	m, err := a.blob(v1.MediaTypeImageManifest, manifest)
	if err != nil {
		return err
	}
	m.Annotations = map[string]string{"io.containerd.image.name": o.Ref(), v1.AnnotationRefName: o.tag()}
	index := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{m}}
	if err := a.json(v1.ImageIndexFile, index); err != nil {
		return err
	}
	if err := a.json(v1.ImageLayoutFile, v1.ImageLayout{Version: v1.ImageLayoutVersion}); err != nil {
		return err
	}
	return a.json("manifest.json", []map[string]any{{
		"Config": blobPath(c.Digest.Encoded()), "RepoTags": []string{"skiff:" + o.tag()}, "Layers": []string{blobPath(l.Digest.Encoded())},
	}})
}
