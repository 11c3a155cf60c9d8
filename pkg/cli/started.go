package cli

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"skiff/pkg/config"
	"skiff/pkg/paths"
)

// started is how skiff was started, or is at boot.
type started struct {
	role    config.Role
	flags   map[string][]string
	environ []string
}

// commandOf returns how a running skiff was started. That of another user
// cannot be seen.
func commandOf(pid int) (started, bool) {
	proc := func(file string) []string {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
		if err != nil {
			return nil
		}
		return strings.Split(strings.TrimRight(string(data), "\x00"), "\x00")
	}
	return parseStart(proc("cmdline"), proc("environ"))
}

// installed returns how the service that install.sh has written starts skiff.
func installed() (started, bool) {
	for _, name := range []string{"skiff.service", "skiff-agent.service"} {
		unit, err := os.ReadFile(filepath.Join(paths.SystemdUnits, name))
		if err != nil {
			continue
		}
		var environ []string
		if env, err := os.ReadFile(filepath.Join(paths.SystemdUnits, name+".env")); err == nil {
			for line := range strings.Lines(string(env)) {
				environ = append(environ, strings.Join(words(line), " "))
			}
		}
		for line := range strings.Lines(string(unit)) {
			if command, ok := strings.CutPrefix(line, "ExecStart="); ok {
				return parseStart(words(strings.NewReplacer("%%", "%", "$$", "$").Replace(command)), environ)
			}
		}
	}
	return started{}, false
}

// parseStart reads the arguments of skiff server or skiff agent. Whoever else
// holds the lock, a restore for one, must not run again here: only these two are
// commands, and they do nothing but look.
func parseStart(args, environ []string) (s started, ok bool) {
	app := newApp(io.Discard, io.Discard)
	app.Commands = nil
	for _, r := range []config.Role{config.RoleServer, config.RoleAgent} {
		app.Commands = append(app.Commands, &cli.Command{Name: r.String(), Flags: optionFlags(r), Action: func(c *cli.Context) error {
			s, ok = started{role: r, flags: flagValues(c, r), environ: environ}, true
			return nil
		}})
	}
	if len(args) == 0 || app.Run(args) != nil {
		return started{}, false
	}
	return s, ok
}

// words splits a line as systemd and a shell do: at blanks that are neither
// quoted nor behind a backslash.
func words(line string) []string {
	var all []string
	var word strings.Builder
	var quote rune
	in, escaped := false, false
	for _, r := range strings.TrimSpace(line) {
		switch {
		case escaped:
			word.WriteRune(r)
			escaped = false
		case r == '\\' && quote != '\'':
			escaped, in = true, true
		case quote != 0 && r == quote:
			quote = 0
		case quote == 0 && (r == '"' || r == '\''):
			quote, in = r, true
		case quote == 0 && (r == ' ' || r == '\t'):
			if in {
				all = append(all, word.String())
			}
			word.Reset()
			in = false
		default:
			word.WriteRune(r)
			in = true
		}
	}
	if in {
		all = append(all, word.String())
	}
	return all
}
