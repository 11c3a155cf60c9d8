package doctor

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"skiff/internal/atomicfile"
	"skiff/pkg/hostchange"
	"skiff/pkg/paths"
	"skiff/pkg/preflight"
)

// leastFiles is how many files a skiff with a few dozen pods has open, twice.
const leastFiles = 8192

func limitChecks() []check {
	return []check{
		{
			id: "inotify-limits", worst: Warning, kernel: true, node: true, about: "fs.inotify.max_user_instances and max_user_watches, now and in the files of sysctl",
			why: "without inotify certificates are not reloaded, logs not followed and static pods not seen, quietly. skiff raises the limits when it starts, and others set them back",
			fix: "they are raised, and written to " + paths.SysctlFile, look: lookInotify,
		},
		{
			id: "file-limits", worst: Warning, kernel: true, about: "how many files skiff and the whole machine may have open",
			why: "connections, logs and images are refused when it is reached", look: lookFiles,
			fix: "fs.file-max is raised, and written to " + paths.SysctlFile,
		},
		{
			id: "sysctl-changed", worst: Error, kernel: true, node: true, about: "while skiff runs: net.ipv4.ip_forward and net.bridge.bridge-nf-call-iptables",
			why: "skiff sets them when it starts; something has set them back, and pods cannot reach anything",
			fix: "they are set again, and written to " + paths.SysctlFile, look: lookForwarding,
		},
		{
			id: "swap", worst: Info, kernel: true, node: true, about: "swap",
			why: "pods are not limited in it, and on an SD card it is slow and wears the card; skiff works with it", look: lookSwap,
		},
	}
}

func (d *Doctor) number(file string) (int, error) {
	text, err := os.ReadFile(d.Path(file))
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", file, err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", file, err)
	}
	return n, nil
}

// lookInotify leaves alone what the next start of skiff raises by itself.
func lookInotify(_ context.Context, x *exam) error {
	set := x.sysctlFiles()
	for _, l := range preflight.Limits() {
		have, err := x.number(filepath.Join(paths.Sysctl, l.Name))
		if err != nil {
			return err
		}
		by, low := set[l.Sysctl()], false
		if by.file != "" {
			n, err := strconv.Atoi(by.value)
			low = err == nil && n < l.Min
		}
		writable := x.writable(paths.Sysctl)
		switch {
		case low:
			x.found(Warning, fmt.Sprintf("%s sets %s to %s, which is less than %d", by.file, l.Sysctl(), by.value, l.Min),
				fmt.Sprintf("write %s = %d there, then: sysctl --system", l.Sysctl(), l.Min), x.raiseSysctl(l.Name, l.Min))
		case have < l.Min && (x.PID != 0 || !writable):
			x.found(Warning, fmt.Sprintf("%s is %d, less than %d", l.Sysctl(), have, l.Min),
				fmt.Sprintf("sysctl -w %s=%d, and write it to %s", l.Sysctl(), l.Min, paths.SysctlFile), x.raiseSysctl(l.Name, l.Min))
		}
	}
	return nil
}

func (d *Doctor) writable(dir string) bool {
	m := d.MountOf(dir)
	return !slices.Contains(m.Options, "ro")
}

func lookFiles(_ context.Context, x *exam) error {
	l := preflight.Limit{Name: "fs/file-max", Min: 65536}
	all, err := os.ReadFile(x.Path(filepath.Join(paths.Sysctl, l.Name)))
	if err != nil {
		return fmt.Errorf("read the limit of open files: %w", err)
	}
	// The kernel's default is nearly 2^63.
	if n, err := strconv.ParseUint(strings.TrimSpace(string(all)), 10, 64); err == nil && n < uint64(l.Min) {
		x.found(Warning, fmt.Sprintf("all processes together may have %d files open, less than %d", n, l.Min),
			fmt.Sprintf("sysctl -w %s=%d, and write it to %s", l.Sysctl(), l.Min, paths.SysctlFile), x.raiseSysctl(l.Name, l.Min))
	}
	hard, whose, mend := uint64(0), "a skiff started from here", "raise it: ulimit -Hn 1048576, or LimitNOFILE=infinity in the service's unit"
	if x.PID != 0 {
		whose = fmt.Sprintf("skiff (process %d)", x.PID)
		if hard, err = processFiles(x.Read(fmt.Sprintf("/proc/%d/limits", x.PID))); err != nil {
			return err
		}
	} else if hard, err = x.sys.openFiles(); err != nil {
		return err
	}
	if hard < leastFiles {
		x.found(Warning, fmt.Sprintf("%s may have %d files open, less than %d", whose, hard, leastFiles), mend, nil)
	}
	return nil
}

