package deploy

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// source is one manifest file.
type source struct {
	Name     string // of its AddOn
	Path     string // for people: the file, or "bundled:NAME"
	Bundled  bool
	Data     []byte
	Sum      string // checksum of Data
	Skip     bool   // leave it and its objects alone
	Disabled bool   // its objects are unwanted
	Err      error  // why it could not be read
}

// errNoDir means that the manifest directory itself is missing at the moment,
// which is not the same as that it is empty.
var errNoDir = errors.New("manifest directory is missing")

// scan reads all sources: the user's files, and the bundled ones that no file of
// the user replaces. Names are unique and sorted.
func scan(o Options) ([]source, error) {
	files, err := scanDir(o.Dir)
	if err != nil {
		return nil, err
	}
	taken := map[string]string{}
	var out []source
	for _, s := range files {
		if other, ok := taken[s.Name]; ok {
			s.Err = fmt.Errorf("AddOn name %s is already that of %s; rename one of the two files", s.Name, other)
			s.Name += "-" + shortSum([]byte(s.Path))
		}
		taken[s.Name] = s.Path
		out = append(out, s)
	}
	bundled, err := scanBundled(o)
	if err != nil {
		return nil, err
	}
	for _, s := range bundled {
		if i := slices.IndexFunc(out, func(f source) bool { return f.Name == s.Name }); i >= 0 {
			// The user's file takes its place; a .skip file of the user too.
			continue
		}
		if _, err := os.Stat(filepath.Join(o.Dir, s.Name+".yaml.skip")); err == nil {
			s.Skip = true
		}
		out = append(out, s)
	}
	for i := range out {
		base := strings.TrimSuffix(filepath.Base(out[i].Path), filepath.Ext(out[i].Path))
		out[i].Disabled = o.Disabled(out[i].Name) || o.Disabled(base)
	}
	slices.SortFunc(out, func(a, b source) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// scanBundled reads the manifests of skiff itself and fills in the variables.
func scanBundled(o Options) ([]source, error) {
	if o.Bundled == nil {
		return nil, nil
	}
	entries, err := fs.ReadDir(o.Bundled, ".")
	if err != nil {
		return nil, fmt.Errorf("read bundled manifests: %w", err)
	}
	var pairs []string
	for k, v := range o.Vars {
		pairs = append(pairs, "%{"+k+"}%", v)
	}
	vars := strings.NewReplacer(pairs...)
	var out []source
	for _, e := range entries {
		if e.IsDir() || !isManifest(e.Name()) {
			continue
		}
		b, err := fs.ReadFile(o.Bundled, e.Name())
		if err != nil {
			return nil, fmt.Errorf("read bundled manifest %s: %w", e.Name(), err)
		}
		data := []byte(vars.Replace(string(b)))
		out = append(out, source{Name: addOnName(e.Name()), Path: "bundled:" + e.Name(), Bundled: true, Data: data, Sum: sum(data)})
	}
	return out, nil
}

// scanDir reads the files below dir: subdirectories to any depth, directories
// that are symbolic links in dir itself only.
func scanDir(dir string) ([]source, error) {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil, errNoDir
	}
	var out []source
	err := walk(dir, func(path string, isDir bool) {
		if isDir || !isManifest(path) {
			return
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			rel = filepath.Base(path)
		}
		s := source{Name: addOnName(rel), Path: path}
		if _, err := os.Stat(path + ".skip"); err == nil {
			s.Skip = true
		}
		s.Data, s.Err = os.ReadFile(path)
		if errors.Is(s.Err, fs.ErrNotExist) { // removed since, or a dangling link
			if _, err := os.Lstat(path); err != nil {
				return
			}
		}
		s.Sum = sum(s.Data)
		out = append(out, s)
	})
	return out, err
}

// walk calls fn for everything below dir, dir included, in order of names.
func walk(dir string, fn func(path string, isDir bool)) error {
	fn(dir, true)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read manifest directory: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if !linkedDir(path, e) && !e.IsDir() {
			fn(path, false)
			continue
		}
		err := filepath.WalkDir(path+"/", func(p string, sub fs.DirEntry, err error) error {
			if err != nil {
				return nil // It went away meanwhile, or is not for us to read.
			}
			if strings.HasPrefix(filepath.Base(p), ".") {
				if sub.IsDir() {
					return fs.SkipDir
				}
				return nil
			}
			fn(filepath.Clean(p), sub.IsDir())
			return nil
		})
		if err != nil {
			return fmt.Errorf("read manifest directory %s: %w", path, err)
		}
	}
	return nil
}

func linkedDir(path string, e fs.DirEntry) bool {
	if e.Type()&fs.ModeSymlink == 0 {
		return false
	}
	i, err := os.Stat(path)
	return err == nil && i.IsDir()
}

func isManifest(name string) bool {
	switch filepath.Ext(name) {
	case ".yaml", ".yml", ".json":
		return !strings.HasPrefix(filepath.Base(name), ".")
	}
	return false
}

// addOnName makes the name of an AddOn from the path of its file below the
// manifest directory: "web/site.yaml" becomes "web.site". When something had to
// be changed to make it a valid name, a checksum keeps it unique.
func addOnName(rel string) string {
	plain := strings.ReplaceAll(strings.TrimSuffix(rel, filepath.Ext(rel)), "/", ".")
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-', r == '.':
			return r
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		}
		return '-'
	}, plain)
	name = strings.Trim(name, "-.")
	for strings.Contains(name, "..") || strings.Contains(name, ".-") || strings.Contains(name, "-.") {
		name = strings.NewReplacer("..", ".", ".-", ".", "-.", ".").Replace(name)
	}
	if len(name) > 200 {
		name = strings.TrimRight(name[:200], "-.")
	}
	if name != plain {
		name = strings.Trim(name+"-"+shortSum([]byte(rel)), "-")
	}
	return name
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

func shortSum(b []byte) string { return sum(b)[:8] }
