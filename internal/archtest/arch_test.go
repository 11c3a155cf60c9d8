package archtest

import (
	"go/ast"
	"go/token"
	"strconv"
	"strings"
	"testing"
)

func TestArchitecture(t *testing.T) {
	rules := []struct {
		name string
		test func(*testing.T)
	}{
		{"layers", testLayers},
		{"foreign imports", testForeignImports},
		{"package comments", testPackageComments},
		{"file sizes", testFileSizes},
		{"calls", testCalls},
		{"absolute paths", testAbsolutePaths},
	}
	all := true
	for _, r := range rules {
		ran := false
		t.Run(r.name, func(t *testing.T) { ran = true; r.test(t) })
		all = all && ran
	}
	for key, why := range exceptions {
		if all && !needed[key] {
			t.Errorf("the exception %q (%s) is not needed any more", key, why)
		}
	}
}

func testLayers(t *testing.T) {
	_, pkgs := packages(t)
	for _, p := range pkgs {
		own, ok := levelOf(p.Path)
		if !ok {
			t.Errorf("%s has no layer: give it one in rules_test.go", p.Path)
			continue
		}
		for _, i := range p.Imports {
			target, ok := strings.CutPrefix(i, module+"/")
			if !ok {
				continue
			}
			if level, _ := levelOf(target); level > own {
				t.Errorf("%s (layer %d) imports %s (layer %d): a lower layer may not import a higher one", p.Path, own, target, level)
			}
			if why := sideways(p.Path, target); why != "" {
				t.Errorf("%s imports %s: %s", p.Path, target, why)
			}
			for leaf, by := range leaves {
				if within(target, leaf) && !within(p.Path, leaf) && !within(p.Path, by...) {
					t.Errorf("%s imports %s, which only %q may", p.Path, target, by)
				}
			}
		}
	}
}

func levelOf(path string) (int, bool) {
	for _, l := range layers {
		if within(path, l.pkgs...) {
			return l.level, true
		}
	}
	return 0, false
}

// sideways says what is wrong with an import inside the layers 3 and 4.
func sideways(from, to string) string {
	if within(from, "pkg/server") && within(to, "pkg/agent") || within(from, "pkg/agent") && within(to, "pkg/server") {
		return "server and agent never import each other"
	}
	for _, side := range []string{"pkg/server/", "pkg/agent/"} {
		a, okA := strings.CutPrefix(from, side)
		b, okB := strings.CutPrefix(to, side)
		if !okA || !okB {
			continue
		}
		a, _, _ = strings.Cut(a, "/")
		b, _, _ = strings.Cut(b, "/")
		if a != b {
			return "components that are siblings never import each other; the composition root connects them"
		}
	}
	return ""
}

func testForeignImports(t *testing.T) {
	_, pkgs := packages(t)
	for _, p := range pkgs {
		for _, i := range p.Imports {
			best := -1
			for n, f := range foreign {
				if within(i, f.library) && (best < 0 || len(f.library) > len(foreign[best].library)) {
					best = n
				}
			}
			if best < 0 || within(p.Path, foreign[best].by...) || excepted(i, p.Path) {
				continue
			}
			t.Errorf("%s imports %s: %s", p.Path, i, foreign[best].why)
		}
	}
}

func testPackageComments(t *testing.T) {
	_, pkgs := packages(t)
	for _, p := range pkgs {
		name := p.Files[0].AST.Name.Name
		prefix := "Package " + name + " "
		if name == "main" {
			prefix = "Command "
		}
		if !strings.HasPrefix(p.Doc, prefix) {
			t.Errorf("%s: the package comment does not begin with %q", p.Path, prefix)
		}
		var commented []string
		for _, f := range p.Files {
			if f.AST.Doc != nil {
				commented = append(commented, f.Name)
			}
		}
		if len(commented) > 1 {
			t.Errorf("%s: more than one package comment: %q", p.Path, commented)
		}
	}
}

func testFileSizes(t *testing.T) {
	_, pkgs := packages(t)
	for _, p := range pkgs {
		for _, f := range p.Files {
			if f.Lines > maxLines && !ast.IsGenerated(f.AST) && !excepted("size", f.Name) {
				t.Errorf("%s has %d lines, at most %d are read with pleasure", f.Name, f.Lines, maxLines)
			}
		}
	}
}

func testCalls(t *testing.T) {
	fset, pkgs := packages(t)
	for _, p := range pkgs {
		for _, f := range p.Files {
			names := importNames(f.AST)
			ast.Inspect(f.AST, func(n ast.Node) bool {
				path, name := used(n, names)
				for _, c := range calls {
					if name == c.name && path == c.pkg && !within(p.Path, c.by...) && !excepted(name, f.Name) {
						t.Errorf("%s: %s: %s", fset.Position(n.Pos()), strings.TrimPrefix(path+"."+name, "."), c.why)
					}
				}
				return true
			})
		}
	}
}

// used names the function that n uses: (import path, name) for one of another
// package, also where it is not called but passed on, and ("", name) for the
// call of a builtin or the declaration of init.
func used(n ast.Node, names map[string]string) (path, name string) {
	switch n := n.(type) {
	case *ast.SelectorExpr:
		if id, ok := n.X.(*ast.Ident); ok && names[id.Name] != "" {
			return names[id.Name], n.Sel.Name
		}
	case *ast.CallExpr:
		if id, ok := n.Fun.(*ast.Ident); ok {
			return "", id.Name
		}
	case *ast.FuncDecl:
		if n.Recv == nil && n.Name.Name == "init" {
			return "", "init"
		}
	}
	return "", ""
}

// importNames maps the local names of a file's imports to their paths.
func importNames(f *ast.File) map[string]string {
	names := make(map[string]string)
	for _, i := range f.Imports {
		path := strings.Trim(i.Path.Value, `"`)
		name := path[strings.LastIndex(path, "/")+1:]
		if i.Name != nil {
			name = i.Name.Name
		}
		names[name] = path
	}
	return names
}

func testAbsolutePaths(t *testing.T) {
	fset, pkgs := packages(t)
	for _, p := range pkgs {
		if within(p.Path, pathExempt...) {
			continue
		}
		for _, f := range p.Files {
			ast.Inspect(f.AST, func(n ast.Node) bool {
				lit, ok := n.(*ast.BasicLit)
				if !ok || lit.Kind != token.STRING {
					return true
				}
				text, err := strconv.Unquote(lit.Value)
				if err == nil && absolute(text) && !excepted("path", f.Name) {
					t.Errorf("%s: %s: paths belong in pkg/paths", fset.Position(lit.Pos()), lit.Value)
				}
				return true
			})
		}
	}
}

// absolute reports whether a literal looks like a path on the host. Text with
// spaces or line breaks is prose or a file's content.
func absolute(s string) bool {
	if strings.ContainsAny(s, " \n\t") {
		return false
	}
	for _, r := range roots {
		if strings.HasPrefix(s, r) {
			return true
		}
	}
	return false
}

// excepted looks up an exception and remembers that it was needed.
func excepted(rule, file string) bool {
	key := rule + " " + file
	_, ok := exceptions[key]
	if ok {
		needed[key] = true
	}
	return ok
}

// needed is written by the subtests of TestArchitecture, one after the other.
var needed = make(map[string]bool)
