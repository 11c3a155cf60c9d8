package support

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"skiff/pkg/paths"
	"skiff/pkg/process"
)

// file is a part that is a file of the host.
func file(name, path string) Part {
	return Part{Name: name, Write: func(_ context.Context, w io.Writer) error { return copyFile(w, path) }}
}

func copyFile(w io.Writer, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}

// files is a part of several small files, each under its name.
func files(name string, all ...string) Part {
	return Part{Name: name, Write: func(_ context.Context, w io.Writer) error {
		for _, path := range all {
			fmt.Fprintf(w, "# %s\n", path)
			if err := copyFile(w, path); err != nil {
				fmt.Fprintf(w, "%v\n", err)
			}
			fmt.Fprintln(w)
		}
		return nil
	}}
}

// command is a part that is what a program prints.
func command(name string, p Part, argv ...string) Part {
	p.Name = name
	p.Write = func(ctx context.Context, w io.Writer) error { return process.Stream(ctx, w, argv[0], argv[1:]...) }
	return p
}

// sysctls are those that decide whether pods run and reach each other.
var sysctls = []string{
	"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "net/ipv4/conf/all/rp_filter", "net/ipv4/conf/default/rp_filter", "net/bridge/bridge-nf-call-iptables",
	"net/netfilter/nf_conntrack_max", "net/netfilter/nf_conntrack_count", "net/core/somaxconn", "net/ipv4/ip_local_port_range",
	"fs/inotify/max_user_instances", "fs/inotify/max_user_watches", "fs/file-max", "fs/file-nr", "fs/aio-nr", "fs/aio-max-nr",
	"vm/overcommit_memory", "vm/panic_on_oom", "vm/max_map_count", "vm/swappiness", "kernel/panic", "kernel/panic_on_oops", "kernel/pid_max", "kernel/threads-max",
	"kernel/keys/root_maxkeys", "user/max_user_namespaces", "kernel/random/boot_id",
}

// hostParts are on the machine itself.
func hostParts(o Options) []Part {
	var settings []string
	for _, s := range sysctls {
		settings = append(settings, filepath.Join(paths.Sysctl, s))
	}
	long := Part{Limit: 2 << 20, Tail: true, Time: 15 * time.Second}
	return []Part{
		{Name: "host/system.txt", Write: writeSystem},
		files("host/kernel.txt", "/proc/version", "/proc/cmdline", "/proc/modules", "/proc/filesystems"),
		files("host/memory.txt", "/proc/meminfo", "/proc/swaps", "/proc/pressure/memory", "/proc/pressure/io", "/proc/pressure/cpu", "/proc/loadavg", "/proc/vmstat"),
		files("host/disks.txt", "/proc/partitions", "/proc/diskstats"),
		{Name: "host/space.txt", Time: 20 * time.Second, Write: o.writeSpace},
		file("host/mounts.txt", paths.MountInfo),
		files("host/sysctl.txt", settings...),
		files("host/cgroups.txt", "/proc/cgroups", "/proc/self/cgroup", paths.CgroupControllers, filepath.Join(procOf(o.PID), "cgroup")),
		{Name: "host/processes.txt", Write: writeProcesses},
		{Name: "host/kernel-log.txt", Tail: true, Write: writeKernelLog},
		{Name: "network/interfaces.txt", Write: writeInterfaces},
		files("network/kernel.txt", "/proc/net/dev", "/proc/net/arp", "/proc/net/sockstat", "/proc/net/snmp", "/proc/net/netstat"),
		files("network/sockets.txt", "/proc/net/tcp", "/proc/net/tcp6", "/proc/net/udp", "/proc/net/udp6"),
		command("network/nft.txt", Part{Limit: 2 << 20}, o.nft(), "list", "ruleset"),
		files("network/resolv.txt", paths.ResolvConf, o.Paths.PodResolvConf(), paths.Hosts),
		{Name: "skiff/certificates.txt", Write: o.writeCertificates},
		command("logs/journal.txt", long, "journalctl", "--unit=skiff", "--unit=skiff-agent", "--no-pager", "--output=short-iso", "--lines=20000"),
	}
}

// nft is the program that was tested with this skiff, else the host's.
func (o Options) nft() string {
	own := filepath.Join(o.Paths.Bin(), "nft")
	if _, err := os.Stat(own); err == nil {
		return own
	}
	return "nft"
}

func writeSystem(_ context.Context, w io.Writer) error {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err
	}
	text := func(b [65]byte) string { return unix.ByteSliceToString(b[:]) }
	fmt.Fprintf(w, "%s %s %s %s\nhost %s\ntime %s\n", text(u.Sysname), text(u.Release), text(u.Version), text(u.Machine), text(u.Nodename), time.Now().Format(time.RFC3339Nano))
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err == nil {
		fmt.Fprintf(w, "up %s\n", time.Duration(info.Uptime)*time.Second)
	}
	fmt.Fprintf(w, "init %s\n", read(paths.InitName))
	return copyFile(w, paths.OSRelease)
}

