package images

import (
	"archive/tar"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// Layer writes the files of one layer. Everything is owned by root and has no
// times, so that layers are reproducible.
type Layer func(*tar.Writer) error

// Tree is a layer with all below a directory, modes and links included.
func Tree(dir string) Layer {
	return func(t *tar.Writer) error {
		return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || path == dir {
				return err
			}
			name, err := filepath.Rel(dir, path)
			if err != nil {
				return err
			}
			return addPath(t, path, name)
		})
	}
}

func addPath(t *tar.Writer, path, name string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	link := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		if link, err = os.Readlink(path); err != nil {
			return err
		}
	}
	full, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return err
	}
	header := &tar.Header{Typeflag: full.Typeflag, Name: name, Linkname: link, Mode: full.Mode, Size: full.Size, Format: tar.FormatPAX}
	if info.IsDir() {
		header.Name += "/"
	}
	if err := t.WriteHeader(header); err != nil || !info.Mode().IsRegular() {
		return err
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	_, err = t.Write(b)
	return err
}

// Executable is a layer with one executable copied from the machine.
func Executable(from, to string) Layer {
	return func(t *tar.Writer) error {
		b, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		return addFile(t, to, 0o755, b)
	}
}

// Links is a layer of symbolic links, all to the same target.
func Links(target string, names ...string) Layer {
	return func(t *tar.Writer) error {
		for _, name := range slices.Sorted(slices.Values(names)) {
			if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}); err != nil {
				return fmt.Errorf("add link %s: %w", name, err)
			}
		}
		return nil
	}
}

// Dirs is a layer of empty directories.
func Dirs(mode int64, names ...string) Layer {
	return func(t *tar.Writer) error {
		for _, name := range names {
			if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode}); err != nil {
				return fmt.Errorf("add directory %s: %w", name, err)
			}
		}
		return nil
	}
}

// Files is a layer of small text files.
func Files(contents map[string]string) Layer {
	return func(t *tar.Writer) error {
		names := make([]string, 0, len(contents))
		for name := range contents {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			if err := addFile(t, name, 0o644, []byte(contents[name])); err != nil {
				return err
			}
		}
		return nil
	}
}

func addFile(t *tar.Writer, name string, mode int64, content []byte) error {
	if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(content))}); err != nil {
		return fmt.Errorf("add file %s: %w", name, err)
	}
	_, err := t.Write(content)
	return err
}
