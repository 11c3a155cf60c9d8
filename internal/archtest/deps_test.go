package archtest

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// reasons is where each direct dependency has a line that says what it is for.
const reasons = "docs/deps.txt"

// TestDependencies compares what go.mod and tools.mod require with the list of
// reasons.
func TestDependencies(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", reasons))
	if err != nil {
		t.Fatal(err)
	}
	listed := explained(string(text))
	direct, all := requirements(t, "go.mod")
	for _, m := range direct {
		if !slices.Contains(listed, m) {
			t.Errorf("%s is a direct dependency, but %s does not say what for", m, reasons)
		}
	}
	_, tools := requirements(t, "tools.mod")
	all = append(all, tools...)
	for _, path := range listed {
		if !slices.ContainsFunc(all, func(m string) bool { return within(path, m) }) {
			t.Errorf("%s explains %s, which is not required any more", reasons, path)
		}
	}
}

// requirements returns the modules that a go.mod requires: those it calls
// direct, and all.
func requirements(t *testing.T, name string) (direct, all []string) {
	t.Helper()
	cmd := exec.Command("go", "mod", "edit", "-json", name)
	cmd.Dir = filepath.Join("..", "..")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("read %s: %v", name, err)
	}
	var mod struct {
		Require []struct {
			Path     string
			Indirect bool
		}
	}
	if err := json.Unmarshal(out, &mod); err != nil {
		t.Fatal(err)
	}
	for _, r := range mod.Require {
		all = append(all, r.Path)
		if !r.Indirect {
			direct = append(direct, r.Path)
		}
	}
	return direct, all
}

var (
	columns = regexp.MustCompile(`\s{2,}`)
	braces  = regexp.MustCompile(`\{(.*)\}`)
)

// explained returns the paths in the first column of a list of reasons. There
// may be several in a line, and a{b,c} is ab and ac.
func explained(text string) []string {
	var paths []string
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		first := columns.Split(line, 2)[0]
		for path := range strings.SplitSeq(strings.TrimSpace(first), ", ") {
			m := braces.FindStringSubmatchIndex(path)
			if m == nil {
				if path != "" {
					paths = append(paths, path)
				}
				continue
			}
			for choice := range strings.SplitSeq(path[m[2]:m[3]], ",") {
				paths = append(paths, path[:m[0]]+choice+path[m[1]:])
			}
		}
	}
	return paths
}

func TestExplained(t *testing.T) {
	const text = "# heading\n\na.b/{c,d/v2}    two\na.b/e, a.b/f  two more\na.b/long  one\n"
	want := []string{"a.b/c", "a.b/d/v2", "a.b/e", "a.b/f", "a.b/long"}
	if diff := cmp.Diff(want, explained(text)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
