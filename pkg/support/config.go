package support

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// configFiles are a configuration file and its drop-ins, those that exist.
func configFiles(file string) []string {
	var out []string
	for _, pattern := range []string{file, filepath.Join(file+".d", "*.yaml"), filepath.Join(file+".d", "*.yml")} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			continue // Of a name with brackets, which is nobody's.
		}
		slices.Sort(found)
		out = append(out, found...)
	}
	return out
}

// serviceFiles are the units of skiff and their environment files.
func serviceFiles(o Options) []string {
	var out []string
	for _, pattern := range o.Units {
		found, err := filepath.Glob(pattern)
		if err != nil {
			continue
		}
		out = append(out, found...)
	}
	slices.Sort(out)
	return out
}

// configParts show the files by which skiff is configured.
func configParts(o Options) []Part {
	parts := []Part{{Name: "config/registries.yaml", Write: func(_ context.Context, w io.Writer) error { return writeYAML(w, o.Registries) }}}
	for _, file := range configFiles(o.ConfigFile) {
		name := filepath.Base(file)
		if file != o.ConfigFile {
			name = filepath.Base(filepath.Dir(file)) + "/" + name
		}
		parts = append(parts, Part{Name: "config/" + name, Write: func(_ context.Context, w io.Writer) error { return writeYAML(w, file) }})
	}
	parts = append(parts, Part{Name: "config/units.txt", Write: func(_ context.Context, w io.Writer) error {
		for _, file := range serviceFiles(o) {
			fmt.Fprintf(w, "# %s\n", file)
			text := read(file)
			if strings.HasSuffix(file, ".env") || !strings.HasSuffix(file, ".service") && !strings.Contains(text, "\n[") {
				text = maskedEnvironment(strings.ReplaceAll(text, "\n", "\x00"))
			}
			fmt.Fprintln(w, text)
		}
		return nil
	}})
	if o.HostChanges != "" {
		parts = append(parts, file("config/host-changes.txt", o.HostChanges))
	}
	return parts
}

// maskedEnvironment shows the names, and the values of those that are known not
// to be secret.
func maskedEnvironment(environ string) string {
	var b strings.Builder
	for item := range strings.SplitSeq(environ, "\x00") {
		name, value, ok := strings.Cut(item, "=")
		shown := strings.HasPrefix(name, "SKIFF_") || strings.HasPrefix(name, "INSTALL_SKIFF_") || strings.HasSuffix(strings.ToLower(name), "_proxy") ||
			slices.Contains([]string{"PATH", "HOME", "LANG", "TZ", "INVOCATION_ID", "JOURNAL_STREAM", "GOMEMLIMIT", "GOGC", "GODEBUG", "KUBECONFIG", "CONTAINERD_LOG_LEVEL"}, name)
		switch {
		case !ok:
			continue
		case !shown || secretName(name):
			value = redacted
		}
		b.WriteString(name + "=" + value + "\n")
	}
	return b.String()
}

// writeYAML shows a YAML file without what its keys call a secret. One that
// cannot be read as YAML is not shown: nobody can say what in it is secret.
func writeYAML(w io.Writer, file string) error {
	data, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		_, err := fmt.Fprintln(w, "# there is no "+file)
		return err
	}
	if err != nil {
		return err
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return fmt.Errorf("%s is not shown: it is no YAML (%d bytes)", file, len(data))
	}
	maskYAML(&doc)
	out, err := yaml.Marshal(&doc)
	if err != nil {
		return fmt.Errorf("show %s: %w", file, err)
	}
	_, err = fmt.Fprintf(w, "# %s\n%s", file, out)
	return err
}

// maskYAML replaces the values of keys that are named like secrets, and all
// below the key "auth". Comments go: old settings live on in them.
func maskYAML(n *yaml.Node) {
	n.HeadComment, n.LineComment, n.FootComment = "", "", ""
	if n.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, value := n.Content[i], n.Content[i+1]
			key.HeadComment, key.LineComment, key.FootComment = "", "", ""
			name := strings.TrimSuffix(key.Value, "+")
			switch {
			case name == "auth" && value.Kind == yaml.MappingNode:
				for j := 1; j < len(value.Content); j += 2 {
					hide(value.Content[j])
				}
			case secretName(name) && !strings.HasSuffix(name, "_file") && value.Kind == yaml.ScalarNode:
				hide(value)
			default:
				maskYAML(value)
			}
		}
		return
	}
	for _, c := range n.Content {
		maskYAML(c)
	}
}

func hide(n *yaml.Node) { *n = yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: redacted} }
