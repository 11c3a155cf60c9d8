package images

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/platforms"
	"github.com/klauspost/compress/zstd"
)

// load imports what an uncompressed archive holds for this machine's platform,
// pins it, and unpacks it so that the first pod does not have to wait for
// that. It returns the names of the images.
func (i *Importer) load(ctx context.Context, r io.Reader) ([]string, error) {
	c, err := i.dial()
	if err != nil {
		return nil, err
	}
	imported, err := c.Import(ctx, r,
		containerd.WithImportPlatform(platforms.Default()),
		containerd.WithImageRefTranslator(fullName),
		containerd.WithImageLabels(map[string]string{managedLabel: "managed", pinnedLabel: "pinned"}))
	if err != nil {
		return nil, explain(err)
	}
	var names []string
	for _, img := range imported {
		image := containerd.NewImageWithPlatform(c, img, platforms.Default())
		if err := image.Unpack(ctx, i.Snapshotter()); err != nil {
			return nil, fmt.Errorf("unpack %s: %w", img.Name, err)
		}
		names = append(names, img.Name)
	}
	slices.Sort(names)
	return names, nil
}

// explain puts a cause that a person can act on before the importer's error.
func explain(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("the file is incomplete or still being written: %w", err)
	}
	return err
}

// Magic numbers of the compressed formats: RFC 1952 and RFC 8878.
const (
	gzipMagic = "\x1f\x8b"
	zstdMagic = "\x28\xb5\x2f\xfd"
)

type archive struct {
	io.Reader
	close []func() error
}

// openArchive opens a tar archive that may be compressed by gzip or zstd. The
// content counts, not the name.
func openArchive(path string) (*archive, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	a := &archive{close: []func() error{f.Close}}
	in := bufio.NewReaderSize(f, 1<<20)
	head, err := in.Peek(512)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read archive: %w", io.ErrUnexpectedEOF), a.Close())
	}
	switch {
	case bytes.HasPrefix(head, []byte(gzipMagic)):
		z, err := gzip.NewReader(in)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("read gzip: %w", err), a.Close())
		}
		a.Reader = z
		a.close = append(a.close, z.Close)
	case bytes.HasPrefix(head, []byte(zstdMagic)):
		// One goroutine and a bounded window: the import runs beside pods.
		z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(256<<20))
		if err != nil {
			return nil, errors.Join(fmt.Errorf("read zstd: %w", err), a.Close())
		}
		a.Reader = z
		a.close = append(a.close, func() error { z.Close(); return nil })
	case string(head[257:262]) == "ustar":
		a.Reader = in
	default:
		return nil, errors.Join(errors.New("not a tar archive, nor one compressed by gzip or zstd"), a.Close())
	}
	return a, nil
}

// Close implements io.Closer.
func (a *archive) Close() error {
	var errs []error
	for _, f := range slices.Backward(a.close) {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}
