package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// machine is where the figures come from.
type machine struct {
	CPU        string `json:"cpu"`
	Cores      int    `json:"cores"`
	MemoryMB   int64  `json:"memory_mb"`
	Kernel     string `json:"kernel"`
	FileSystem string `json:"file_system"`
	Directory  string `json:"directory"`
	Device     string `json:"device"`
	Load       string `json:"load_at_start"`
	SyncMS     string `json:"fdatasync_4k_ms"` // p50 and p99 of 200 appends
}

// inspect describes the machine and the disk below dir.
func inspect(dir string) (machine, error) {
	m := machine{Cores: runtime.NumCPU(), Directory: dir, Load: firstLine("/proc/loadavg"), Kernel: firstLine("/proc/sys/kernel/osrelease")}
	if abs, err := filepath.Abs(dir); err == nil {
		m.Directory = abs
	}
	m.CPU = field("/proc/cpuinfo", "model name")
	kb, _, _ := strings.Cut(field("/proc/meminfo", "MemTotal"), " ")
	n, _ := strconv.ParseInt(kb, 10, 64)
	m.MemoryMB = n / 1024
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return m, fmt.Errorf("look at the file system of %s: %w", dir, err)
	}
	m.FileSystem = fileSystem(fs.Type)
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return m, fmt.Errorf("look at %s: %w", dir, err)
	}
	m.Device = fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
	p50, p99, err := syncTime(dir)
	m.SyncMS = fmt.Sprintf("%.2f %.2f", p50, p99)
	return m, err
}

func fileSystem(magic int64) string {
	names := map[int64]string{
		unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs",
		unix.F2FS_SUPER_MAGIC: "f2fs", unix.TMPFS_MAGIC: "tmpfs", unix.OVERLAYFS_SUPER_MAGIC: "overlay",
	}
	if n, ok := names[magic]; ok {
		return n
	}
	return fmt.Sprintf("%#x", magic)
}

// syncTime appends 4 KiB and syncs, 200 times: what a durable write costs at
// the least.
func syncTime(dir string) (p50, p99 float64, err error) {
	f, err := os.CreateTemp(dir, "sync-")
	if err != nil {
		return 0, 0, fmt.Errorf("measure a sync: %w", err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	var took []float64
	page := bytes.Repeat([]byte("x"), 4096)
	for range 200 {
		begin := time.Now()
		if _, err = f.Write(page); err == nil {
			err = unix.Fdatasync(int(f.Fd()))
		}
		if err != nil {
			return 0, 0, fmt.Errorf("measure a sync: %w", err)
		}
		took = append(took, ms(time.Since(begin)))
	}
	return quantile(took, 0.5), quantile(took, 0.99), nil
}

// written is what a store has written since it was started.
type written struct {
	file float64 // by write calls to files
	page float64 // as pages that became dirty
	disk float64 // by everybody to the disk, file system's journal included

	flushes float64 // how often the disk was told to write its cache, by everybody
}

func (w written) minus(o written) written {
	return written{w.file - o.file, w.page - o.page, w.disk - o.disk, w.flushes - o.flushes}
}

// written reads /proc/PID/io. Its wchar has answers on sockets and log lines
// in it: what clients have received and what is in the log is taken off.
func (b *bench) written() written {
	path := fmt.Sprintf("/proc/%d/io", b.cmd.Process.Pid)
	w := written{file: number(field(path, "wchar")) - float64(b.sent.Load()), page: number(field(path, "write_bytes"))}
	if fi, err := os.Stat(b.log.Name()); err == nil {
		w.file -= float64(fi.Size())
	}
	// See Documentation/block/stat.rst of Linux.
	if f := strings.Fields(firstLine("/sys/dev/block/" + b.report.Machine.Device + "/stat")); len(f) > 15 {
		w.disk, w.flushes = number(f[6])*512, number(f[15])
	}
	return w
}

// memory is the store's resident memory in MB: all of it, and the part that no
// file backs.
func (r *server) memory() (rss, anon float64) {
	path := fmt.Sprintf("/proc/%d/status", r.cmd.Process.Pid)
	mb := func(name string) float64 {
		kb, _, _ := strings.Cut(field(path, name), " ")
		return number(kb) / 1024
	}
	return mb("VmRSS"), mb("RssAnon")
}

// cpu is the processor time the store has used, in seconds.
func (r *server) cpu() float64 {
	return processCPU(r.cmd.Process.Pid)
}

func processCPU(pid int) float64 {
	line := firstLine(fmt.Sprintf("/proc/%d/stat", pid))
	// The name, in parentheses, may have spaces in it.
	_, rest, _ := strings.Cut(line, ") ")
	if f := strings.Fields(rest); len(f) > 12 {
		return (number(f[11]) + number(f[12])) / 100
	}
	return 0
}

// busy is the processor time that all processes have used, in seconds.
func busy() float64 {
	f := strings.Fields(firstLine("/proc/stat"))
	var sum float64
	for i, v := range f {
		switch i {
		case 0, 4, 5, 9, 10: // name, idle, waiting for the disk, and guests, who are in user
		default:
			sum += number(v)
		}
	}
	return sum / 100
}

func ownCPU() float64 {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}

// othersCPU returns a function that says how much processor time has been used
// since now by others than this program and s.
func othersCPU(s *server) func() float64 {
	begin := busy() - ownCPU() - s.cpu()
	return func() float64 { return max(0, busy()-ownCPU()-s.cpu()-begin) }
}

// waitForQuiet waits until others use less than a tenth of the processors for
// a second, or patience ends. It returns how long that took.
func waitForQuiet(ctx context.Context, patience time.Duration) time.Duration {
	begin := time.Now()
	for time.Since(begin) < patience {
		before, at := busy()-ownCPU(), time.Now()
		select {
		case <-ctx.Done():
			return time.Since(begin)
		case <-time.After(time.Second):
		}
		if used := busy() - ownCPU() - before; used < 0.1*float64(runtime.NumCPU())*time.Since(at).Seconds() {
			break
		}
	}
	return time.Since(begin)
}

func firstLine(path string) string {
	b, _ := os.ReadFile(path) // Files of /proc that are always there, or a process that has ended.
	line, _, _ := strings.Cut(string(b), "\n")
	return strings.TrimSpace(line)
}

// field finds "name: value" in a file of /proc.
func field(path, name string) string {
	b, _ := os.ReadFile(path)
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

func number(s string) float64 {
	n, _ := strconv.ParseFloat(s, 64)
	return n
}
