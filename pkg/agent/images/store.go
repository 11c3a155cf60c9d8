package images

import (
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	imagearchive "github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/klauspost/compress/zstd"

	"skiff/pkg/paths"
)

// answerTimeout is how long containerd gets to say that it is there.
const answerTimeout = 10 * time.Second

// Store is the image store of a running node, for a person at its command line.
type Store struct {
	client      *containerd.Client
	snapshotter string
}

// Info describes an image of a Store.
type Info struct {
	Name    string    `json:"name"`
	Digest  string    `json:"digest"`
	Size    int64     `json:"size"` // of what was pulled or imported, in bytes
	Pinned  bool      `json:"pinned"`
	Created time.Time `json:"created"` // in this store
	// Problem says why the image cannot be used; the size is not known then.
	Problem string `json:"problem,omitempty"`
}

// Open connects to the node's containerd. snapshotter is the one it unpacks
// images for.
func Open(ctx context.Context, layout paths.Layout, snapshotter string) (*Store, error) {
	socket := layout.ContainerdSocket()
	if _, err := os.Stat(socket); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no %s: skiff is not running on this machine; start it, or put the archive into %s, which is imported at the start", socket, layout.Images())
	}
	c, err := containerd.New(socket,
		containerd.WithDefaultNamespace(namespace),
		containerd.WithDefaultPlatform(platforms.Default()),
		containerd.WithTimeout(answerTimeout))
	if err != nil {
		return nil, fmt.Errorf("connect to containerd at %s: %w; see skiff status", socket, err)
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	if _, err := c.Version(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("ask containerd at %s: %w; see skiff status", socket, err), c.Close())
	}
	return &Store{client: c, snapshotter: snapshotter}, nil
}

// Close ends the connection.
func (s *Store) Close() error { return s.client.Close() }

// Import reads an archive and returns the names of its images.
func (s *Store) Import(ctx context.Context, r io.Reader, pin bool) ([]string, error) {
	a, err := unpacked(r)
	if err != nil {
		return nil, err
	}
	names, err := load(ctx, s.client, a, s.snapshotter, pin)
	if err == nil && len(names) == 0 {
		err = errors.New("the archive names no image")
	}
	return names, errors.Join(err, a.Close())
}

// List returns the images by name. Those that only repeat another by its
// digest are left out: the CRI keeps two such names for each image.
func (s *Store) List(ctx context.Context) ([]Info, error) {
	all, err := s.client.ListImages(ctx)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	named := map[string]bool{} // digests that have a name
	for _, img := range all {
		if !byDigest(img.Name()) {
			named[img.Target().Digest.String()] = true
		}
	}
	list := []Info{}
	for _, img := range all {
		d := img.Target().Digest.String()
		if strings.HasPrefix(img.Name(), "sha256:") || byDigest(img.Name()) && named[d] {
			continue
		}
		info := Info{
			Name: img.Name(), Digest: d, Pinned: img.Labels()[pinnedLabel] == "pinned",
			Created: img.Metadata().CreatedAt.UTC().Truncate(time.Second),
		}
		if info.Size, err = img.Size(ctx); err != nil {
			info.Problem = err.Error()
		}
		list = append(list, info)
	}
	slices.SortFunc(list, func(a, b Info) int { return cmp.Compare(a.Name, b.Name) })
	return list, nil
}

func byDigest(name string) bool {
	return strings.Contains(name, "@") || strings.HasPrefix(name, "sha256:")
}

// Export writes the named images to an archive that docker and every
// containerd can import. Names may be short, as in a pod.
func (s *Store) Export(ctx context.Context, w io.Writer, names []string) error {
	opts := []imagearchive.ExportOpt{imagearchive.WithPlatform(platforms.Default())}
	store := s.client.ImageService()
	for _, name := range names {
		full := name
		_, err := store.Get(ctx, name)
		if errdefs.IsNotFound(err) {
			if full = podName(name); full != name {
				_, err = store.Get(ctx, full)
			}
		}
		if errdefs.IsNotFound(err) {
			return fmt.Errorf("there is no image %s on this node; skiff image ls lists them", name)
		}
		if err != nil {
			return fmt.Errorf("look up image %s: %w", name, err)
		}
		opts = append(opts, imagearchive.WithImage(store, full))
	}
	if err := s.client.Export(ctx, w, opts...); err != nil {
		return fmt.Errorf("export images: %w", err)
	}
	return nil
}

// Compress packs what is written as the name of the file says. Close ends the
// packing and leaves w open.
func Compress(w io.Writer, name string) (io.WriteCloser, error) {
	switch {
	case strings.HasSuffix(name, ".gz"), strings.HasSuffix(name, ".tgz"):
		return gzip.NewWriter(w), nil
	case strings.HasSuffix(name, ".zst"), strings.HasSuffix(name, ".zstd"):
		return zstd.NewWriter(w)
	}
	return plain{w}, nil
}

type plain struct{ io.Writer }

func (plain) Close() error { return nil }
