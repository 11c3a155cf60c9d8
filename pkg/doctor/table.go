package doctor

import (
	"context"
	"fmt"
	"strings"
)

// check is one thing that is looked for.
type check struct {
	id string
	// worst is the highest severity that a finding of this id can have.
	worst  Severity
	kernel bool // of the kernel, the cgroups and the limits: skiff check-config looks, too
	node   bool // only where pods run
	server bool // only on servers
	about  string
	why    string
	fix    string // what --fix does; empty if nothing
	// look adds what it finds. Its error says why it could not look.
	look func(context.Context, *exam) error
}

// table lists the checks in the order of the report: what stops everything
// first. An id never changes its meaning, and is never used again.
func table() []check {
	var all []check
	for _, part := range [][]check{kernelChecks(), limitChecks(), diskChecks(), clockChecks(), networkChecks(), firewallChecks(), otherChecks()} {
		all = append(all, part...)
	}
	return all
}

// Extra is a finding that the caller makes: the configuration is read by whom
// it belongs to.
func Extra(id, problem, mend string) Finding {
	for _, c := range callers() {
		if c.id == id {
			return Finding{ID: id, Severity: c.worst, Problem: problem, Why: c.why, Mend: mend}
		}
	}
	return Finding{ID: id, Severity: Error, Problem: problem, Mend: mend}
}

// The ids of what callers find.
const (
	ConfigFile     = "config-file"
	RegistriesFile = "registries-file"
)

// callers are the checks that callers make.
func callers() []check {
	return []check{
		{
			id: ConfigFile, worst: Error, kernel: true, about: "the configuration file, its drop-ins and the environment: unknown keys, values that make no sense",
			why: "skiff does not start with settings that it does not understand",
		},
		{
			id: RegistriesFile, worst: Error, kernel: true, node: true, about: "registries.yaml: unknown keys, values that make no sense, files that are not there",
			why: "images are not pulled as the file says: at a start skiff goes on with the last one that made sense, or with none",
		},
	}
}

// Reference renders docs/reference/doctor.md.
func Reference() string {
	var b strings.Builder
	b.WriteString("# What skiff doctor looks at\n\n" +
		"<!-- Generated from pkg/doctor by \"skiff generate-docs doctor\"; do not edit. -->\n\n" +
		"[docs/doctor.md](../doctor.md) says how to use it. `skiff check-config` looks at those with a star.\n\n" +
		"| id | at worst | what is looked at | why it matters | `--fix` |\n| --- | --- | --- | --- | --- |\n")
	for _, c := range append(callers(), table()...) {
		id := "`" + c.id + "`"
		if c.kernel {
			id += " *"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", id, c.worst, c.about, c.why, c.fix)
	}
	return b.String()
}
