package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// loadFiles reads the configuration file, then the drop-ins in <file>.d in
// alphabetical order.
func (l *loader) loadFiles(file string, required bool) {
	files := []string{}
	switch _, err := os.Stat(file); {
	case err == nil:
		files = append(files, file)
	case !errors.Is(err, fs.ErrNotExist) || required:
		l.fail("read configuration: %w", err)
	}
	dropIns, err := dropIns(file + ".d")
	if err != nil {
		l.errs = append(l.errs, err)
	}
	for _, f := range append(files, dropIns...) {
		l.loadFile(f)
	}
}

func dropIns(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read configuration drop-ins: %w", err)
	}
	var files []string
	for _, e := range entries {
		name := e.Name()
		ext := filepath.Ext(name)
		if e.IsDir() || strings.HasPrefix(name, ".") || (ext != ".yaml" && ext != ".yml") {
			continue
		}
		files = append(files, filepath.Join(dir, name))
	}
	slices.Sort(files)
	return files, nil
}

func (l *loader) loadFile(file string) {
	data, err := os.ReadFile(file)
	if err != nil {
		l.fail("read configuration: %w", err)
		return
	}
	root, err := parseYAML(data)
	if err != nil {
		l.fail("parse %s: %w", file, err)
		return
	}
	if root == nil {
		return
	}
	if root.Kind != yaml.MappingNode {
		l.fail("%s:%d: want lines of the form \"key: value\", found %s", file, root.Line, describe(root))
		return
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(root.Content); i += 2 {
		l.loadKey(file, root.Content[i], root.Content[i+1], seen)
	}
}

// parseYAML returns the one document of a file, or nil if there is nothing in it.
func parseYAML(data []byte) (*yaml.Node, error) {
	d := yaml.NewDecoder(strings.NewReader(string(data)))
	var doc, more yaml.Node
	if err := d.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	if err := d.Decode(&more); err == nil {
		return nil, fmt.Errorf("line %d: a second document begins; a configuration file has only one", more.Line)
	} else if !errors.Is(err, io.EOF) {
		return nil, err
	}
	if len(doc.Content) == 0 {
		return nil, nil
	}
	root := doc.Content[0]
	if isNull(root) {
		return nil, nil
	}
	return root, nil
}

// loadKey handles one key of a file. A key with a trailing + adds to what
// earlier files wrote: an item to a list, or text after a comma to a string.
func (l *loader) loadKey(file string, key, value *yaml.Node, seen map[string]int) {
	where := fmt.Sprintf("%s:%d", file, key.Line)
	name, appends := strings.CutSuffix(key.Value, "+")
	if first, dup := seen[key.Value]; dup {
		l.fail("%s: %s is already set in line %d", where, key.Value, first)
		return
	}
	seen[key.Value] = key.Line

	o, ok := l.options[name]
	if !ok || o.EnvOnly || o.FlagOnly {
		l.fail("%s: unknown key %q%s", where, key.Value, didYouMean(name, l.fileKeys()))
		return
	}
	if isNull(value) {
		return // "key:" with nothing after it is what templates leave behind
	}
	values, err := nodeValues(o, value)
	if err != nil {
		l.fail("%s: invalid %s: %w", where, name, err)
		return
	}
	from := Origin{Source: FromFile, Where: where}
	if appends {
		if values, err = l.appended(o, values); err != nil {
			l.fail("%s: invalid %s+: %w", where, name, err)
			return
		}
		if before, ok := l.origins[name]; ok {
			from.Where = before.Where + " + " + where
		}
	}
	if err := l.set(o, values, from); err != nil {
		l.fail("%s: invalid %s %q: %w", where, name, masked(o, strings.Join(values, ",")), err)
	}
}

// appended puts values after what earlier files set. A default is not
// something to add to: the first file that names a key replaces it.
func (l *loader) appended(o Option, values []string) ([]string, error) {
	k := o.Kind()
	if !k.IsList() && k != KindString {
		return nil, errors.New("only lists and text can be added to; write the key without +")
	}
	if _, ok := l.origins[o.Name]; !ok {
		return values, nil
	}
	all := append(o.Bind(l.config).Get(), values...)
	if k == KindString {
		all = []string{strings.Join(all, ",")}
	}
	return all, nil
}

// nodeValues turns a YAML value into the option's text form.
func nodeValues(o Option, n *yaml.Node) ([]string, error) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	k := o.Kind()
	if n.Kind == yaml.ScalarNode {
		if k == KindBool && n.Tag != "!!bool" {
			return nil, fmt.Errorf("want true or false, found %s", describe(n))
		}
		if k == KindList {
			return splitList([]string{n.Value}), nil
		}
		return []string{n.Value}, nil
	}
	if n.Kind != yaml.SequenceNode || !k.IsList() {
		return nil, fmt.Errorf("want %s, found %s", k, describe(n))
	}
	var out []string
	for _, item := range n.Content {
		if item.Kind == yaml.AliasNode {
			item = item.Alias
		}
		if item.Kind != yaml.ScalarNode || isNull(item) {
			return nil, fmt.Errorf("line %d: want one value as the item of a list, found %s", item.Line, describe(item))
		}
		out = append(out, item.Value)
	}
	if k == KindList {
		out = splitList(out)
	}
	return out, nil
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// describe names what a YAML value is, for a message.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.ScalarNode:
		if isNull(n) {
			return "nothing"
		}
		return fmt.Sprintf("%q", n.Value)
	default:
		return "something else"
	}
}

func (l *loader) fileKeys() []string {
	var keys []string
	for _, o := range Options() {
		if !o.EnvOnly && !o.FlagOnly {
			keys = append(keys, o.Name)
		}
	}
	return keys
}
