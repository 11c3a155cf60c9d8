package main

import (
	"bufio"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func sortedCopy(v []float64) []float64 { return slices.Sorted(slices.Values(v)) }

// usage is what one process has used so far. Memory is in KiB.
type usage struct {
	kind       string // skiff, containerd, shim or other
	anon, pss  float64
	cpu        float64 // seconds, of the process and its children that ended
	writeBytes float64
}

// shims adds what the shim of one running pod costs.
func (n *node) shims() {
	for _, u := range n.usages() {
		if u.kind == "shim" {
			n.f.add("memory of a shim, PSS", "MiB", u.pss/1024)
			n.f.add("memory of a shim, anonymous", "MiB", u.anon/1024)
		}
	}
}

// idle lets the node rest and adds what it costs while it does nothing.
func (n *node) idle(settle, window time.Duration) {
	time.Sleep(settle)
	disk, begin := n.diskWritten(), time.Now()
	n.atRest("idle", window)
	unix.Sync() // what is only in the page cache yet is a write as well
	minute := time.Since(begin).Seconds() / 60
	n.f.add("idle writes to the disk, whole machine", "KiB/min", (n.diskWritten()-disk)/1024/minute)
}

// atRest adds what the processes of a node that does nothing cost, under names
// that begin with what.
func (n *node) atRest(what string, window time.Duration) {
	before, begin := n.usages(), time.Now()
	time.Sleep(window)
	after := n.usages()
	minute := time.Since(begin).Seconds() / 60
	var anon, pss, cpu, written float64
	kinds := map[string][2]float64{}
	for pid, u := range after {
		anon, pss = anon+u.anon, pss+u.pss
		cpu, written = cpu+u.cpu-before[pid].cpu, written+u.writeBytes-before[pid].writeBytes
		k := kinds[u.kind]
		kinds[u.kind] = [2]float64{k[0] + u.anon, k[1] + u.pss}
	}
	for kind, k := range kinds {
		n.f.add(what+" memory of "+kind+", anonymous", "MiB", k[0]/1024)
		n.f.add(what+" memory of "+kind+", PSS", "MiB", k[1]/1024)
	}
	n.f.add(what+" memory, anonymous", "MiB", anon/1024)
	n.f.add(what+" memory, PSS", "MiB", pss/1024)
	n.f.add(what+" CPU", "s/min", cpu/minute)
	n.f.add(what+" CPU of one core", "%", cpu/minute/60*100)
	n.f.add(what+" writes by process", "KiB/min", written/1024/minute)
	n.f.add(what+" writes by process, a day", "MB", written/1e6/minute*24*60)
}

// usages samples every process of the platform on the host: all in its PID
// namespace but the init and what runs in pods.
func (n *node) usages() map[int]usage {
	found := map[int]usage{}
	for _, p := range n.Processes() {
		if strings.Contains(p.Cgroup, "kubepods") {
			continue
		}
		dir := filepath.Join("/proc", strconv.Itoa(p.PID))
		u := usage{kind: kindOf(p.Args)}
		rollup := keyed(filepath.Join(dir, "smaps_rollup"))
		status := keyed(filepath.Join(dir, "status"))
		u.pss, u.anon = rollup["Pss"], status["RssAnon"]
		u.writeBytes = keyed(filepath.Join(dir, "io"))["write_bytes"]
		u.cpu = cpuOf(dir)
		if u.pss > 0 {
			found[p.PID] = u
		}
	}
	if len(found) == 0 {
		n.p.Fatalf("found no process of skiff on the host")
	}
	return found
}

func kindOf(args []string) string {
	name := filepath.Base(args[0])
	switch {
	case strings.HasPrefix(name, "containerd-shim"):
		return "shim"
	case name == "containerd" || len(args) > 1 && args[1] == "containerd":
		return "containerd"
	case name == "skiff":
		return "skiff"
	}
	return "other"
}

// keyed reads the numbers of a "key: number unit" file.
func keyed(path string) map[string]float64 {
	f, err := os.Open(path)
	if err != nil {
		return nil // the process has just ended
	}
	defer f.Close()
	values := map[string]float64{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		key, rest, ok := strings.Cut(lines.Text(), ":")
		words := strings.Fields(rest)
		if !ok || len(words) == 0 {
			continue
		}
		if v, err := strconv.ParseFloat(words[0], 64); err == nil {
			values[key] = v
		}
	}
	return values
}

// cpuOf is the CPU time of a process and of its children that were waited for.
func cpuOf(dir string) float64 {
	b, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return 0
	}
	words := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	ticks := 0.0
	for _, w := range words[11:15] { // utime stime cutime cstime
		v, _ := strconv.ParseFloat(w, 64)
		ticks += v
	}
	return ticks / 100 // USER_HZ is 100 on every Linux
}

// diskWritten is how many bytes were written to the disk below the host's data
// directory, by anyone.
func (n *node) diskWritten() float64 {
	var st unix.Stat_t
	if err := unix.Stat(n.Path("/var/lib"), &st); err != nil {
		n.p.Fatalf("%v", err)
	}
	f, err := os.Open("/proc/diskstats")
	if err != nil {
		n.p.Fatalf("%v", err)
	}
	defer f.Close()
	major, minor := strconv.Itoa(int(unix.Major(st.Dev))), strconv.Itoa(int(unix.Minor(st.Dev)))
	for lines := bufio.NewScanner(f); lines.Scan(); {
		words := strings.Fields(lines.Text())
		if len(words) > 9 && words[0] == major && words[1] == minor {
			sectors, _ := strconv.ParseFloat(words[9], 64)
			return sectors * 512
		}
	}
	return 0 // a file system without a disk of its own (overlay, tmpfs)
}
