package k3s

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"skiff/pkg/config"
)

// Setting is one setting of K3s, and what becomes of it.
type Setting struct {
	Name  string
	From  string // the file, unit or variable
	Taken bool
	// Note says what it is called here, or why it does not come along and what
	// to do instead.
	Note string
}

// given is what K3s was told: values by option, and where each is from.
type given struct {
	role   string
	values map[string][]string
	from   map[string]string
	// proxies are variables for the programs, not settings.
	proxies []string
}

// settings reads all that K3s reads: the configuration file, its drop-ins, the
// variables and the arguments of its service. Of two the later wins, but a
// repeatable argument, which replaces the file's list, as in K3s.
func (s Source) settings() (*given, error) {
	g := &given{role: "server", values: make(map[string][]string), from: make(map[string]string)}
	files := []string{s.Config}
	for _, pattern := range []string{"*.yaml", "*.yml"} {
		found, err := filepath.Glob(filepath.Join(s.Config+".d", pattern))
		if err != nil {
			return nil, fmt.Errorf("look for drop-ins of %s: %w", s.Config, err)
		}
		files = append(files, found...)
	}
	slices.Sort(files[1:])
	for _, file := range files {
		data, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read K3s' configuration: %w", err)
		}
		if err := g.file(file, data); err != nil {
			return nil, err
		}
	}
	for _, unit := range s.Units {
		data, err := os.ReadFile(unit)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read K3s' service: %w", err)
		}
		g.unit(unit, string(data))
	}
	if len(g.values["server"]) > 0 && g.from["role"] == "" {
		if _, err := os.Stat(filepath.Join(s.Data, "server", "db")); errors.Is(err, fs.ErrNotExist) {
			g.role = "agent"
		}
	}
	return g, nil
}

func (g *given) set(name string, values []string, from string) {
	g.values[name], g.from[name] = values, from
}

// file reads a configuration file. A key with a plus sign adds to what there
// is.
func (g *given) file(name string, data []byte) error {
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	if len(doc.Content) == 0 {
		return nil
	}
	root := doc.Content[0]
	if root.Kind != yaml.MappingNode {
		return fmt.Errorf("read %s: want lines of the form \"key: value\"", name)
	}
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, adds := strings.CutSuffix(root.Content[i].Value, "+")
		values := scalars(root.Content[i+1])
		if adds {
			values = append(slices.Clone(g.values[key]), values...)
		}
		g.set(key, values, fmt.Sprintf("%s:%d", name, root.Content[i].Line))
	}
	return nil
}

// scalars are the texts of a value, be it one or a list.
func scalars(n *yaml.Node) []string {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind == yaml.ScalarNode {
		if n.Tag == "!!null" {
			return nil
		}
		return []string{n.Value}
	}
	var out []string
	for _, item := range n.Content {
		out = append(out, scalars(item)...)
	}
	return out
}

// unit reads a unit file of systemd, a script of OpenRC, or a file of
// variables.
func (g *given) unit(name, text string) {
	text = strings.ReplaceAll(text, "\\\n", " ")
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		key, value, ok := strings.Cut(strings.TrimPrefix(line, "export "), "=")
		switch key = strings.TrimSpace(key); {
		case !ok || strings.HasPrefix(line, "#"):
		case key == "ExecStart", key == "command_args":
			g.arguments(name, words(strings.Trim(value, `"`)))
		case key == "Environment":
			for _, w := range words(value) {
				if k, v, ok := strings.Cut(w, "="); ok {
					g.variable(name, k, v)
				}
			}
		default:
			g.variable(name, key, strings.Join(words(value), " "))
		}
	}
}

// variable takes what a variable of K3s sets.
func (g *given) variable(file, name, value string) {
	lower := strings.ToLower(name)
	switch {
	case value == "":
	case strings.HasSuffix(lower, "_proxy"), strings.HasPrefix(name, "CONTAINERD_"):
		g.proxies = append(g.proxies, name)
	case strings.HasPrefix(name, "K3S_"):
		ours := "SKIFF_" + strings.TrimPrefix(name, "K3S_")
		option := strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(name, "K3S_")), "_", "-")
		for _, o := range config.Options() {
			if o.Env == ours {
				option = o.Name
			}
		}
		g.set(option, []string{value}, file+", "+name)
	}
}

// arguments takes those of "k3s server" and "k3s agent".
func (g *given) arguments(file string, args []string) {
	i := slices.IndexFunc(args, func(a string) bool { return a == "server" || a == "agent" })
	if i < 0 {
		return
	}
	g.role, g.from["role"] = args[i], file
	seen := make(map[string]bool)
	for args = args[i+1:]; len(args) > 0; args = args[1:] {
		name, value, with := strings.Cut(args[0], "=")
		if !strings.HasPrefix(name, "-") {
			continue
		}
		name = longName(strings.TrimLeft(name, "-"))
		switch {
		case with:
		case len(args) > 1 && !strings.HasPrefix(args[1], "-") && !switches[name]:
			value = args[1]
			args = args[1:]
		default:
			value = "true"
		}
		values := []string{value}
		if seen[name] {
			values = append(g.values[name], value)
		}
		seen[name] = true
		g.set(name, values, file)
	}
}

// longName is the name of an option that has a letter.
func longName(name string) string {
	for _, o := range config.Options() {
		if len(name) == 1 && slices.Contains(o.Aliases, name) {
			return o.Name
		}
	}
	if name == "i" {
		return "node-ip"
	}
	return name
}

// words splits a line as a shell does, as far as units go: quotes and blanks.
func words(line string) []string {
	var out []string
	var word strings.Builder
	quote, begun := rune(0), false
	for _, r := range line {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, begun = r, true
		case r == ' ' || r == '\t':
			if begun {
				out = append(out, word.String())
			}
			word.Reset()
			begun = false
		default:
			word.WriteRune(r)
			begun = true
		}
	}
	if begun {
		out = append(out, word.String())
	}
	return out
}
