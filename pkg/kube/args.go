package kube

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	cliflag "k8s.io/component-base/cli/flag"

	"skiff/pkg/config"
)

// logArgs are upstream's own ways to configure the log, which is skiff's here.
var logArgs = []string{"logging-format", "log-flush-frequency", "log-text-info-buffer-size", "log-text-split-stream", "log-json-info-buffer-size", "log-json-split-stream"}

// ApplyArgs sets the flags that a user passes through to a component. They are
// written without dashes ("audit-log-path=/x", "profiling") and come after
// skiff's own settings, so that they win. option is the name of skiff's option
// they were given with, for the errors; all wrong arguments are reported.
// Process-wide arguments are left out, Setup has applied them.
func ApplyArgs(option string, sets cliflag.NamedFlagSets, args []string) error {
	fs := pflag.NewFlagSet(option, pflag.ContinueOnError)
	fs.SetOutput(io.Discard)
	for _, set := range sets.FlagSets {
		fs.AddFlagSet(set)
	}
	var errs []error
	for _, arg := range args {
		name, value, hasValue := strings.Cut(arg, "=")
		if slices.Contains(globalArgs, name) {
			continue
		}
		if err := applyArg(fs, name, value, hasValue); err != nil {
			errs = append(errs, fmt.Errorf("invalid --%s %q: %w", option, arg, err))
		}
	}
	return errors.Join(errs...)
}

func applyArg(fs *pflag.FlagSet, name, value string, hasValue bool) error {
	f := fs.Lookup(name)
	switch {
	case strings.HasPrefix(name, "-"):
		return fmt.Errorf("write it without dashes, as %q", strings.TrimLeft(name, "-"))
	case f == nil:
		if near := config.Suggest(name, names(fs)); near != "" {
			return fmt.Errorf("unknown flag %q; did you mean %q?", name, near)
		}
		return fmt.Errorf("unknown flag %q", name)
	case slices.Contains(logArgs, name):
		return errors.New("all components share skiff's log; use --debug, or v=N for more")
	case !hasValue && f.NoOptDefVal == "":
		return fmt.Errorf("flag %q needs a value, as in %q", name, name+"=VALUE")
	case !hasValue:
		value = f.NoOptDefVal
	}
	if err := fs.Set(name, value); err != nil {
		return fmt.Errorf("set flag %q: %w", name, err)
	}
	return nil
}

func names(fs *pflag.FlagSet) []string {
	var names []string
	fs.VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	return names
}
