package images

import (
	"bufio"
	"bytes"
	"compress/bzip2"
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

// load imports an uncompressed archive for the Importer.
func (i *Importer) load(ctx context.Context, r io.Reader) ([]string, error) {
	c, err := i.dial()
	if err != nil {
		return nil, err
	}
	return load(ctx, c, r, i.Snapshotter(), true)
}

// load imports what an uncompressed archive holds for this machine's platform,
// and unpacks it so that the first pod does not have to wait for that. It
// returns the names of the images. Those that are pinned stay when the disk is
// full and the kubelet removes images.
func load(ctx context.Context, c *containerd.Client, r io.Reader, snapshotter string, pin bool) ([]string, error) {
	labels := map[string]string{managedLabel: "managed"}
	if pin {
		labels[pinnedLabel] = "pinned"
	}
	imported, err := c.Import(ctx, r,
		containerd.WithImportPlatform(platforms.Default()),
		containerd.WithImageRefTranslator(fullName),
		containerd.WithImageLabels(labels))
	if err != nil {
		return nil, explain(err)
	}
	var names []string
	for _, img := range imported {
		image := containerd.NewImageWithPlatform(c, img, platforms.Default())
		if err := image.Unpack(ctx, snapshotter); err != nil {
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

// Magic numbers of the compressed formats: RFC 1952, RFC 8878 and bzip2's manual.
const (
	bzip2Magic = "BZh"
	gzipMagic  = "\x1f\x8b"
	zstdMagic  = "\x28\xb5\x2f\xfd"
)

type archive struct {
	io.Reader
	close []func() error
}

// openArchive opens a file for unpacked.
func openArchive(path string) (*archive, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	a, err := unpacked(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	a.close = append([]func() error{f.Close}, a.close...)
	return a, nil
}

// unpacked reads a tar archive that may be compressed by gzip, bzip2 or zstd.
// The content counts, not a name.
func unpacked(r io.Reader) (*archive, error) {
	a := &archive{}
	in := bufio.NewReaderSize(r, 1<<20)
	head, err := in.Peek(512)
	// A compressed archive may be shorter, a tar is not.
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read archive: %w", err)
	}
	switch {
	case bytes.HasPrefix(head, []byte(gzipMagic)):
		z, err := gzip.NewReader(in)
		if err != nil {
			return nil, fmt.Errorf("read gzip: %w", err)
		}
		a.Reader = z
		a.close = append(a.close, z.Close)
	case bytes.HasPrefix(head, []byte(zstdMagic)):
		// One goroutine and a bounded window: the import runs beside pods.
		z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(256<<20))
		if err != nil {
			return nil, fmt.Errorf("read zstd: %w", err)
		}
		a.Reader = z
		a.close = append(a.close, func() error { z.Close(); return nil })
	case bytes.HasPrefix(head, []byte(bzip2Magic)):
		a.Reader = bzip2.NewReader(in)
	case len(head) < 512:
		return nil, fmt.Errorf("read archive: %w", io.ErrUnexpectedEOF)
	case string(head[257:262]) == "ustar":
		a.Reader = in
	default:
		return nil, errors.New("not a tar archive, nor one compressed by gzip, bzip2 or zstd")
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
