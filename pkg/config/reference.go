package config

import (
	"fmt"
	"strings"
)

// Reference renders docs/reference/flags.md from the option table.
func Reference() string {
	var b strings.Builder
	b.WriteString(`# Settings

<!-- Generated from pkg/config/options.go by "skiff generate-docs"; do not edit. -->

Every setting is a flag of the command, an environment variable, and a key of
the configuration file (the flag's name without dashes). A flag wins over the
environment, the environment over the file, and the file over the default.
Unknown flags and keys are errors.

The file is /etc/skiff/config.yaml unless --config says otherwise. After it,
config.yaml.d/*.yaml are read in alphabetical order, and the last value wins.
A key with a plus sign (` + "`disable+: [coredns]`" + `) adds to what earlier files
wrote: items to a list, text after a comma to a string. In the environment,
the items of a list are separated by commas, and arguments for components by
spaces. One file may serve servers and agents.

"skiff config --show-origin" prints the settings in effect and where each is from.
`)
	defaults, section := Default(), ""
	for _, o := range Options() {
		if o.EnvOnly {
			continue
		}
		if o.Section != section {
			section = o.Section
			fmt.Fprintf(&b, "\n## %s\n\n| Flag | Environment | Default | Used by | Meaning |\n| --- | --- | --- | --- | --- |\n", section)
		}
		text := DefaultText(o, defaults)
		if text != "" && o.DefaultText == "" {
			text = "`" + text + "`"
		}
		names := []string{"`--" + o.Name + "`"}
		for _, a := range o.Aliases {
			names = append(names, "`-"+a+"`")
		}
		flag := strings.Join(names, ", ")
		if o.Kind().IsList() {
			flag += " (repeatable)"
		}
		fmt.Fprintf(&b, "| %s | `%s` | %s | %s | %s |\n", flag, o.Env, text, o.Roles, o.Usage)
	}
	return b.String()
}

// DefaultText is what help says about an option's default; empty if it has none.
func DefaultText(o Option, defaults *Config) string {
	if o.DefaultText != "" {
		return o.DefaultText
	}
	v := o.Bind(defaults)
	if text := strings.Join(v.Get(), ","); v.Kind != KindBool || text != "false" {
		return text
	}
	return ""
}

// String names the commands of the role.
func (r Role) String() string {
	var names []string
	if r&RoleServer != 0 {
		names = append(names, "server")
	}
	if r&RoleAgent != 0 {
		names = append(names, "agent")
	}
	return strings.Join(names, ", ")
}
