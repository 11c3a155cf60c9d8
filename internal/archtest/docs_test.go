package archtest

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestLinks holds each link of a document to a file that is there, and each
// package or document it names to one that exists.
func TestLinks(t *testing.T) {
	root := filepath.Join("..", "..")
	for _, dir := range []string{".", "docs", "pkg", "test", "payload", "manifests"} {
		err := fs.WalkDir(os.DirFS(root), dir, func(name string, entry fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if entry.IsDir() && dir == "." && name != "." {
				return fs.SkipDir
			}
			if path.Ext(name) != ".md" {
				return nil
			}
			text, err := os.ReadFile(filepath.Join(root, name))
			if err != nil {
				return err
			}
			for _, target := range targets(name, string(text)) {
				if _, err := os.Stat(filepath.Join(root, target)); err != nil {
					t.Errorf("%s leads to %s, which is not there", name, target)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

var (
	link = regexp.MustCompile(`\]\(([^)#\s]+)[^)]*\)`)
	// named is a path of this repository in text. A record of a decision
	// names what there was on its day.
	named = regexp.MustCompile("`((?:cmd|docs|internal|pkg|scripts|test)/[a-z0-9_./-]+)`")
)

// targets returns what a document leads to, from the root of the repository.
func targets(name, text string) []string {
	var all []string
	for _, m := range link.FindAllStringSubmatch(text, -1) {
		if !strings.Contains(m[1], "://") {
			all = append(all, path.Join(path.Dir(name), m[1]))
		}
	}
	if path.Dir(name) == "docs/adr" {
		return all
	}
	for _, m := range named.FindAllStringSubmatch(text, -1) {
		all = append(all, path.Clean(m[1]))
	}
	return all
}

func TestTargets(t *testing.T) {
	const text = "[a](b.md) and [c](../d.md#part), [e](https://f.example/g.md); `pkg/cli` has `make x`, `docs/adr/`."
	want := []string{"docs/b.md", "d.md", "pkg/cli", "docs/adr"}
	if diff := cmp.Diff(want, targets("docs/x.md", text)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if diff := cmp.Diff([]string{"docs/adr/b.md"}, targets("docs/adr/x.md", "[a](b.md) `pkg/gone`")); diff != "" {
		t.Errorf("of a decision: -want +got:\n%s", diff)
	}
}
