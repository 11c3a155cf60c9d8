package conform

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const upstream = "k8s.io/apiserver/pkg/storage/"

// TestNothingIsForgotten compares what is run here with what upstream has, and
// with what upstream itself runs on its store and on its cacher.
func TestNothingIsForgotten(t *testing.T) {
	direct := uses(t, "shared_test.go", "direct_test.go")
	cached := uses(t, "shared_test.go", "cacher_test.go")
	etcd3, cacher := directory(t, upstream+"etcd3"), directory(t, upstream+"cacher")
	tests := []struct {
		name      string
		have, all []string
	}{
		{"exported by the storage tests", slices.Concat(direct, cached), declared(t, directory(t, upstream+"testing"))},
		{"run on the store", direct, uses(t, filepath.Join(etcd3, "store_test.go"), filepath.Join(etcd3, "watcher_test.go"))},
		{"run on the cacher", cached, uses(t, filepath.Join(cacher, "cacher_test.go"))},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if len(tt.all) < 40 {
				t.Fatalf("found only %d tests: %q", len(tt.all), tt.all)
			}
			var missing []string
			for _, name := range tt.all {
				if !slices.Contains(tt.have, name) {
					missing = append(missing, name)
				}
			}
			if diff := cmp.Diff([]string(nil), missing); diff != "" {
				t.Errorf("not run here:\n%s", diff)
			}
			t.Logf("%d tests", len(tt.all))
		})
	}
}

// directory asks the go command where a package's source is.
func directory(t *testing.T, path string) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-find", "-json=Dir", path).Output()
	if err != nil {
		t.Fatalf("find the source of %s: %v", path, err)
	}
	var p struct{ Dir string }
	if err := json.Unmarshal(out, &p); err != nil {
		t.Fatal(err)
	}
	return p.Dir
}

// wanted reports whether a name is a test, not a benchmark.
func wanted(name string) bool {
	return strings.HasPrefix(name, "Run") && !strings.HasPrefix(name, "RunBenchmark")
}

// declared returns the exported tests of the package in dir.
func declared(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, name := range files {
		for _, d := range parse(t, name).Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && wanted(f.Name.Name) {
				names = append(names, f.Name.Name)
			}
		}
	}
	return names
}

// uses returns the tests of upstream that files call, or have in a table.
func uses(t *testing.T, files ...string) []string {
	t.Helper()
	var names []string
	for _, name := range files {
		ast.Inspect(parse(t, name), func(n ast.Node) bool {
			s, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if pkg, ok := s.X.(*ast.Ident); ok && pkg.Name == "storagetesting" && wanted(s.Sel.Name) {
				names = append(names, s.Sel.Name)
			}
			return true
		})
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func parse(t *testing.T, name string) *ast.File {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	return f
}
