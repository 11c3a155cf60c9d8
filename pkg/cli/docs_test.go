package cli

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"skiff/internal/testkit"
)

// TestReference compares what is committed with the commands as they are;
// -update, or make generate, writes it.
func TestReference(t *testing.T) {
	app := newApp(io.Discard, io.Discard)
	testkit.Golden(t, "../../docs/reference/commands.md", commandReference(app))
	testkit.Golden(t, "../../docs/reference/skiff.1", manPage(app))
}

// TestEveryCommand finds each command and each of its flags wherever commands
// are listed.
func TestEveryCommand(t *testing.T) {
	app := newApp(io.Discard, io.Discard)
	places := map[string]string{
		"commands.md": commandReference(app), "skiff.1": strings.ReplaceAll(manPage(app), `\-`, "-"),
		"bash": bashCompletion(completionWords(app.Commands)), "fish": fishCompletion(completionWords(app.Commands)),
	}
	own, _ := documentedCommands(app)
	if len(own) < 20 {
		t.Fatalf("only %d commands", len(own))
	}
	for _, c := range own {
		for place, text := range places {
			for word := range strings.FieldsSeq(c.name) {
				if !strings.Contains(text, word) {
					t.Errorf("%s does not have %s", place, c.name)
				}
			}
			if isRole(c.name) || c.name == "config" {
				continue
			}
			for _, f := range c.Flags {
				want := "--" + f.Names()[0]
				if place == "fish" {
					want = "-l " + f.Names()[0]
				}
				if !strings.Contains(text, want) {
					t.Errorf("%s does not have %s of %s", place, want, c.name)
				}
			}
		}
	}
	var b bytes.Buffer
	if err := newApp(&b, io.Discard).Run([]string{"skiff", "generate-docs", "nothing"}); err == nil {
		t.Error("generate-docs prints a page that there is not")
	}
}