// processFiles reads the hard limit of /proc/PID/limits.
func processFiles(text string) (uint64, error) {
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(line, "Max open files")
		f := strings.Fields(rest)
		if !ok || len(f) < 2 {
			continue
		}
		if f[1] == "unlimited" {
			return 1 << 63, nil
		}
		n, err := strconv.ParseUint(f[1], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read the limit of skiff's open files: %w", err)
		}
		return n, nil
	}
	return 0, errNotRoot
}

func lookForwarding(_ context.Context, x *exam) error {
	if x.PID == 0 || x.Backend == "none" {
		return nil
	}
	for _, name := range []string{"net/ipv4/ip_forward", "net/bridge/bridge-nf-call-iptables"} {
		have, err := x.number(filepath.Join(paths.Sysctl, name))
		if err != nil || have != 0 {
			continue // what is not there has an id of its own
		}
		l := preflight.Limit{Name: name}
		x.found(Error, l.Sysctl()+" is 0", fmt.Sprintf("sysctl -w %s=1, and write it to %s", l.Sysctl(), paths.SysctlFile), x.raiseSysctl(name, 1))
	}
	return nil
}

func lookSwap(_ context.Context, x *exam) error {
	for i, line := range lines(x.Read("/proc/swaps")) {
		if f := strings.Fields(line); i > 0 && len(f) >= 4 {
			kib, _ := strconv.Atoi(f[2])
			x.found(Info, fmt.Sprintf("%d MiB of swap on %s", kib>>10, f[0]), "nothing has to be done; to switch it off: swapoff "+f[0]+", and take it from "+paths.Fstab, nil)
		}
	}
	return nil
}

// raiseSysctl sets a kernel setting now and for the next boot.
func (x *exam) raiseSysctl(name string, value int) fix {
	if !x.sys.root {
		return nil
	}
	return func(context.Context) (string, error) {
		l := preflight.Limit{Name: name}
		if err := x.writeSysctl(l.Sysctl(), value); err != nil {
			return "", err
		}
		file := filepath.Join(paths.Sysctl, name)
		if have, err := x.number(file); err != nil || have < value {
			if err := x.note(hostchange.SysctlChange(file, strconv.Itoa(value), strconv.Itoa(have))); err != nil {
				return "", err
			}
			if err := os.WriteFile(x.Path(file), []byte(strconv.Itoa(value)), 0); err != nil {
				return "", fmt.Errorf("set sysctl: %w", err)
			}
		}
		return fmt.Sprintf("set %s to %d, also in %s", l.Sysctl(), value, paths.SysctlFile), nil
	}
}

// writeSysctl puts a line into our file below /etc/sysctl.d, in place of an
// earlier one for the same setting.
func (x *exam) writeSysctl(name string, value int) error {
	const head = "# Written by skiff doctor --fix.\n"
	var kept []string
	for line := range strings.Lines(x.Read(paths.SysctlFile)) {
		if key, _, _ := strings.Cut(line, "="); strings.TrimSpace(key) != name && line != head {
			kept = append(kept, strings.TrimRight(line, "\n"))
		}
	}
	kept = append(kept, fmt.Sprintf("%s = %d", name, value))
	if err := x.note(hostchange.NewFile(paths.SysctlFile)); err != nil {
		return err
	}
	file := x.Path(paths.SysctlFile)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("write sysctl: %w", err)
	}
	return atomicfile.Write(file, []byte(head+strings.Join(kept, "\n")+"\n"), 0o644)
}

// assignment is where a sysctl is set.
type assignment struct{ file, value string }

// sysctlFiles says which file sets what at boot; see sysctl.d(5). Files with the
// same name hide each other, and the last in alphabetical order wins.
func (d *Doctor) sysctlFiles() map[string]assignment {
	byName := map[string]string{}
	for _, dir := range paths.SysctlDirs() { // weakest first
		for _, file := range d.existing(filepath.Join(dir, "*.conf")) {
			byName[filepath.Base(file)] = file
		}
	}
	// As systemd and Debian order it: between 99-a and 99-z.
	byName["99-sysctl.conf"] = paths.SysctlConf
	set := map[string]assignment{}
	names := make([]string, 0, len(byName))
	for name := range byName {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		for line := range strings.Lines(d.Read(byName[name])) {
			key, value, ok := strings.Cut(strings.TrimLeft(strings.TrimSpace(line), "-"), "=")
			if !ok || strings.HasPrefix(key, "#") || strings.HasPrefix(key, ";") {
				continue
			}
			key = strings.ReplaceAll(strings.TrimSpace(key), "/", ".")
			set[key] = assignment{file: byName[name], value: strings.TrimSpace(value)}
		}
	}
	return set
}