// writeKernelLog shows the kernel's messages: who was killed for want of
// memory, which disk failed.
func writeKernelLog(_ context.Context, w io.Writer) error {
	size, err := unix.Klogctl(unix.SYSLOG_ACTION_SIZE_BUFFER, nil)
	if err != nil {
		return fmt.Errorf("read kernel log: %w", err)
	}
	buf := make([]byte, min(size, 4<<20))
	n, err := unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, buf)
	if err != nil {
		return fmt.Errorf("read kernel log: %w", err)
	}
	_, err = w.Write(buf[:n])
	return err
}

// writeProcesses lists names, memory and states, no arguments: these are other
// people's.
func writeProcesses(ctx context.Context, w io.Writer) error {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "%8s %8s %-10s %10s %s\n", "PID", "PARENT", "STATE", "RSS kB", "NAME")
	for _, e := range entries {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		status := read(filepath.Join("/proc", e.Name(), "status"))
		if status == "" || e.Name()[0] < '0' || e.Name()[0] > '9' {
			continue
		}
		field := func(name string) string {
			_, rest, _ := strings.Cut(status, "\n"+name+":\t")
			line, _, _ := strings.Cut(rest, "\n")
			return strings.TrimSpace(line)
		}
		name, _, _ := strings.Cut(strings.TrimPrefix(status, "Name:\t"), "\n")
		fmt.Fprintf(w, "%8s %8s %-10.10s %10s %s\n", e.Name(), field("PPid"), field("State"), strings.TrimSuffix(field("VmRSS"), " kB"), name)
	}
	return nil
}

// writeSpace shows how full the disks of skiff's directories are, and what in
// them is large, two levels deep.
func (o Options) writeSpace(ctx context.Context, w io.Writer) error {
	roots := []string{o.Paths.Data, o.Paths.Kubelet(), o.Paths.PodLogs(), o.Paths.Run, o.Paths.Etc}
	for _, root := range roots {
		var st unix.Statfs_t
		if err := unix.Statfs(root, &st); err != nil {
			fmt.Fprintf(w, "%s: %v\n", root, err)
			continue
		}
		fmt.Fprintf(w, "%s: %d MiB of %d MiB free, %d of %d inodes free, type %#x\n", root, st.Bavail*uint64(st.Bsize)>>20, st.Blocks*uint64(st.Bsize)>>20, st.Ffree, st.Files, st.Type)
	}
	fmt.Fprintf(w, "\n%14s %10s  %s\n", "BYTES", "FILES", "DIRECTORY")
	for _, root := range roots {
		if err := writeSizes(ctx, w, root); err != nil {
			return err
		}
	}
	return nil
}

func writeSizes(ctx context.Context, w io.Writer, root string) error {
	type sum struct{ bytes, files int64 }
	sums := make(map[string]*sum)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return nil //nolint:nilerr // It has vanished, or cannot be read; the others can.
		}
		rel, err := filepath.Rel(root, path)
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return nil //nolint:nilerr // It has vanished.
		}
		parts := strings.Split(rel, string(filepath.Separator))
		dir := filepath.Join(parts[:min(2, len(parts)-1)]...)
		if sums[dir] == nil {
			sums[dir] = &sum{}
		}
		sums[dir].files++
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			sums[dir].bytes += st.Blocks * 512
		}
		return nil
	})
	names := make([]string, 0, len(sums))
	for name := range sums {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		fmt.Fprintf(w, "%14d %10d  %s\n", sums[name].bytes, sums[name].files, filepath.Join(root, name))
	}
	return err
}

// writeCertificates shows whom the certificates are for and when they end.
func (o Options) writeCertificates(_ context.Context, w io.Writer) error {
	fmt.Fprintf(w, "now %s\n", time.Now().UTC().Format(time.RFC3339))
	var errs []error
	for _, dir := range []string{o.Paths.ServerTLS(), o.Paths.AgentTLS()} {
		found, err := filepath.Glob(filepath.Join(dir, "*.crt"))
		if err != nil {
			errs = append(errs, err)
		}
		for _, name := range found {
			if err := writeCertificate(w, name); err != nil {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

func writeCertificate(w io.Writer, name string) error {
	data, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		var sans bytes.Buffer
		for _, ip := range c.IPAddresses {
			fmt.Fprintf(&sans, " %s", ip)
		}
		fmt.Fprintf(w, "%s\n  subject %s\n  issuer %s\n  %s until %s\n  names %s%s\n", name, c.Subject, c.Issuer,
			c.NotBefore.UTC().Format(time.RFC3339), c.NotAfter.UTC().Format(time.RFC3339), strings.Join(c.DNSNames, " "), sans.String())
	}
	return nil
}
