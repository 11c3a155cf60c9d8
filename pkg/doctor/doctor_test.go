package doctor

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"skiff/internal/netx"
	"skiff/internal/testkit"
	"skiff/pkg/hostchange"
	"skiff/pkg/paths"
	"skiff/pkg/preflight"
	"skiff/pkg/process"
)

// patient is a pretended machine, which is healthy until somebody changes it.
type patient struct {
	t *testing.T
	*Doctor
	clock   *testClock
	journal []hostchange.Change
	// commands answers the commands of the host's tools.
	commands map[string]func(args string) (string, error)
}

type testClock struct {
	now          time.Time
	synchronized bool
}

func (c *testClock) Now() time.Time                      { return c.now }
func (c *testClock) Elapsed() time.Duration              { return time.Hour }
func (c *testClock) Synchronized() bool                  { return c.synchronized }
func (c *testClock) Set(time.Time) error                 { return errors.New("not set") }
func (c *testClock) Watch(context.Context, func()) error { return nil }

var today = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

const release = "6.12.1-test"

// healthy makes a machine about which nothing is to be said.
func healthy(t *testing.T) *patient {
	t.Helper()
	p := &patient{t: t, clock: &testClock{now: today, synchronized: true}, commands: map[string]func(string) (string, error){}}
	root := t.TempDir()
	p.Doctor = New(Options{
		Root: root, Paths: paths.New(paths.DefaultData), Server: true, Node: true, Ingress: true,
		BuildTime: today.AddDate(0, -1, 0), Backend: "vxlan", APIPort: 6443, LeafLifetime: 365 * day,
		PodCIDR: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")}, ServiceCIDR: []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16")},
		ClusterDNS: []netip.Addr{netip.MustParseAddr("10.43.0.10")}, ResolvConf: []string{paths.ResolvConf, paths.SystemdResolvConf},
		Ports:  []preflight.Port{{Address: netip.MustParseAddrPort("0.0.0.0:6443"), For: "the API"}},
		Record: func(c hostchange.Change) error { p.journal = append(p.journal, c); return nil },
		NFT:    func() (string, func() error, error) { return "nft", func() error { return nil }, nil },
	})
	uplink := netip.MustParsePrefix("192.168.1.5/24")
	p.sys = system{
		root: true, run: p.run, clock: p.clock,
		tcpFree: func(netip.AddrPort) error { return nil }, udpFree: func(netip.AddrPort) error { return nil },
		links:        func() ([]link, error) { return []link{{name: "eth0", addrs: []netip.Prefix{uplink}}}, nil },
		defaultRoute: func() ([]netip.Addr, error) { return []netip.Addr{uplink.Addr()}, nil },
		nftables:     func() error { return nil }, canMake: func(string) error { return errors.New("not supported") },
		openFiles: func() (uint64, error) { return 1 << 20, nil },
		legacy:    func(string) ([]byte, *legacyInfo, error) { return nil, nil, errors.New("not asked for") },
	}
	p.answer("nft", func(string) (string, error) { return `{"nftables": []}`, nil })
	var config strings.Builder
	for _, f := range features() {
		for _, o := range f.options {
			fmt.Fprintf(&config, "%s=y\n", o)
		}
	}
	for file, text := range map[string]string{
		"/proc/self/mountinfo":                     "21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n25 21 0:9 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
		"/sys/fs/cgroup/cgroup.controllers":        "cpuset cpu io memory pids\n",
		"/proc/sys/kernel/osrelease":               release + "\n",
		"/proc/filesystems":                        "nodev\toverlay\n",
		paths.KernelConfig(release):                config.String(),
		"/proc/sys/fs/inotify/max_user_instances":  "8192\n",
		"/proc/sys/fs/inotify/max_user_watches":    "524288\n",
		"/proc/sys/fs/file-max":                    "9223372036854775807\n",
		"/proc/sys/net/ipv4/ip_forward":            "1\n",
		"/proc/swaps":                              "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n",
		paths.ResolvConf:                           "nameserver 192.168.1.1\n",
		"/proc/1/comm":                             "systemd\n",
		filepath.Join(paths.DefaultData, "marker"): "",
	} {
		p.write(file, text)
	}
	return p
}

func (p *patient) write(file, text string) {
	p.t.Helper()
	path := p.Path(file)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
		p.t.Fatal(err)
	}
}

func (p *patient) answer(command string, f func(args string) (string, error)) {
	p.commands[command] = f
}

func (p *patient) run(_ context.Context, name string, args ...string) (string, error) {
	f, ok := p.commands[filepath.Base(name)]
	if !ok {
		return "", fmt.Errorf("run %s: %w", name, process.ErrNotFound)
	}
	return f(strings.Join(args, " "))
}

// found lists the findings above an info as "severity id".
func found(r *Report) []string {
	out := []string{}
	for _, f := range r.Findings {
		out = append(out, string(f.Severity)+" "+f.ID)
	}
	return out
}

