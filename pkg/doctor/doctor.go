// Package doctor looks for what keeps skiff from working on a machine, or will
// one day: each finding has an id that stays, says what is wrong, with the value
// found, why it matters and how to mend it, and mends it where that is safe. It
// asks the machine only; it must not know how skiff is composed, and works
// whether or not skiff runs. What a start refuses is package preflight's, which
// is asked here, too. Start reading at Doctor.Examine, then table.go.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"time"

	"skiff/pkg/hostchange"
	"skiff/pkg/paths"
	"skiff/pkg/preflight"
)

// Severity says how much a finding matters.
type Severity string

// The severities. An Info needs nobody to act.
const (
	Info    Severity = "info"
	Warning Severity = "warning"
	Error   Severity = "error"
)

// Finding is one thing that was found.
type Finding struct {
	ID       string   `json:"id"`
	Severity Severity `json:"severity"`
	Problem  string   `json:"problem"` // what is wrong, with the value found
	Why      string   `json:"why"`     // why it matters
	Mend     string   `json:"mend"`    // what a person can do
	Fixable  bool     `json:"fixable"` // --fix does it

	fix fix
}

// fix mends a finding and says what it did.
type fix func(context.Context) (did string, err error)

// Unseen is what could not be looked at.
type Unseen struct {
	ID     string `json:"id"`
	Reason string `json:"reason"`
}

// Repair is what became of a fix.
type Repair struct {
	ID    string `json:"id"`
	Did   string `json:"did,omitempty"`
	Error string `json:"error,omitempty"`
}

// Measure is a figure that was taken on the way.
type Measure struct {
	ID    string  `json:"id"`
	What  string  `json:"what"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
}

// Report is the result of an examination.
type Report struct {
	Findings    []Finding `json:"findings"`
	NotLookedAt []Unseen  `json:"notLookedAt"`
	Measured    []Measure `json:"measured"`
	Mended      []Repair  `json:"mended,omitempty"`
}

// Problems reports whether somebody has to act.
func (r *Report) Problems() bool {
	return slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Severity != Info })
}

// Options is what a Doctor must be told about the skiff of this machine.
type Options struct {
	Paths paths.Layout
	// Server and Node say what runs here, or will.
	Server, Node bool
	// Ingress is true if skiff serves Ingresses here.
	Ingress bool
	// PID is the running skiff, 0 if none runs.
	PID int
	// Overlayfs is true if nothing else will do for image layers.
	Overlayfs bool
	BuildTime time.Time
	// Backend is how pods' packets reach other nodes, as --flannel-backend.
	Backend              string
	PodCIDR, ServiceCIDR []netip.Prefix
	ClusterDNS           []netip.Addr
	// ResolvConf are the files that name servers for pods, best first.
	ResolvConf []string
	Ports      []preflight.Port
	// APIPort is the port by which other machines reach a server.
	APIPort int
	// LeafLifetime is how long certificates are made to last.
	LeafLifetime time.Duration
	// NFT makes an nft executable and returns its path; remove is called when it
	// is not needed any more.
	NFT func() (path string, remove func() error, err error)
	// Record writes down a change of the host before it is made, so that
	// `skiff uninstall` can undo it. Only Mend calls it.
	Record func(hostchange.Change) error
	// Root is put before the names of files; for tests. Empty means the machine.
	Root string
}

// Doctor examines a machine.
type Doctor struct {
	Options
	preflight.Machine
	sys system
}

// New returns a Doctor for this machine.
func New(o Options) *Doctor {
	return &Doctor{Options: o, Machine: preflight.Machine{Root: o.Root}, sys: thisMachine()}
}

// Scope is how much is looked at.
type Scope int

// The scopes: everything, or only the kernel with its cgroups and limits.
const (
	Everything Scope = iota
	Kernel
)

// errNotRoot is why something could not be looked at.
var errNotRoot = errors.New("only root can see this; use sudo")

// Examine looks at everything in scope. It changes nothing.
func (d *Doctor) Examine(ctx context.Context, scope Scope) *Report {
	r := &Report{Findings: []Finding{}, NotLookedAt: []Unseen{}, Measured: []Measure{}}
	for _, c := range table() {
		if scope == Kernel && !c.kernel || c.node && !d.Node || c.server && !d.Server {
			continue
		}
		x := &exam{Doctor: d, check: c, report: r}
		if err := c.look(ctx, x); err != nil {
			r.NotLookedAt = append(r.NotLookedAt, Unseen{ID: c.id, Reason: err.Error()})
		}
	}
	return r
}

// Mend does what is safe about the findings of a report, and says so. It needs
// root.
func (d *Doctor) Mend(ctx context.Context, r *Report) []Repair {
	repairs := []Repair{}
	for _, f := range r.Findings {
		if f.fix == nil {
			continue
		}
		repair := Repair{ID: f.ID}
		did, err := f.fix(ctx)
		if repair.Did = did; err != nil {
			repair.Error = err.Error()
		}
		repairs = append(repairs, repair)
	}
	return repairs
}

// note is Record, with what it is for in its error.
func (d *Doctor) note(c hostchange.Change) error {
	if err := d.Record(c); err != nil {
		return fmt.Errorf("note the change for skiff uninstall: %w", err)
	}
	return nil
}

// exam is one check at work.
type exam struct {
	*Doctor
	check  check
	report *Report
}

// found adds a finding. A nil fix means that a person has to decide.
func (x *exam) found(s Severity, problem, mend string, f fix) {
	x.report.Findings = append(x.report.Findings, Finding{
		ID: x.check.id, Severity: s, Problem: problem, Why: x.check.why, Mend: mend, Fixable: f != nil, fix: f,
	})
}

func (x *exam) measured(what string, value float64, unit string) {
	x.report.Measured = append(x.report.Measured, Measure{ID: x.check.id, What: what, Value: value, Unit: unit})
}

// existing returns those of the paths, which may be patterns, that are there.
func (d *Doctor) existing(patterns ...string) []string {
	var found []string
	for _, p := range patterns {
		files, err := filepath.Glob(d.Path(p))
		if err != nil {
			continue // not a pattern
		}
		for _, f := range files {
			if rel, err := filepath.Rel(d.Path("/"), f); err == nil {
				found = append(found, "/"+rel)
			}
		}
	}
	return found
}
