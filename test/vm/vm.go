// Package vm runs skiff on a whole Debian machine: a virtual one under qemu,
// with a kernel of its own, systemd as the first process, control groups of
// version 2 and all capabilities, which the hosts of test/hosts cannot have.
// Above all its power can be cut: what the guest had not flushed to its disk is
// then lost, in part and in any order, as on a real machine.
//
// It knows how to install Debian, start, command and kill a machine; it knows
// nothing of what a scenario checks. Start reading at New; base.go makes what
// is booted, disk.go is the disk, guest.go is what runs inside.
//
// Where the processor does not help (no usable /dev/kvm), qemu translates every
// instruction and all is 10 to 20 times slower. So `go test` skips these
// scenarios unless SKIFF_VM is set; `make vmtest` runs them.
package vm

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// How long steps may take. They are for a translated machine beside other
// work, and only ever waited for in full by a test that fails.
const (
	bootLimit    = 5 * time.Minute
	commandLimit = 10 * time.Minute
)

// Options say what a machine is like.
type Options struct {
	Base    Base // what is on its disk
	Network bool // a network card; without, there is the loopback interface only
	Memory  int  // MiB; 0 is 2048
	// Clock is what the hardware's clock shows whenever the power comes on, as
	// "1970-01-01T00:00:05"; empty means the time.
	Clock string
	Files map[string]string // path below /opt/vm inside the machine: file here
}

// Machine is one virtual machine with its disk. Its methods are for the
// goroutine of the test.
type Machine struct {
	t       *testing.T
	o       Options
	dir     string
	disk    *Disk
	qemu    *qemu  // nil while the power is off
	guest   *guest // nil while the power is off
	starts  int
	opt     string // image of the file system /opt/vm
	started time.Time
}

// New installs a machine; its power is off. When the test ends the machine
// does too, and a failed test shows its console and skiff's log.
func New(t *testing.T, o Options) *Machine {
	t.Helper()
	dir, err := os.MkdirTemp("", "skiff-vm-") //nolint:usetesting // SKIFF_VM_KEEP keeps it after the test
	if err != nil {
		t.Fatal(err)
	}
	m := &Machine{t: t, o: o, dir: dir, opt: filepath.Join(dir, "opt.ext4")}
	t.Cleanup(m.remove)
	if err := makeOpt(m.opt, o.Files); err != nil {
		t.Fatal(err)
	}
	if m.disk, err = NewDisk(o.Base.Disk, filepath.Join(dir, "disk")); err != nil {
		t.Fatal(err)
	}
	return m
}

// Boot switches the power on and waits until the machine takes commands.
func (m *Machine) Boot() {
	m.t.Helper()
	m.starts++
	m.started = time.Now()
	socket := filepath.Join(m.dir, fmt.Sprintf("disk-%d.sock", m.starts))
	if err := m.disk.Serve(socket); err != nil {
		m.t.Fatal(err)
	}
	port := filepath.Join(m.dir, fmt.Sprintf("guest-%d.sock", m.starts))
	q, err := startQemu(qemuOptions{
		base: m.o.Base, disk: socket, opt: m.opt, port: port,
		network: m.o.Network, memory: cmp.Or(m.o.Memory, 2048), clock: m.o.Clock, console: m.console(),
	})
	if err != nil {
		m.t.Fatal(err)
	}
	m.qemu = q
	if m.guest, err = dialGuest(port, q.exited, bootLimit); err != nil {
		m.t.Fatalf("boot %d: %v", m.starts, err)
	}
	m.t.Logf("boot %d: takes commands after %s", m.starts, time.Since(m.started).Round(time.Second))
}

// CutPower ends the machine as a pulled plug does. What the guest has written
// but not flushed is lost; see Disk.
func (m *Machine) CutPower() {
	m.t.Helper()
	m.qemu.kill()
	m.off()
	kept, lost, err := m.disk.CutPower()
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Logf("power cut: of the pages in the disk's cache %d were written and %d are lost", kept, lost)
}

// Shutdown ends the machine in order.
func (m *Machine) Shutdown() {
	m.t.Helper()
	m.guest.start("systemctl poweroff", nil)
	select {
	case <-m.qemu.exited:
	case <-time.After(commandLimit):
		m.t.Fatalf("the machine has not shut down within %s", commandLimit)
	}
	m.off()
	if err := m.disk.Flush(); err != nil {
		m.t.Fatal(err)
	}
}

func (m *Machine) off() {
	m.guest.close()
	m.disk.Close()
	m.qemu, m.guest = nil, nil
}

// Run runs a shell script as root on the machine, which must succeed, and
// returns what it prints.
func (m *Machine) Run(script string) string {
	m.t.Helper()
	r := m.Try(script)
	if r.Code != 0 {
		m.t.Fatalf("on the machine: %s\n%s", script, r)
	}
	return r.Stdout
}

// Try is Run without the demand for success.
func (m *Machine) Try(script string) Result {
	m.t.Helper()
	c := m.guest.start(script, nil)
	select {
	case <-c.Done:
	case <-time.After(commandLimit):
		m.t.Fatalf("on the machine, not done after %s: %s", commandLimit, script)
	}
	return c.result()
}

// Start runs a script in the background; line is called for each line that it
// prints to its standard output, as soon as it has reached us.
func (m *Machine) Start(script string, line func(string)) *Command {
	m.t.Helper()
	return m.guest.start(script, line)
}

// Eventually polls a script until it succeeds, and fails the test otherwise.
// It returns what the script then printed.
func (m *Machine) Eventually(within time.Duration, what, script string) string {
	m.t.Helper()
	deadline := time.Now().Add(within)
	for {
		r := m.Try(script)
		if r.Code == 0 {
			return r.Stdout
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("waited %s for %s: %s", within, what, r)
		}
		time.Sleep(time.Second)
	}
}

func (m *Machine) console() string {
	return filepath.Join(m.dir, fmt.Sprintf("console-%d.log", m.starts))
}

// remove ends the machine. A failed test's logs come first.
func (m *Machine) remove() {
	if m.guest != nil {
		if m.t.Failed() {
			m.showLogs()
		}
		m.guest.close()
	}
	if m.qemu != nil {
		m.qemu.kill()
	}
	if m.disk != nil {
		m.disk.Close()
	}
	if os.Getenv("SKIFF_VM_KEEP") != "" {
		m.t.Logf("the machine's files are kept in %s", m.dir)
		return
	}
	os.RemoveAll(m.dir)
}

func (m *Machine) showLogs() {
	if data, err := os.ReadFile(m.console()); err == nil {
		m.t.Logf("--- the console's end ---\n%s", tail(string(data), 40))
	}
	c := m.guest.start("journalctl -b --no-pager -o short-monotonic -u skiff | cut -c -300 | tail -n 120", nil)
	select {
	case <-c.Done:
		m.t.Logf("--- the journal's end ---\n%s", c.result().Stdout)
	case <-time.After(time.Minute):
	}
}

func tail(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
