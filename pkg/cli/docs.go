package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"skiff/pkg/config"
	"skiff/pkg/doctor"
)

// docsCommand serves `make generate`.
func docsCommand() *cli.Command {
	return &cli.Command{
		Name:      "generate-docs",
		Usage:     "print a page of docs/reference: flags, commands, man or doctor",
		ArgsUsage: "PAGE",
		Hidden:    true,
		Action: func(c *cli.Context) error {
			pages := map[string]func() string{
				"flags":    config.Reference,
				"commands": func() string { return commandReference(c.App) },
				"man":      func() string { return manPage(c.App) },
				"doctor":   doctor.Reference,
			}
			page := pages[c.Args().First()]
			if page == nil || c.NArg() != 1 {
				return usage(fmt.Errorf("%s wants flags, commands, man or doctor", c.Command.HelpName))
			}
			if _, err := io.WriteString(c.App.Writer, page()); err != nil {
				return fmt.Errorf("write reference: %w", err)
			}
			return nil
		},
	}
}

// documented are the commands that people should know, each with the words by
// which it is called.
type documented struct {
	name string
	*cli.Command
}

func documentedCommands(app *cli.App) (own, tools []documented) {
	var walk func(prefix string, list []*cli.Command) []documented
	walk = func(prefix string, list []*cli.Command) (out []documented) {
		for _, c := range list {
			if c.Hidden || c.Category != "" {
				continue
			}
			out = append(out, documented{prefix + c.Name, c})
			out = append(out, walk(prefix+c.Name+" ", c.Subcommands)...)
		}
		return out
	}
	for _, c := range app.Commands {
		if !c.Hidden && c.Category != "" {
			tools = append(tools, documented{c.Name, c})
		}
	}
	return walk("", app.Commands), tools
}

// flagText is a flag as it is written, and what it is for. Options of the
// table are said to be those.
func flagText(f cli.Flag) (names []string, usage, value string) {
	for _, n := range f.Names() {
		dashes := "--"
		if len(n) == 1 {
			dashes = "-"
		}
		names = append(names, dashes+n)
	}
	d, ok := f.(cli.DocGenerationFlag)
	if !ok {
		return names, "", ""
	}
	usage = d.GetUsage()
	if i := strings.LastIndex(usage, " [$"); i > 0 {
		usage = usage[:i]
	}
	if d.TakesValue() {
		value = "VALUE"
		if v := d.GetValue(); v != "" && v != "0s" && v != "[]" && v != "0" && !strings.Contains(usage, "default:") {
			usage += " (default: " + strings.Trim(v, `"`) + ")"
		}
	}
	return names, usage, value
}

// isRole reports whether a command has the whole table of options.
func isRole(name string) bool { return name == "server" || name == "agent" }

// commandReference renders docs/reference/commands.md.
func commandReference(app *cli.App) string {
	var b strings.Builder
	b.WriteString(`# Commands

<!-- Generated from pkg/cli by "skiff generate-docs commands"; do not edit. -->

` + "`skiff COMMAND --help`" + ` says the same at the terminal. Exit codes: 0 done, 1 failed, 2 the command line or the configuration is wrong; those of
` + "`skiff status`" + ` are with it. Most commands have to be run as root.
`)
	own, tools := documentedCommands(app)
	for _, c := range own {
		fmt.Fprintf(&b, "\n## skiff %s\n\n`skiff %s`: %s.\n", c.name, strings.TrimSpace(c.name+" "+c.ArgsUsage), c.Usage)
		if c.Description != "" {
			fmt.Fprintf(&b, "\n%s\n", c.Description)
		}
		if isRole(c.name) || c.name == "config" {
			b.WriteString("\nIts flags are the [settings](flags.md).\n")
			continue
		}
		if len(c.Flags) == 0 {
			continue
		}
		b.WriteString("\n| Flag | Meaning |\n| --- | --- |\n")
		for _, f := range c.Flags {
			names, text, value := flagText(f)
			for i := range names {
				names[i] = "`" + strings.TrimSpace(names[i]+" "+value) + "`"
			}
			fmt.Fprintf(&b, "| %s | %s |\n", strings.Join(names, ", "), strings.ReplaceAll(text, "|", `\|`))
		}
	}
	b.WriteString("\n## Bundled tools\n\nEach is also started by a link of its name to skiff.\n\n| Command | |\n| --- | --- |\n")
	for _, t := range tools {
		fmt.Fprintf(&b, "| `skiff %s` | %s |\n", t.name, t.Usage)
	}
	return b.String()
}

