// Package payload gives access to the helper executables (runc, the shim, CNI
// plug-ins, nft, pause) that travel in a ZIP appended to the skiff executable,
// and stages them in a directory. `unzip -l bin/skiff` lists them.
//
// It does not know what the executables are for, nor who runs them. The ZIP is
// written by payload/pack with Write, so that both ends of the format are here.
// Start reading at Open and Stage.
package payload

import (
	"archive/zip"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// companions is the suffix of the directory of files that one executable needs
// beside it: nft.d/* is staged with nft.
const companions = ".d"

// maxRead bounds what ReadFile unpacks; runc, the largest, has 11 MB.
const maxRead = 128 << 20

// self is the running executable, even after its file was replaced.
const self = "/proc/self/exe"

// Payload is the set of files an executable carries. A Payload without files
// is valid: see Stage for what it does then.
type Payload struct {
	source  io.Closer
	entries map[string]*zip.File
}

// Open reads the table of contents of the running executable's payload. An
// executable that carries none (a plain `go build`) gives an empty Payload and
// no error.
func Open() (*Payload, error) {
	return OpenFile(self)
}

// OpenFile is Open for any executable.
func OpenFile(name string) (*Payload, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("open payload: %w", err)
	}
	p, err := read(f)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("read payload of %s: %w", name, err)
	}
	return p, nil
}

func read(f *os.File) (*Payload, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	p := &Payload{source: f, entries: map[string]*zip.File{}}
	z, err := zip.NewReader(f, info.Size())
	if errors.Is(err, zip.ErrFormat) {
		return p, nil
	}
	if err != nil {
		return nil, err
	}
	// One goroutine for each file is enough: Stage runs several at a time.
	z.RegisterDecompressor(zstd.ZipMethodWinZip, zstd.ZipDecompressor(
		zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true)))
	for _, e := range z.File {
		if e.Mode().IsRegular() {
			p.entries[e.Name] = e
		}
	}
	return p, nil
}

// Close releases the executable's file. Nothing may be staged afterwards.
func (p *Payload) Close() error {
	return p.source.Close()
}

// Names lists the executables that can be staged, sorted; nil if the
// executable carries no payload.
func (p *Payload) Names() []string {
	var names []string
	for name := range p.entries {
		if !strings.Contains(name, "/") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Files lists every entry by its path, companions and licences too, sorted.
func (p *Payload) Files() []string {
	return slices.Sorted(maps.Keys(p.entries))
}

// ReadFile unpacks one entry of Files into memory.
func (p *Payload) ReadFile(name string) ([]byte, error) {
	e, ok := p.entries[name]
	if !ok {
		return nil, fmt.Errorf("no %q in the payload", name)
	}
	if e.UncompressedSize64 > maxRead {
		return nil, fmt.Errorf("read %s of the payload: it has %d bytes, more than %d", name, e.UncompressedSize64, maxRead)
	}
	in, err := e.Open()
	if err != nil {
		return nil, fmt.Errorf("read %s of the payload: %w", name, err)
	}
	defer in.Close()
	data, err := io.ReadAll(io.LimitReader(in, maxRead))
	if err != nil {
		return nil, fmt.Errorf("read %s of the payload: %w", name, err)
	}
	return data, nil
}

// files returns the entry called name and its companions.
func (p *Payload) files(name string) ([]*zip.File, error) {
	e, ok := p.entries[name]
	if !ok || strings.Contains(name, "/") {
		return nil, fmt.Errorf("no %q in the payload, which has %s", name, strings.Join(p.Names(), ", "))
	}
	files := []*zip.File{e}
	for other, e := range p.entries {
		if path.Dir(other) == name+companions {
			files = append(files, e)
		}
	}
	return files, nil
}
