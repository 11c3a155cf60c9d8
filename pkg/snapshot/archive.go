package snapshot

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/klauspost/compress/zstd"
)

const (
	format       = 1
	manifestName = "manifest.json"
	manifestMax  = 16 << 20
	window       = 1 << 20 // for compression; bounds the memory of both sides
	windowMax    = 64 << 20
)

// Manifest is the first file of an archive and lists the others in order.
type Manifest struct {
	Format   int       `json:"format"`
	Kind     string    `json:"kind"`
	Version  string    `json:"version"` // of the skiff that made it
	Node     string    `json:"node"`
	Time     time.Time `json:"time"`
	Revision int64     `json:"revision"` // of the database
	Files    []File    `json:"files"`
}

// File is one file of an archive.
type File struct {
	Name   string      `json:"name"` // server/… or etc/…, with slashes
	Size   int64       `json:"size"`
	Mode   fs.FileMode `json:"mode"`
	SHA256 string      `json:"sha256"`

	// open is where it comes from while an archive is made.
	open func() (io.ReadCloser, error)
}

// writeArchive makes an archive with the files of m, synced but not yet under
// its name.
func writeArchive(ctx context.Context, path string, m Manifest) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	z, err := zstd.NewWriter(f, zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true), zstd.WithWindowSize(window))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, z.Close()) }()
	t := tar.NewWriter(z)
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	header := &tar.Header{Name: manifestName, Size: int64(len(text)), Mode: 0o600, ModTime: m.Time, Format: tar.FormatPAX}
	if err := t.WriteHeader(header); err != nil {
		return err
	}
	if _, err := t.Write(text); err != nil {
		return err
	}
	for _, file := range m.Files {
		if err := writeEntry(ctx, t, file, m.Time); err != nil {
			return fmt.Errorf("add %s: %w", file.Name, err)
		}
	}
	return errors.Join(t.Close(), z.Close(), f.Sync())
}

func writeEntry(ctx context.Context, t *tar.Writer, file File, at time.Time) (err error) {
	r, err := file.open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if err := t.WriteHeader(&tar.Header{Name: file.Name, Size: file.Size, Mode: int64(file.Mode), ModTime: at, Format: tar.FormatPAX}); err != nil {
		return err
	}
	_, err = io.Copy(t, &stopped{ctx, r})
	return err
}

// readManifest reads the beginning of an archive.
func readManifest(path string) (m Manifest, err error) {
	a, err := openArchive(path)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, a.close()) }()
	return a.manifest()
}

// readArchive reads a whole archive and hands each file to visit, which may be
// nil. A file's content is only known to be right when readArchive returns
// without an error.
func readArchive(ctx context.Context, path string, visit func(File, io.Reader) error) (m Manifest, err error) {
	a, err := openArchive(path)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, a.close()) }()
	if m, err = a.manifest(); err != nil {
		return m, err
	}
	for _, file := range m.Files {
		h, err := a.tar.Next()
		if err != nil {
			return m, fmt.Errorf("read %s: %w", file.Name, cut(err))
		}
		if h.Name != file.Name || h.Size != file.Size || h.Typeflag != tar.TypeReg {
			return m, fmt.Errorf("read %s: the archive has %s of %d bytes in its place", file.Name, h.Name, h.Size)
		}
		sum := sha256.New()
		content := io.TeeReader(&stopped{ctx, a.tar}, sum)
		if visit != nil {
			if err := visit(file, content); err != nil {
				return m, err
			}
		}
		if _, err := io.Copy(io.Discard, content); err != nil {
			return m, fmt.Errorf("read %s: %w", file.Name, cut(err))
		}
		if got := hex.EncodeToString(sum.Sum(nil)); got != file.SHA256 {
			return m, fmt.Errorf("read %s: its checksum is not that of the manifest", file.Name)
		}
	}
	if _, err := a.tar.Next(); !errors.Is(err, io.EOF) {
		return m, errors.New("the archive has more than its manifest lists, or is damaged at its end")
	}
	// The compressor's own checksum comes at the very end.
	if _, err := io.Copy(io.Discard, a.zstd); err != nil {
		return m, fmt.Errorf("read the end: %w", cut(err))
	}
	return m, nil
}

// cut says what the end of a file in the middle of an archive means.
func cut(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("the archive is cut off")
	}
	return err
}

// archive is one that is being read.
type archive struct {
	file *os.File
	zstd *zstd.Decoder
	tar  *tar.Reader
}

func openArchive(path string) (*archive, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	z, err := zstd.NewReader(f, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(windowMax))
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &archive{file: f, zstd: z, tar: tar.NewReader(z)}, nil
}

func (a *archive) close() error {
	a.zstd.Close()
	return a.file.Close()
}

func (a *archive) manifest() (m Manifest, err error) {
	h, err := a.tar.Next()
	if err != nil {
		return m, fmt.Errorf("read the manifest: %w", cut(err))
	}
	if h.Name != manifestName || h.Size > manifestMax {
		return m, errors.New("this is not a snapshot of skiff: it does not begin with " + manifestName)
	}
	text, err := io.ReadAll(a.tar)
	if err != nil {
		return m, fmt.Errorf("read the manifest: %w", cut(err))
	}
	if err := json.Unmarshal(text, &m); err != nil {
		return m, fmt.Errorf("read the manifest: %w", err)
	}
	if m.Format != format {
		return m, fmt.Errorf("the snapshot has format %d, this skiff reads format %d", m.Format, format)
	}
	for _, file := range m.Files {
		if !filepath.IsLocal(filepath.FromSlash(file.Name)) || file.Mode&^fs.ModePerm != 0 || file.Size < 0 {
			return m, fmt.Errorf("the manifest lists %q, which is not a file of a server", file.Name)
		}
	}
	return m, nil
}

// stopped is a reader that ends with its context.
type stopped struct {
	ctx context.Context //nolint:containedctx // the reader lives as long as one call
	r   io.Reader
}

// Read implements io.Reader.
func (s *stopped) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	return s.r.Read(p)
}
