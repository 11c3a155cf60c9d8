package cli

import (
	"fmt"
	"os"
	"slices"
	"strconv"

	"github.com/urfave/cli/v2"

	"skiff/pkg/config"
)

// optionFlags makes the flags of a role from the option table. Names in
// without are taken by the command's own flags.
func optionFlags(role config.Role, without ...string) []cli.Flag {
	var flags []cli.Flag
	defaults := config.Default()
	for _, o := range config.OptionsFor(role) {
		if o.EnvOnly {
			continue
		}
		aliases := slices.DeleteFunc(slices.Clone(o.Aliases), func(a string) bool { return slices.Contains(without, a) })
		usage := fmt.Sprintf("%s [$%s]", o.Usage, o.Env)
		if d := config.DefaultText(o, defaults); d != "" {
			usage = fmt.Sprintf("%s (default: %s) [$%s]", o.Usage, d, o.Env)
		}
		switch kind := o.Kind(); {
		case kind == config.KindBool:
			flags = append(flags, &cli.BoolFlag{Name: o.Name, Aliases: aliases, Usage: usage, Category: o.Section, DisableDefaultText: true})
		case kind.IsList():
			flags = append(flags, &cli.StringSliceFlag{Name: o.Name, Aliases: aliases, Usage: usage, Category: o.Section})
		default:
			flags = append(flags, &cli.StringFlag{Name: o.Name, Aliases: aliases, Usage: usage, Category: o.Section})
		}
	}
	return flags
}

// flagValues collects the flags that were given.
func flagValues(c *cli.Context, role config.Role) map[string][]string {
	values := map[string][]string{}
	for _, o := range config.OptionsFor(role) {
		switch kind := o.Kind(); {
		case o.EnvOnly || !c.IsSet(o.Name):
		case kind == config.KindBool:
			values[o.Name] = []string{strconv.FormatBool(c.Bool(o.Name))}
		case kind.IsList():
			values[o.Name] = c.StringSlice(o.Name)
		default:
			values[o.Name] = []string{c.String(o.Name)}
		}
	}
	return values
}

// load reads and completes the configuration of a role.
func load(c *cli.Context, role config.Role) (config.Completed, config.Origins, error) {
	if err := noArguments(c); err != nil {
		return config.Completed{}, nil, err
	}
	return loadOptions(c, role)
}

// loadOptions is load for commands that have arguments.
func loadOptions(c *cli.Context, role config.Role) (config.Completed, config.Origins, error) {
	return completeOptions(c, role, os.Environ())
}

// completeOptions is loadOptions with the environment of another process.
func completeOptions(c *cli.Context, role config.Role, environ []string) (config.Completed, config.Origins, error) {
	cfg, origins, err := config.Load(role, config.Input{Flags: flagValues(c, role), Environ: environ})
	if err != nil {
		return config.Completed{}, nil, usage(err)
	}
	facts, err := gatherFacts()
	if err != nil {
		return config.Completed{}, nil, err
	}
	completed, err := cfg.Complete(role, facts)
	if err != nil {
		return config.Completed{}, nil, usage(err)
	}
	return completed, origins, nil
}
