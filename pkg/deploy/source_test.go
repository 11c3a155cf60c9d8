package deploy

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"k8s.io/apimachinery/pkg/api/validation"
)

// tree makes files below a new directory; a value that begins with "-> " makes a
// symbolic link.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, ok := strings.CutPrefix(text, "-> "); ok {
			err = os.Symlink(target, p)
		} else {
			err = os.WriteFile(p, []byte(text), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestScan(t *testing.T) {
	elsewhere := tree(t, map[string]string{"linked.yaml": "l", "deeper/again.yaml": "d"})
	dir := tree(t, map[string]string{
		"b.yaml": "b", "a.json": "a", "c.yml": "c", "c.yml.skip": "", "notes.txt": "no", ".hidden.yaml": "no", "x.yaml~": "no",
		"sub/dir/s.yaml": "s", "sub/.git/no.yaml": "no", "rbac.yaml": "mine", "off.yaml": "o", "own.yaml.skip": "",
		"link": "-> " + elsewhere, "nested/link": "-> " + elsewhere,
	})
	bundled := fstest.MapFS{
		"rbac.yaml": {Data: []byte("theirs")}, "dns.yaml": {Data: []byte("ip: %{DNS}% %{OTHER}%")}, "own.yaml": {Data: []byte("x")}, "README.md": {Data: []byte("no")},
	}
	got, err := scan(Options{Dir: dir, Bundled: bundled, Disabled: func(n string) bool { return n == "off" || n == "dns" }, Vars: map[string]string{"DNS": "10.43.0.10"}})
	if err != nil {
		t.Fatal(err)
	}
	want := []source{
		{Name: "a", Path: dir + "/a.json", Data: []byte("a")},
		{Name: "b", Path: dir + "/b.yaml", Data: []byte("b")},
		{Name: "c", Path: dir + "/c.yml", Data: []byte("c"), Skip: true},
		{Name: "dns", Path: "bundled:dns.yaml", Bundled: true, Data: []byte("ip: 10.43.0.10 %{OTHER}%"), Disabled: true},
		{Name: "link.deeper.again", Path: dir + "/link/deeper/again.yaml", Data: []byte("d")},
		{Name: "link.linked", Path: dir + "/link/linked.yaml", Data: []byte("l")},
		{Name: "off", Path: dir + "/off.yaml", Data: []byte("o"), Disabled: true},
		{Name: "own", Path: "bundled:own.yaml", Bundled: true, Data: []byte("x"), Skip: true},
		{Name: "rbac", Path: dir + "/rbac.yaml", Data: []byte("mine")},
		{Name: "sub.dir.s", Path: dir + "/sub/dir/s.yaml", Data: []byte("s")},
	}
	if d := cmp.Diff(want, got, cmpopts.IgnoreFields(source{}, "Sum")); d != "" {
		t.Errorf("sources (-want +got):\n%s", d)
	}
}

func TestScanSameName(t *testing.T) {
	dir := tree(t, map[string]string{"x.yaml": "1", "x.json": "2"})
	got, err := scan(Options{Dir: dir, Disabled: func(string) bool { return false }})
	if err != nil || len(got) != 2 {
		t.Fatalf("got %v, %v", got, err)
	}
	if got[0].Err != nil || got[1].Err == nil || got[0].Name == got[1].Name {
		t.Errorf("one of the two files must be refused: %+v", got)
	}
}

func TestScanWithoutDirectory(t *testing.T) {
	if _, err := scan(Options{Dir: filepath.Join(t.TempDir(), "none")}); !errors.Is(err, errNoDir) {
		t.Errorf("error is %v, want errNoDir", err)
	}
}

func TestAddOnName(t *testing.T) {
	seen := map[string]string{}
	for _, rel := range []string{
		"a.yaml", "A.yaml", "a b.yaml", "a_b.yaml", "sub/a.yaml", "-a-.yaml", "ü.yaml", "a..b.yaml", "a.-b.yaml", "_/_.yaml", strings.Repeat("x", 300) + ".yaml",
	} {
		name := addOnName(rel)
		if other, ok := seen[name]; ok {
			t.Errorf("%q and %q are both %q", rel, other, name)
		}
		seen[name] = rel
		if errs := validation.NameIsDNSSubdomain(name, false); len(errs) > 0 {
			t.Errorf("addOnName(%q) = %q: %v", rel, name, errs)
		}
	}
	if got := addOnName("web/site.yaml"); got != "web.site" {
		t.Errorf("plain name became %q", got)
	}
}
