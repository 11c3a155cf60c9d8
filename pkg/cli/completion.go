package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"
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
		if c.Name == "completion" {
			w.arguments = []string{"bash", "zsh", "fish"}
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
		offered := append([]string{}, w.arguments...)
		for _, f := range w.flags {
			offered = append(offered, "--"+f.Names()[0])
		}
		if len(offered) > 0 {
			fmt.Fprintf(&cases, "    %s) words=%q ;;\n", w.name, strings.Join(offered, " "))
		}
	}
	return fmt.Sprintf(`# Completion of skiff for bash; "skiff completion bash" prints it.
_skiff() {
  local cur="${COMP_WORDS[COMP_CWORD]}" words="" line
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "%s" -- "$cur"))
    return
  fi
  case "${COMP_WORDS[1]}" in
    kubectl)
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
		for _, f := range w.flags {
			fmt.Fprintf(&b, "complete -c skiff -n %s -l %s", seen, f.Names()[0])
			if d, ok := f.(cli.DocGenerationFlag); ok {
				if d.TakesValue() {
					b.WriteString(" -r")
				}
				fmt.Fprintf(&b, " -d %s", fishQuote(d.GetUsage()))
			}
			b.WriteString("\n")
		}
	}
	b.WriteString("complete -c skiff -f -n '__fish_seen_subcommand_from kubectl' " +
		"-a '(skiff kubectl __complete (commandline -opc)[3..] (commandline -ct) 2>/dev/null | string match -v \":*\")'\n")
	return b.String()
}

func fishQuote(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}
