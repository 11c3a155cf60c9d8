package release

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"
)

// An upgrade file is one line, the manifest (JSON), its signature as minisign
// writes it, and the executable compressed by zstd. The line is the format with
// its number, and the lengths of manifest and signature. Whatever changes so
// that this reader would misunderstand it gets another number; new entries of
// the manifest do not.
const (
	magic  = "skiff-upgrade"
	format = 1
	// maxHead is the longest line.
	maxHead = 64
	// maxWindow bounds what unpacking takes of the memory.
	maxWindow = 16 << 20
)

// ErrNotUpgrade says that a file is something else altogether.
var ErrNotUpgrade = errors.New("this is no upgrade file of skiff (they end in .skiff)")

// Reader reads one upgrade file.
type Reader struct {
	// Manifest is what the owner of the key says.
	Manifest Manifest
	body     io.Reader
}

// Open reads the beginning of an upgrade file, and verifies it.
func Open(r io.Reader, key Key) (*Reader, error) {
	b := bufio.NewReaderSize(r, 64<<10)
	manifestSize, signatureSize, err := readHead(b)
	if err != nil {
		return nil, err
	}
	text, signature := make([]byte, manifestSize), make([]byte, signatureSize)
	for _, part := range [][]byte{text, signature} {
		if _, err := io.ReadFull(b, part); err != nil {
			return nil, fmt.Errorf("read upgrade file: it ends too early: %w", err)
		}
	}
	if err := key.Verify(text, signature); err != nil {
		return nil, fmt.Errorf("verify upgrade file: %w", err)
	}
	m, err := parseManifest(text)
	if err != nil {
		return nil, fmt.Errorf("read upgrade file: %w", err)
	}
	return &Reader{Manifest: m, body: b}, nil
}

// readHead reads the first line.
func readHead(b *bufio.Reader) (manifest, signature int, err error) {
	var line []byte
	for len(line) < maxHead {
		c, err := b.ReadByte()
		if err != nil {
			return 0, 0, fmt.Errorf("read upgrade file: %w", errors.Join(ErrNotUpgrade, err))
		}
		if line = append(line, c); c == '\n' {
			break
		}
	}
	var number int
	if n, err := fmt.Sscanf(string(line), magic+" %d %d %d\n", &number, &manifest, &signature); n < 1 || err != nil && number == format {
		return 0, 0, fmt.Errorf("read upgrade file: %w", ErrNotUpgrade)
	}
	if number != format {
		return 0, 0, fmt.Errorf("read upgrade file: it is of format %d, this skiff reads %d; upgrade to a version in between first", number, format)
	}
	if manifest <= 0 || manifest > maxManifest || signature <= 0 || signature > maxSignature {
		return 0, 0, fmt.Errorf("read upgrade file: lengths %d and %d of its parts make no sense", manifest, signature)
	}
	return manifest, signature, nil
}

// Extract writes the executable. It must not be used unless the error is nil:
// only the end shows that it is the one of the manifest. Call it once.
func (r *Reader) Extract(w io.Writer) error {
	z, err := zstd.NewReader(r.body, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return fmt.Errorf("unpack upgrade file: %w", err)
	}
	defer z.Close()
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(w, sum), io.LimitReader(z, r.Manifest.Size+1))
	switch {
	case err != nil:
		return fmt.Errorf("unpack upgrade file after %d of %d bytes: %w", n, r.Manifest.Size, err)
	case n != r.Manifest.Size:
		return fmt.Errorf("unpack upgrade file: %w the executable: it does not have the %d bytes that were signed", ErrSignature, r.Manifest.Size)
	case hex.EncodeToString(sum.Sum(nil)) != r.Manifest.SHA256:
		return fmt.Errorf("unpack upgrade file: %w the executable: its checksum is not the one that was signed", ErrSignature)
	}
	return nil
}

// Effort is how hard Write tries to make a file small.
type Effort bool

// A release takes half a minute to be small; tests have no time for that.
const (
	Small Effort = true
	Fast  Effort = false
)

// Write writes an upgrade file with the executable. Size and checksum are filled
// in; all else of the manifest is the caller's. The same input gives the same
// bytes.
func Write(w io.Writer, m Manifest, executable *os.File, signer Signer, effort Effort) error {
	sum := sha256.New()
	size, err := io.Copy(sum, executable)
	if err != nil {
		return fmt.Errorf("read executable: %w", err)
	}
	if _, err := executable.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("read executable: %w", err)
	}
	m.Kind, m.Size, m.SHA256 = Kind, size, hex.EncodeToString(sum.Sum(nil))
	if err := m.check(); err != nil {
		return fmt.Errorf("write manifest: %w", err)
	}
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return fmt.Errorf("write manifest: %w", err)
	}
	text = append(text, '\n')
	signature, err := signer.Sign(text, Kind+" "+m.Version+" "+m.Arch)
	if err != nil {
		return err
	}
	head := fmt.Sprintf("%s %d %d %d\n", magic, format, len(text), len(signature))
	for _, part := range [][]byte{[]byte(head), text, signature} {
		if _, err := w.Write(part); err != nil {
			return fmt.Errorf("write upgrade file: %w", err)
		}
	}
	return compress(w, executable, effort)
}

func compress(w io.Writer, r io.Reader, effort Effort) error {
	level := zstd.SpeedFastest
	if effort == Small {
		level = zstd.SpeedBestCompression
	}
	// One at a time: how many processors there are must not show in the bytes.
	z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(maxWindow/2))
	if err != nil {
		return fmt.Errorf("compress executable: %w", err)
	}
	_, err = io.Copy(z, r)
	if err := errors.Join(err, z.Close()); err != nil {
		return fmt.Errorf("compress executable: %w", err)
	}
	return nil
}
