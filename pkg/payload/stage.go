package payload

import (
	"archive/zip"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sync/errgroup"
)

// staged is the mode of every staged file; libraries of companions share it.
const staged fs.FileMode = 0o755

// Stage puts the named executables, and the companions each needs, into dir,
// which is made if missing. It may be called again at any time.
//
// A file that is already there with the same size, mode and checksum is left
// alone, so that only a file damaged by a power cut or by hand is written
// again. Files are replaced by rename, never written in place: a running shim
// keeps the file it was started from. What was staged by another version and
// is not named stays.
//
// An executable without payload, as `go build` makes it, keeps what is in dir
// already and links the rest to what PATH has.
func (p *Payload) Stage(dir string, names ...string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("stage payload: %w", err)
	}
	if len(p.entries) == 0 {
		return stageFromPath(dir, os.Getenv("PATH"), names)
	}
	var files []*zip.File
	for _, name := range names {
		more, err := p.files(name)
		if err != nil {
			return fmt.Errorf("stage payload: %w", err)
		}
		files = append(files, more...)
	}
	if err := stageFiles(dir, files); err != nil {
		return fmt.Errorf("stage payload in %s: %w", dir, err)
	}
	return nil
}

// stageFiles writes what is missing or differs. Reading back and
// decompressing are bound by the CPU, so as many run at a time as there are.
func stageFiles(dir string, files []*zip.File) error {
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for _, e := range files {
		g.Go(func() error {
			target := filepath.Join(dir, filepath.FromSlash(e.Name))
			same, err := identical(target, e)
			if err != nil || same {
				return err
			}
			return write(target, e)
		})
	}
	return g.Wait()
}

// identical reports whether target is what the entry unpacks to.
func identical(target string, e *zip.File) (bool, error) {
	// A link would be followed and a directory cannot be replaced; only the
	// first is mended by write.
	info, err := os.Lstat(target)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if info.Mode() != staged || uint64(info.Size()) != e.UncompressedSize64 {
		return false, nil
	}
	f, err := os.Open(target)
	if err != nil {
		return false, err
	}
	defer f.Close()
	sum := crc32.NewIEEE()
	if _, err := io.CopyBuffer(struct{ io.Writer }{sum}, struct{ io.Reader }{f}, make([]byte, 256<<10)); err != nil {
		// A bad block is a reason to write the file again, not to give up.
		return false, nil //nolint:nilerr // see above; write reports a disk that is really broken
	}
	return sum.Sum32() == e.CRC32, nil
}

// write unpacks the entry beside target and renames it over target. The data is
// synced first, so that no power cut leaves a name without its contents.
func write(target string, e *zip.File) error {
	dir := filepath.Dir(target)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	in, err := e.Open()
	if err != nil {
		return fmt.Errorf("unpack %s: %w", e.Name, err)
	}
	defer in.Close()
	// One name for ever: what a kill leaves behind is used again, not piled up.
	temp := filepath.Join(dir, "."+filepath.Base(target)+".tmp")
	return replace(target, temp, func(out *os.File) error {
		// The reader checks the CRC at its end, so a damaged executable is noticed.
		if _, err := io.Copy(out, in); err != nil {
			return fmt.Errorf("unpack %s: %w", e.Name, err)
		}
		if err := out.Chmod(staged); err != nil {
			return err
		}
		return out.Sync()
	})
}

// replace fills the executable file temp and renames it over target; it leaves
// no temp behind when that fails.
func replace(target, temp string, fill func(*os.File) error) error {
	out, err := os.OpenFile(temp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, staged)
	if err != nil {
		return err
	}
	err = errors.Join(fill(out), out.Close())
	if err == nil {
		err = os.Rename(temp, target)
	}
	if err != nil {
		os.Remove(temp)
	}
	return err
}
