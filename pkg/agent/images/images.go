// Package images brings images into containerd without a registry: the pause
// image, which skiff makes itself, and the archives that a person puts into
// the images directory. It knows nothing about pods or the kubelet. Start
// reading at Importer; pause.go makes the pause image.
package images

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"

	"skiff/pkg/component"
	"skiff/pkg/paths"
)

// Labels by which the CRI knows an image as its own, and as one that the
// kubelet must not remove. Source: containerd, internal/cri/labels.
const (
	managedLabel = "io.cri-containerd.image"
	pinnedLabel  = "io.cri-containerd.pinned"
)

// namespace is where the CRI keeps its images.
const namespace = "k8s.io"

// Notes is where the reader of `skiff status` is told of broken archives.
type Notes interface {
	Set(key, message string)
	Clear(key string)
}

// Importer imports images. Its exported fields must not change once it is in
// use.
type Importer struct {
	Layout      paths.Layout
	PauseName   string        // name of the pause image to make; "" if the user has one of his own
	Snapshotter func() string // which snapshotter containerd uses, once it is up
	Notes       Notes
	Logger      *slog.Logger

	mu     sync.Mutex
	client *containerd.Client
}

var _ component.Component = (*Importer)(nil)

// Name implements component.Component.
func (i *Importer) Name() string { return "images" }

// EnsurePause makes sure that the pause image is there. No pod can start
// without it.
func (i *Importer) EnsurePause(ctx context.Context) error {
	if i.PauseName == "" {
		return nil
	}
	pause, err := os.ReadFile(filepath.Join(i.Layout.Bin(), "pause"))
	if err != nil {
		return fmt.Errorf("make pause image: %w", err)
	}
	c, err := i.dial()
	if err != nil {
		return err
	}
	archive, digest, err := pauseArchive(i.PauseName, pause)
	if err != nil {
		return err
	}
	if have, err := c.GetImage(ctx, i.PauseName); err == nil && have.Target().Digest == digest {
		ok, err := have.IsUnpacked(ctx, i.Snapshotter())
		if err == nil && ok && have.Labels()[pinnedLabel] != "" {
			return nil
		}
	}
	if _, err := i.load(ctx, archive); err != nil {
		return fmt.Errorf("import pause image %s: %w", i.PauseName, err)
	}
	i.Logger.Info("pause image imported", "image", i.PauseName)
	return nil
}

// Run implements component.Component. It imports the archives that are in the
// images directory, one after the other, and then those that appear.
func (i *Importer) Run(ctx context.Context) error {
	defer i.close()
	dir := i.Layout.Images()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make images directory: %w", err)
	}
	w, err := newWatch(dir)
	if err != nil {
		return err
	}
	defer w.close()
	seen := loadState(i.Layout.ImagesState(), i.Logger)
	if err := w.all(); err != nil {
		return err
	}
	for {
		name, err := w.next(ctx)
		if err != nil {
			return err
		}
		i.file(ctx, seen, name)
	}
}

// file imports one archive unless that has been done already. A failure is
// told to the person and is not one of the component: the others go on.
func (i *Importer) file(ctx context.Context, seen *state, path string) {
	note := "images/" + filepath.Base(path)
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		// Images stay when their archive goes: pods may use them.
		i.Notes.Clear(note)
		return
	}
	if err == nil && !info.Mode().IsRegular() {
		return
	}
	if err == nil && seen.same(path, info) && i.haveAll(ctx, seen.images(path)) {
		return
	}
	var names []string
	if err == nil {
		names, err = i.importFile(ctx, path)
	}
	if err != nil {
		if ctx.Err() != nil {
			return
		}
		i.Logger.Error("image archive not imported", "file", path, "error", err)
		i.Notes.Set(note, fmt.Sprintf("image archive %s not imported: %v", path, err))
		return
	}
	i.Notes.Clear(note)
	i.Logger.Info("image archive imported", "file", path, "images", names)
	if err := seen.record(path, info, names); err != nil {
		// It will be imported again at the next start, nothing worse.
		i.Logger.Warn("imported images not remembered", "error", err)
	}
}

func (i *Importer) importFile(ctx context.Context, path string) ([]string, error) {
	f, err := openArchive(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // Only read.
	names, err := i.load(ctx, f)
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return nil, errors.New("the archive names no image")
	}
	return names, nil
}

// haveAll reports whether containerd still has all the named images.
func (i *Importer) haveAll(ctx context.Context, names []string) bool {
	c, err := i.dial()
	if err != nil || len(names) == 0 {
		return false
	}
	for _, name := range names {
		if _, err := c.GetImage(ctx, name); err != nil {
			if !errdefs.IsNotFound(err) {
				i.Logger.Debug("look up image", "image", name, "error", err)
			}
			return false
		}
	}
	return true
}

// fullName turns the name in an OCI archive's index into one that containerd
// can use; a bare tag names no image.
func fullName(name string) string {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil || reference.Domain(ref) == "docker.io" && ref.String() != name {
		return ""
	}
	return reference.TagNameOnly(ref).String()
}

func (i *Importer) dial() (*containerd.Client, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.client != nil {
		return i.client, nil
	}
	c, err := containerd.New(i.Layout.ContainerdSocket(),
		containerd.WithDefaultNamespace(namespace),
		containerd.WithDefaultPlatform(platforms.Default()))
	if err != nil {
		return nil, fmt.Errorf("connect to containerd: %w", err)
	}
	i.client = c
	return c, nil
}

func (i *Importer) close() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.client == nil {
		return
	}
	if err := i.client.Close(); err != nil {
		i.Logger.Debug("close connection to containerd", "error", err)
	}
	i.client = nil
}

// podName is the full name of an image that is named as in a pod.
func podName(name string) string {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return name
	}
	return reference.TagNameOnly(ref).String()
}