func TestHealthy(t *testing.T) {
	p := healthy(t)
	r := p.Examine(t.Context(), Everything)
	// The disk is the real one of this machine.
	r.Findings = slices.DeleteFunc(r.Findings, func(f Finding) bool { return f.ID == "disk-space" || f.ID == "slow-fsync" })
	if diff := cmp.Diff([]string{}, found(r)); diff != "" {
		t.Errorf("a healthy machine: -want +got\n%s\n%+v", diff, r.Findings)
	}
	if len(r.NotLookedAt) > 0 {
		t.Errorf("not looked at: %+v", r.NotLookedAt)
	}
	if len(r.Measured) == 0 {
		t.Error("nothing was measured")
	}
}

// TestFaults injects one fault at a time: it must be found by its id, mended
// where that is safe, and not be found again.
func TestFaults(t *testing.T) {
	for _, tt := range slices.Concat(kernelFaults(), machineFaults(), networkFaults()) {
		t.Run(tt.name, func(t *testing.T) {
			p := healthy(t)
			tt.inject(p)
			ours := func(r *Report) []Finding {
				return slices.DeleteFunc(slices.Clone(r.Findings), func(f Finding) bool {
					return (f.ID == "disk-space" || f.ID == "slow-fsync") && !strings.HasSuffix(tt.want, f.ID)
				})
			}
			first := p.Examine(t.Context(), Everything)
			list := ours(first)
			if diff := cmp.Diff([]string{tt.want}, found(&Report{Findings: list})); diff != "" {
				t.Fatalf("-want +got\n%s\n%+v", diff, list)
			}
			f := list[0]
			if !strings.Contains(f.Problem, tt.says) || f.Why == "" || f.Mend == "" {
				t.Errorf("finding does not say %q, or lacks something: %+v", tt.says, f)
			}
			if f.Fixable != tt.fixable {
				t.Fatalf("fixable = %v, want %v", f.Fixable, tt.fixable)
			}
			if !f.Fixable {
				return
			}
			repairs := p.Mend(t.Context(), first)
			if len(repairs) != 1 || repairs[0].Error != "" || repairs[0].Did == "" || repairs[0].ID != f.ID {
				t.Fatalf("repairs = %+v", repairs)
			}
			if len(p.journal) == 0 {
				t.Error("the change is not in the journal")
			}
			if tt.reboot != nil {
				tt.reboot(p)
			}
			if list := ours(p.Examine(t.Context(), Everything)); len(list) != 0 {
				t.Errorf("after the fix: %+v", list)
			}
		})
	}
}

// fault is one thing that goes wrong.
type fault struct {
	name, want, says string
	inject           func(p *patient)
	fixable          bool
	reboot           func(p *patient) // what a fix needs besides
}

func TestWithoutRoot(t *testing.T) {
	p := healthy(t)
	p.sys.root = false
	p.write(paths.UFWConf, "ENABLED=yes\n")
	r := p.Examine(t.Context(), Everything)
	var ids []string
	for _, u := range r.NotLookedAt {
		ids = append(ids, u.ID)
	}
	if diff := cmp.Diff([]string{"kernel-nftables", "ufw", "firewall-nftables"}, ids); diff != "" {
		t.Errorf("not looked at: -want +got\n%s", diff)
	}
}

func TestScope(t *testing.T) {
	p := healthy(t)
	p.write(paths.ResolvConf, "nameserver 127.0.0.1\n")
	p.write("/sys/fs/cgroup/cgroup.controllers", "cpu pids\n")
	if diff := cmp.Diff([]string{"error cgroup-memory"}, found(p.Examine(t.Context(), Kernel))); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

// TestTable: ids are unique, and each has all that a person needs.
func TestTable(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range append(callers(), table()...) {
		if seen[c.id] || c.why == "" || c.about == "" || c.worst == "" {
			t.Errorf("check %q is there twice, or lacks something", c.id)
		}
		seen[c.id] = true
		if !strings.Contains(Reference(), "`"+c.id+"`") {
			t.Errorf("check %q is not in the reference", c.id)
		}
	}
}

func TestText(t *testing.T) {
	var b strings.Builder
	r := &Report{
		Findings: []Finding{{ID: "swap", Severity: Info, Problem: "p", Why: "w", Mend: "m"}, {ID: "x", Severity: Error, Problem: strings.Repeat("long ", 40), Fixable: true}},
		Measured: []Measure{{What: "a write", Value: 1.5, Unit: "ms"}}, NotLookedAt: []Unseen{{ID: "y", Reason: "no"}},
	}
	if err := WriteText(&b, r); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"info        swap\n    found     p\n", "measured: a write: 1.5 ms", "not looked at: y: no", "1 error, 0 warnings; skiff doctor --fix mends 1 of them\n"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is missing in\n%s", want, b.String())
		}
	}
	for line := range strings.Lines(b.String()) {
		if len(line) > width+1 {
			t.Errorf("line of %d characters: %s", len(line), line)
		}
	}
}

// taken makes a port seem taken.
func taken(port uint16, pid int) func(netip.AddrPort) error {
	return func(a netip.AddrPort) error {
		if a.Port() != port {
			return nil
		}
		return &netx.PortInUseError{Address: a, PID: pid, Process: "nginx", Err: errors.New("in use")}
	}
}

// TestReference: make generate, or go test -update, has been run.
func TestReference(t *testing.T) {
	testkit.Golden(t, "../../docs/reference/doctor.md", Reference())
}
