package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"skiff/pkg/paths"
)

func completionCommand() *cli.Command {
	shells := []string{"bash", "zsh", "fish"}
	return &cli.Command{
		Name:      "completion",
		Usage:     "print a completion script for bash, zsh or fish",
		ArgsUsage: "SHELL",
		Description: "To use it: source <(skiff completion bash), or write it to\n" +
			"/etc/bash_completion.d/skiff; for zsh source it in ~/.zshrc; for fish write it to\n" +
			"~/.config/fish/completions/skiff.fish.",
		BashComplete: func(*cli.Context) {},
		Action: func(c *cli.Context) error {
			if c.NArg() != 1 {
				return usage(fmt.Errorf("want the name of one shell: %s", strings.Join(shells, ", ")))
			}
			words := completionWords(c.App.Commands)
			var script string
			switch shell := c.Args().First(); shell {
			case "bash":
				script = bashCompletion(words)
			case "zsh":
				script = "#compdef skiff\nautoload -U +X bashcompinit && bashcompinit\n" + bashCompletion(words)
			case "fish":
				script = fishCompletion(words)
			default:
				return usage(fmt.Errorf("no completion for %q: want one of %s", shell, strings.Join(shells, ", ")))
			}
			if _, err := io.WriteString(c.App.Writer, script); err != nil {
				return fmt.Errorf("write completion script: %w", err)
			}
			return nil
		},
	}
}

// completionWord is one command and what may follow it.
type completionWord struct {
	name, usage string
	flags       []cli.Flag
	arguments   []string
	directory   string // whose files are arguments, too
	below       []completionWord
}

// completionWords lists what is offered. The scripts contain it all, because
// starting an executable of this size for every press of the key is slow;
// only kubectl, which knows the cluster's objects, is asked.
func completionWords(commands []*cli.Command) []completionWord {
	var words []completionWord
	for _, c := range commands {
		if c.Hidden {
			continue
		}
		w := completionWord{name: c.Name, usage: c.Usage, flags: c.Flags}
		switch c.Name {
		case "completion":
			w.arguments = []string{"bash", "zsh", "fish"}
		case "verify", "delete", "restore": // of snapshots
			w.directory = paths.New(paths.DefaultData).Snapshots()
		}
		w.below = completionWords(c.Subcommands)
		for _, b := range w.below {
			w.arguments = append(w.arguments, b.name)
		}
		words = append(words, w)
	}
	return words
}

func bashCompletion(words []completionWord) string {
	var names, cases strings.Builder
	for _, w := range words {
		names.WriteString(" " + w.name)
		if w.name == "kubectl" {
			continue
		}
		for _, b := range w.below {
			cases.WriteString(bashCase(w.name+" "+b.name, b))
		}
		cases.WriteString(bashCase(w.name, w))
	}
	return fmt.Sprintf(`# Completion of skiff for bash; "skiff completion bash" prints it.
_skiff() {
  local cur="${COMP_WORDS[COMP_CWORD]}" words="" line
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "%s" -- "$cur"))
    return
  fi
  case "${COMP_WORDS[*]:1:COMP_CWORD-1} " in
    "kubectl "*)
      while IFS= read -r line; do
        case "$line" in :*) continue ;; esac
        case "$line" in "$cur"*) COMPREPLY+=("$line") ;; esac
      done < <("${COMP_WORDS[0]}" kubectl __completeNoDesc "${COMP_WORDS[@]:2:COMP_CWORD-1}" 2>/dev/null)
      return ;;
%s  esac
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
  case "${COMP_WORDS[COMP_CWORD-1]}" in
    --*) [ ${#COMPREPLY[@]} -gt 0 ] || COMPREPLY=($(compgen -f -- "$cur")) ;;
  esac
}
complete -F _skiff skiff
`, strings.TrimSpace(names.String()), cases.String())
}

// bashCase offers what may follow the words of a command.
func bashCase(command string, w completionWord) string {
	offered := append([]string{}, w.arguments...)
	for _, f := range w.flags {
		offered = append(offered, "--"+f.Names()[0])
	}
	switch text := strings.Join(offered, " "); {
	case w.directory != "":
		return fmt.Sprintf("    \"%s \"*) words=\"%s $(ls %s 2>/dev/null)\" ;;\n", command, text, w.directory)
	case text != "":
		return fmt.Sprintf("    \"%s \"*) words=%q ;;\n", command, text)
	}
	return ""
}

func fishCompletion(words []completionWord) string {
	var b strings.Builder
	b.WriteString("# Completion of skiff for fish; \"skiff completion fish\" prints it.\n")
	b.WriteString("complete -c skiff -f -n __fish_use_subcommand\n")
	for _, w := range words {
		fmt.Fprintf(&b, "complete -c skiff -n __fish_use_subcommand -a %s -d %s\n", w.name, fishQuote(w.usage))
		seen := fmt.Sprintf("'__fish_seen_subcommand_from %s'", w.name)
		for _, a := range w.arguments {
			fmt.Fprintf(&b, "complete -c skiff -f -n %s -a %s\n", seen, a)
		}
		fishFlags(&b, seen, w.flags)
		for _, sub := range w.below {
			both := fmt.Sprintf("'__fish_seen_subcommand_from %s; and __fish_seen_subcommand_from %s'", w.name, sub.name)
			fishFlags(&b, both, sub.flags)
			if sub.directory != "" {
				fmt.Fprintf(&b, "complete -c skiff -n %s -a '(ls %s 2>/dev/null)'\n", both, sub.directory)
			}
		}
	}
	b.WriteString("complete -c skiff -f -n '__fish_seen_subcommand_from kubectl' " +
		"-a '(skiff kubectl __complete (commandline -opc)[3..] (commandline -ct) 2>/dev/null | string match -v \":*\")'\n")
	return b.String()
}

func fishFlags(b *strings.Builder, when string, flags []cli.Flag) {
	for _, f := range flags {
		fmt.Fprintf(b, "complete -c skiff -n %s -l %s", when, f.Names()[0])
		if d, ok := f.(cli.DocGenerationFlag); ok {
			if d.TakesValue() {
				b.WriteString(" -r")
			}
			fmt.Fprintf(b, " -d %s", fishQuote(d.GetUsage()))
		}
		b.WriteString("\n")
	}
}

func fishQuote(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}