// roff escapes text for a manual page.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`, "`", "").Replace(s)
	lines := strings.Split(s, "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
			lines[i] = `\&` + line
		}
	}
	return strings.Join(lines, "\n")
}

// manPage renders docs/reference/skiff.1.
//
// Source: man(7).
func manPage(app *cli.App) string {
	var b strings.Builder
	b.WriteString(".\\\" Generated from pkg/cli by \"skiff generate-docs man\"; do not edit.\n.TH SKIFF 1 \"\" skiff \"User Commands\"\n")
	fmt.Fprintf(&b, ".SH NAME\nskiff \\- %s\n.SH SYNOPSIS\n.B skiff\n.I COMMAND\n.RI [ flags ]\n.SH COMMANDS\n", roff(app.Usage))
	own, tools := documentedCommands(app)
	for _, c := range own {
		fmt.Fprintf(&b, ".SS skiff %s\n%s.\n", roff(strings.TrimSpace(c.name+" "+c.ArgsUsage)), roff(c.Usage))
		if c.Description != "" {
			fmt.Fprintf(&b, ".PP\n%s\n", roff(c.Description))
		}
		if isRole(c.name) || c.name == "config" {
			b.WriteString(".PP\nIts flags are the SETTINGS.\n")
			continue
		}
		for _, f := range c.Flags {
			names, text, value := flagText(f)
			manFlag(&b, names, value, text)
		}
	}
	b.WriteString(".SS Bundled tools\n")
	for _, t := range tools {
		fmt.Fprintf(&b, ".TP\n.B skiff %s\n%s\n", roff(t.name), roff(t.Usage))
	}
	b.WriteString(".SH SETTINGS\nEach is a flag, an environment variable, and a key of the configuration file.\n")
	section := ""
	for _, o := range config.Options() {
		if o.EnvOnly {
			continue
		}
		if o.Section != section {
			section = o.Section
			fmt.Fprintf(&b, ".SS %s\n", roff(section))
		}
		text := o.Usage
		if d := config.DefaultText(o, config.Default()); d != "" {
			text += " (default: " + d + ")"
		}
		names := []string{"--" + o.Name}
		for _, a := range o.Aliases {
			names = append(names, "-"+a)
		}
		value := "VALUE"
		if o.Kind() == config.KindBool {
			value = ""
		}
		manFlag(&b, names, value, fmt.Sprintf("%s. Of: %s. Environment: %s.", text, o.Roles, o.Env))
	}
	b.WriteString(manEnd)
	return b.String()
}

func manFlag(b *strings.Builder, names []string, value, text string) {
	for i := range names {
		names[i] = `\fB` + roff(names[i]) + `\fR`
	}
	line := strings.Join(names, ", ")
	if value != "" {
		line += ` \fI` + value + `\fR`
	}
	fmt.Fprintf(b, ".TP\n%s\n%s\n", line, roff(text))
}

const manEnd = `.SH EXIT STATUS
0 done; 1 failed; 2 the command line or the configuration is wrong. Of skiff status: 3 skiff is not running, 4 it runs and not everything is ready.
.SH FILES
.TP
.I /etc/skiff/config.yaml
the settings; then config.yaml.d/*.yaml
.TP
.I /etc/skiff/registries.yaml
mirrors and credentials of image registries
.TP
.I /etc/skiff/skiff.yaml
the administrator's kubeconfig
.TP
.I /var/lib/skiff
all state
.SH SEE ALSO
.BR kubectl (1),
.BR systemctl (1),
.BR journalctl (1)
`
