// Command datastore compares three stores that a Kubernetes API server can
// use: etcd as a process of its own, kine on SQLite as K3s runs it, and
// pkg/datastore. They take turns on the same disk within one run, because only
// ratios survive the move to another machine. It prints a table and writes
// JSON; slow is never an error. README.md says how to read both. Start reading
// at round; what is measured is in writes.go, reads.go and compaction.go, what
// is to be reached in goals.go.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

// options are the flags.
type options struct {
	rounds   int
	rows     *regexp.Regexp
	systems  *regexp.Regexp
	extra    []string // durabilities of ours besides the default
	dir      string
	out      string
	etcd     string
	serve    string
	profiles string
	window   time.Duration
	patience time.Duration
}

func main() {
	o := options{}
	flag.IntVar(&o.rounds, "rounds", 5, "rounds; each measures every system once, in another order")
	rows := flag.String("rows", "", "measure only rows whose name matches this regular `expression`")
	systems := flag.String("systems", "", "measure only systems whose name matches this regular `expression`")
	extra := flag.String("durability", "", "measure ours also with these `settings` of --datastore-durability, separated by commas")
	flag.StringVar(&o.dir, "dir", filepath.Join("build", "bench-datastore"), "`directory` for the databases; say one on the disk you want to know about")
	flag.StringVar(&o.out, "out", "", "`file` for the JSON (default standard output)")
	flag.StringVar(&o.etcd, "etcd", filepath.Join("build", "tools", "etcd"), "etcd's `executable`")
	flag.StringVar(&o.serve, "serve", filepath.Join("build", "tools", "datastore-serve"), "`executable` built from ./test/bench/datastore/serve")
	flag.StringVar(&o.profiles, "cpuprofile", "", "write CPU and allocation profiles of kine and ours, one per row, to this `directory`")
	flag.DurationVar(&o.window, "window", 5*time.Second, "how long throughput and latency are measured at a time")
	flag.DurationVar(&o.patience, "patience", 2*time.Minute, "how long to wait, before each measurement, until other processes use less than a tenth of the CPUs")
	flag.Parse()
	o.extra = strings.FieldsFunc(*extra, func(c rune) bool { return c == ',' })
	if err := run(o, *rows, *systems); err != nil {
		fmt.Fprintln(os.Stderr, "bench datastore:", err)
		os.Exit(1)
	}
}

func run(o options, rows, systems string) (err error) {
	if o.rows, err = regexp.Compile(rows); err != nil {
		return fmt.Errorf("parse -rows: %w", err)
	}
	if o.systems, err = regexp.Compile(systems); err != nil {
		return fmt.Errorf("parse -systems: %w", err)
	}
	if err := os.MkdirAll(o.dir, 0o755); err != nil {
		return fmt.Errorf("create -dir: %w", err)
	}
	if o.dir, err = os.MkdirTemp(o.dir, "run-"); err != nil {
		return fmt.Errorf("create a directory for this run: %w", err)
	}
	defer os.RemoveAll(o.dir)
	if o.profiles != "" {
		if err := os.MkdirAll(o.profiles, 0o755); err != nil {
			return fmt.Errorf("create -cpuprofile: %w", err)
		}
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()

	machine, err := inspect(o.dir)
	if err != nil {
		return err
	}
	if machine.FileSystem == "tmpfs" {
		return fmt.Errorf("%s is on a tmpfs, where a sync costs nothing: choose another -dir", o.dir)
	}
	r := newReport(o, machine)
	begin := time.Now()
	for n := range o.rounds {
		if err = round(ctx, o, r, n); err != nil {
			err = fmt.Errorf("round %d: %w", n+1, err)
			break // What has been measured is still worth printing.
		}
		fmt.Fprintf(os.Stderr, "round %d of %d is done after %s\n", n+1, o.rounds, time.Since(begin).Round(time.Second))
	}
	if werr := r.write(os.Stderr, o.out); err == nil {
		err = werr
	}
	return err
}

// part is a group of rows that share a database.
type part struct {
	name string
	rows []string
	run  func(ctx context.Context, b *bench) error
}

func parts() []part {
	return []part{
		{"writes", writeRows(), measureWrites},
		{"reads", readRows(), measureReads},
		{"compaction", compactionRows(), measureCompaction},
	}
}

// round measures every part on every system, the systems in an order that
// changes from round to round, so that none is always the one after etcd.
func round(ctx context.Context, o options, r *report, n int) error {
	for _, p := range parts() {
		if !matchesAny(o.rows, p.rows) {
			continue
		}
		all := systems(o)
		for i := range all {
			s := all[(i+n)%len(all)]
			if !o.systems.MatchString(s.name) {
				continue
			}
			b := &bench{options: o, system: s, report: r, round: n, part: p.name}
			if err := b.once(ctx, p); err != nil {
				return fmt.Errorf("%s of %s: %w", p.name, s.name, err)
			}
		}
	}
	return nil
}

func matchesAny(re *regexp.Regexp, names []string) bool {
	return slices.ContainsFunc(names, re.MatchString)
}

// bench is one part on one system in one round.
type bench struct {
	options
	*server

	system system
	report *report
	round  int
	part   string
}

// once runs p on a fresh directory.
func (b *bench) once(ctx context.Context, p part) error {
	waited := waitForQuiet(ctx, b.patience)
	dir := filepath.Join(b.dir, fmt.Sprintf("%d-%s-%s", b.round, p.name, b.system.name))
	s, err := b.system.start(ctx, dir)
	if err != nil {
		return err
	}
	b.server = s
	defer os.RemoveAll(dir)
	defer func() { b.kill() }() // b.server may be another by then
	others := othersCPU(s)
	begin := time.Now()
	if err := p.run(ctx, b); err != nil {
		return fmt.Errorf("%w\n%s", err, b.lastLog())
	}
	disturbed := others() / time.Since(begin).Seconds()
	if err := b.stop(); err != nil {
		return err
	}
	b.add("WAL size, largest", float64(b.walMax())/(1<<20))
	b.report.disturbance(b, disturbed, waited)
	fmt.Fprintf(os.Stderr, "%d %-10s %-13s %5.1f s, others used %.2f CPU\n", b.round+1, p.name, b.system.name, time.Since(begin).Seconds(), disturbed)
	return ctx.Err()
}

// wants reports whether a row has been asked for.
func (b *bench) wants(row string) bool { return b.rows.MatchString(row) }

// add notes a value, if its row has been asked for.
func (b *bench) add(row string, value float64) {
	if b.wants(row) {
		b.report.add(row, b.system.name, b.round, value)
	}
}
