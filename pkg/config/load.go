package config

import (
	"errors"
	"fmt"
	"strings"

	"skiff/pkg/paths"
)

// Input is where settings come from, handed over by the caller so that Load
// itself depends on nothing but the files it names.
type Input struct {
	// Flags holds the values of each flag that was given, by option name (not
	// by alias) and in order.
	Flags map[string][]string
	// Environ is the environment as os.Environ returns it.
	Environ []string
	// DefaultFile is read when neither flag nor environment names a file, and
	// then may be absent. Empty means paths.Layout.ConfigFile.
	DefaultFile string
}

// Load collects the settings of a role. Each source replaces the one before:
// defaults, then the configuration file and its drop-ins, then the
// environment, then flags; docs/adr has the reasons. Settings that only
// another role uses are checked but otherwise ignored, so that one file serves
// all. The error joins everything that is wrong, each with its place.
func Load(role Role, in Input) (*Config, Origins, error) {
	l := &loader{role: role, config: Default(), origins: Origins{}, options: map[string]Option{}}
	for _, o := range Options() {
		l.options[o.Name] = o
	}
	env := environment(in.Environ)
	file, required := in.DefaultFile, false
	if file == "" {
		file = paths.New(paths.DefaultData).ConfigFile()
	}
	opt := l.options[ConfigFlag]
	if v := env[opt.Env]; v != "" {
		file, required = v, true
	}
	if v := in.Flags[ConfigFlag]; len(v) > 0 {
		file, required = v[len(v)-1], true
	}

	l.loadFiles(file, required)
	l.loadEnv(env)
	l.loadFlags(in.Flags)
	if err := errors.Join(l.errs...); err != nil {
		return nil, nil, err
	}
	return l.config, l.origins, nil
}

// loader carries the state of one Load.
type loader struct {
	role    Role
	options map[string]Option
	config  *Config
	origins Origins
	errs    []error
}

func (l *loader) fail(format string, args ...any) {
	l.errs = append(l.errs, fmt.Errorf(format, args...))
}

// set stores values for an option, and remembers where they are from. What
// another role uses goes to a Config that nobody reads, which still checks it.
func (l *loader) set(o Option, values []string, from Origin) error {
	target := l.config
	if o.Roles&l.role == 0 {
		target = Default()
	}
	if err := o.Bind(target).Set(values); err != nil {
		return err
	}
	if target == l.config {
		l.origins[o.Name] = from
	}
	return nil
}

func (l *loader) loadEnv(env map[string]string) {
	known := map[string]bool{}
	var names []string
	for _, o := range Options() {
		known[o.Env] = true
		names = append(names, o.Env)
		text, ok := env[o.Env]
		if !ok || text == "" {
			continue // an empty variable is how shells and unit files unset one
		}
		if err := l.set(o, splitEnv(o.Kind(), text), Origin{Source: FromEnv, Where: o.Env}); err != nil {
			l.fail("invalid environment variable %s=%q: %w", o.Env, masked(o, text), err)
		}
	}
	// Other programs may use the prefix (a Service called "skiff" makes
	// Kubernetes set some), so only what looks like a typing error is one.
	for name := range env {
		if known[name] || !strings.HasPrefix(name, "SKIFF_") {
			continue
		}
		if s := Suggest(name, names); s != "" && distance(name, s) <= 2 {
			l.fail("unknown environment variable %s; did you mean %s?", name, s)
		}
	}
}

func (l *loader) loadFlags(flags map[string][]string) {
	for _, o := range Options() {
		values, ok := flags[o.Name]
		if !ok || len(values) == 0 {
			continue
		}
		if o.Kind() == KindList {
			values = splitList(values)
		}
		if err := l.set(o, values, Origin{Source: FromFlag, Where: "--" + o.Name}); err != nil {
			l.fail("invalid --%s %q: %w", o.Name, masked(o, strings.Join(values, ",")), err)
		}
	}
}

func environment(environ []string) map[string]string {
	env := make(map[string]string, len(environ))
	for _, line := range environ {
		if name, value, ok := strings.Cut(line, "="); ok {
			env[name] = value
		}
	}
	return env
}

// splitEnv splits one variable's text. Arguments of components contain commas
// ("feature-gates=A=true,B=false"), so those are separated by spaces.
func splitEnv(k Kind, text string) []string {
	switch k {
	case KindList:
		return splitList([]string{text})
	case KindArgs:
		return strings.Fields(text)
	default:
		return []string{text}
	}
}

// splitList accepts "a,b" for a list's items, wherever it is written.
func splitList(values []string) []string {
	var out []string
	for _, v := range values {
		for item := range strings.SplitSeq(v, ",") {
			if item = strings.TrimSpace(item); item != "" {
				out = append(out, item)
			}
		}
	}
	return out
}
