package archtest

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// module is the import path of the repository's root.
const module = "skiff"

// pkg is one package of the module. Path is relative to it, "" for the root.
type pkg struct {
	Path    string
	Dir     string
	Doc     string
	Files   []*file
	Imports []string // of the product code, sorted
}

// file is one source file that is not a test.
type file struct {
	Name  string // relative to the root
	Lines int
	AST   *ast.File
}

var tree = sync.OnceValues(func() (*source, error) { return load() })

type source struct {
	fset *token.FileSet
	pkgs []*pkg
}

// packages returns all packages of the module, read once.
func packages(t *testing.T) (*token.FileSet, []*pkg) {
	t.Helper()
	s, err := tree()
	if err != nil {
		t.Fatal(err)
	}
	if len(s.pkgs) == 0 {
		t.Fatal("no packages found")
	}
	return s.fset, s.pkgs
}

// load asks go list, which knows build tags and nested modules, for the
// packages, and reads their files itself.
func load() (*source, error) {
	cmd := exec.Command("go", "list", "-e", "-find", "-json=ImportPath,Dir,Doc,GoFiles,CgoFiles,IgnoredGoFiles", module+"/...")
	cmd.Dir = filepath.Join("..", "..")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, err
	}
	root, err := filepath.Abs(cmd.Dir)
	if err != nil {
		return nil, err
	}
	s := &source{fset: token.NewFileSet()}
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var l struct {
			ImportPath, Dir, Doc              string
			GoFiles, CgoFiles, IgnoredGoFiles []string
		}
		if err := dec.Decode(&l); errors.Is(err, io.EOF) {
			return s, nil
		} else if err != nil {
			return nil, err
		}
		p := &pkg{Path: strings.TrimPrefix(strings.TrimPrefix(l.ImportPath, module), "/"), Dir: l.Dir, Doc: l.Doc}
		names := slices.Concat(l.GoFiles, l.CgoFiles, l.IgnoredGoFiles)
		for _, name := range names {
			if err := p.read(s.fset, root, name); err != nil {
				return nil, err
			}
		}
		if len(p.Files) > 0 {
			slices.Sort(p.Imports)
			p.Imports = slices.Compact(p.Imports)
			s.pkgs = append(s.pkgs, p)
		}
	}
}

func (p *pkg) read(fset *token.FileSet, root, name string) error {
	if strings.HasSuffix(name, "_test.go") {
		return nil // IgnoredGoFiles lists those too.
	}
	path := filepath.Join(p.Dir, name)
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	rel, err := filepath.Rel(root, path)
	if err != nil {
		return err
	}
	tree, err := parser.ParseFile(fset, rel, text, parser.ParseComments)
	if err != nil {
		return err
	}
	p.Files = append(p.Files, &file{Name: rel, Lines: strings.Count(string(text), "\n"), AST: tree})
	for _, i := range tree.Imports {
		p.Imports = append(p.Imports, strings.Trim(i.Path.Value, `"`))
	}
	return nil
}

// within reports whether path is one of the given packages or below one. An
// entry that ends in "/..." does not match the package itself.
func within(path string, of ...string) bool {
	for _, o := range of {
		if below, ok := strings.CutSuffix(o, "/..."); ok {
			if strings.HasPrefix(path, below+"/") {
				return true
			}
		} else if path == o || strings.HasPrefix(path, o+"/") {
			return true
		}
	}
	return false
}
