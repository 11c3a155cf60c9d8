package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"skiff/internal/atomicfile"
	"skiff/pkg/paths"
)

func completionCommand() *cli.Command {
	return &cli.Command{
		Name:      "completion",
		Usage:     "print a completion script for bash, zsh or fish",
		ArgsUsage: "SHELL",
		Description: "To use it: source <(skiff completion bash), or write it to\n" +
			"/etc/bash_completion.d/skiff; for zsh source it in ~/.zshrc; for fish write it to\n" +
			"~/.config/fish/completions/skiff.fish. With -i this is done for you.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "install", Aliases: []string{"i"}, Usage: "have your shell use it from its next start on: a line in ~/.bashrc or ~/.zshrc, or the file of fish", DisableDefaultText: true},
		},
		BashComplete: func(*cli.Context) {},
		Action: func(c *cli.Context) error {
			args := slices.DeleteFunc(c.Args().Slice(), func(a string) bool { return a == "-i" || a == "--install" })
			if len(args) != 1 {
				return usage(fmt.Errorf("want the name of one shell: %s", strings.Join(shells(), ", ")))
			}
			script, err := completionScript(c.App, args[0])
			if err != nil {
				return usage(err)
			}
			if c.Bool("install") || len(args) < c.NArg() { // K3s' users write it last.
				return installCompletion(c, args[0], script)
			}
			if _, err := io.WriteString(c.App.Writer, script); err != nil {
				return fmt.Errorf("write completion script: %w", err)
			}
			return nil
		},
	}
}

func shells() []string { return []string{"bash", "zsh", "fish"} }

func completionScript(app *cli.App, shell string) (string, error) {
	words := completionWords(app.Commands)
	switch shell {
	case "bash":
		return bashCompletion(words), nil
	case "zsh":
		return "#compdef skiff\nautoload -U +X bashcompinit && bashcompinit\n" + bashCompletion(words), nil
	case "fish":
		return fishCompletion(words), nil
	}
	return "", fmt.Errorf("no completion for %q: want one of %s", shell, strings.Join(shells(), ", "))
}

// What encloses the lines in a shell's own file.
const (
	completionBegins = "# >> skiff command completion (start)"
	completionEnds   = "# >> skiff command completion (end)"
)

// installCompletion has the user's shell read the script when it starts. What
// is there already stays as it is.
func installCompletion(c *cli.Context, shell, script string) error {
	home, err := os.UserHomeDir()
	if err != nil {
		return fmt.Errorf("find your home directory: %w", err)
	}
	if shell == "fish" {
		file := filepath.Join(home, ".config", "fish", "completions", "skiff.fish")
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return fmt.Errorf("install completion: %w", err)
		}
		if err := atomicfile.Write(file, []byte(script), 0o644); err != nil {
			return fmt.Errorf("install completion: %w", err)
		}
		return printLines(c.App.Writer, file+" is written; fish reads it at once")
	}
	file := filepath.Join(home, "."+shell+"rc")
	text, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("install completion: %w", err)
	}
	if strings.Contains(string(text), completionBegins) {
		return printLines(c.App.Writer, file+" has it already")
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("install completion: %w", err)
	}
	_, err = fmt.Fprintf(f, "\n%s\nsource <(skiff completion %s)\n%s\n", completionBegins, shell, completionEnds)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("install completion: %w", err)
	}
	return printLines(c.App.Writer, fmt.Sprintf("%s has it now, for shells that you start from now on", file))
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
		if c.Name == "completion" {
			w.arguments = shells()
		}
		w.below = completionWords(c.Subcommands)
		for i, b := range w.below {
			w.arguments = append(w.arguments, b.name)
			if c.Name == "snapshot" && slices.Contains([]string{"verify", "delete", "restore"}, b.name) {
				w.below[i].directory = paths.New(paths.DefaultData).Snapshots()
			}
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
