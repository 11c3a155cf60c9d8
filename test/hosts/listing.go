package hosts

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Listing is the state of a host, a line for each thing: files, mounts,
// interfaces, addresses, routes, rules, packet filters, kernel settings, control
// groups and processes. Two listings of the same state are the same.
func (h *Host) Listing() []string {
	h.t.Helper()
	m := h.on()
	Eventually(h.t, 10*time.Second, "the kernel to have settled its addresses", m.settled)
	var out []string
	for _, list := range []func(*machine) ([]string, error){h.listFiles, listMounts, h.listNetwork, h.listCgroups} {
		lines, err := list(m)
		if err != nil {
			h.t.Fatalf("list the state of %s: %v", h.name, err)
		}
		out = append(out, lines...)
	}
	for _, p := range h.Processes() {
		out = append(out, "process "+strings.Join(p.Args, " "))
	}
	slices.Sort(out)
	return out
}

// Difference is what two listings do not have in common: lines with a "-" are in
// the first, lines with a "+" in the second only.
func Difference(before, after []string) []string {
	var out []string
	for i, j := 0, 0; i < len(before) || j < len(after); {
		switch {
		case j == len(after) || i < len(before) && before[i] < after[j]:
			out = append(out, "- "+before[i])
			i++
		case i == len(before) || before[i] > after[j]:
			out = append(out, "+ "+after[j])
			j++
		default:
			i, j = i+1, j+1
		}
	}
	return out
}

// settled reports whether no address is still being looked for at neighbours,
// for which it has no route yet.
func (m *machine) settled() error {
	return inNamespace(m.netns, func() error {
		addrs, err := netlink.AddrList(nil, netlink.FAMILY_V6)
		if err != nil {
			return err
		}
		links := map[int]bool{}
		for _, a := range addrs {
			if a.Flags&unix.IFA_F_TENTATIVE != 0 {
				return fmt.Errorf("address %s is tentative", a.IPNet)
			}
			links[a.LinkIndex] = true
		}
		all, err := netlink.LinkList()
		if err != nil {
			return err
		}
		for _, l := range all {
			if l.Attrs().Name == nic && !links[l.Attrs().Index] {
				return fmt.Errorf("interface %s has no address of IPv6 yet", l.Attrs().Name)
			}
		}
		return nil
	})
}

// inside is the path on the machine of what a host has at a path.
func (m *machine) inside(path string) string {
	return filepath.Join("/proc", strconv.Itoa(m.pid), "root", path)
}

func (h *Host) listFiles(m *machine) ([]string, error) {
	var out []string
	for _, dir := range []string{"/etc", "/var/lib", "/var/log", "/tmp", "/run", "/dev/shm", "/usr/local/bin"} {
		top := m.inside(dir)
		err := filepath.WalkDir(top+"/.", func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			st := info.Sys().(*syscall.Stat_t)
			line := fmt.Sprintf("file %s %d:%d %s", filepath.Join(dir, strings.TrimPrefix(path, top)), st.Uid, st.Gid, info.Mode())
			if d.Type().IsRegular() {
				line += fmt.Sprintf(" %d %s", info.Size(), info.ModTime())
			}
			if target, err := os.Readlink(path); err == nil {
				line += " -> " + target
			}
			out = append(out, line)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

func listMounts(m *machine) ([]string, error) {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(m.pid), "mountinfo"))
	if err != nil {
		return nil, err
	}
	var out []string
	for line := range strings.Lines(string(data)) {
		head, tail, _ := strings.Cut(strings.TrimSpace(line), " - ")
		fields := strings.Fields(head)
		shared := ""
		for _, option := range fields[6:] {
			name, _, _ := strings.Cut(option, ":") // the numbers are the kernel's
			shared += " " + name
		}
		out = append(out, "mount "+strings.Join(fields[3:6], " ")+shared+" "+tail)
	}
	return out, nil
}

// byItself are kernel settings that say what goes on, and are not set.
var byItself = []string{"nf_conntrack_count", "stable_secret", "nf_conntrack_buckets"}

// Settings are those kernel settings that all hosts of a machine share and that
// skiff sets.
var Settings = map[string]string{
	"fs/inotify/max_user_instances": "8192", "fs/inotify/max_user_watches": "524288",
	"vm/overcommit_memory": "1", "vm/panic_on_oom": "0", "kernel/panic": "10", "kernel/panic_on_oops": "1",
	"kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000",
}

func (h *Host) listNetwork(m *machine) ([]string, error) {
	var out []string
	err := inNamespace(m.netns, func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		for _, l := range links {
			out = append(out, fmt.Sprintf("interface %s %s %s mtu %d", l.Attrs().Name, l.Type(), l.Attrs().Flags, l.Attrs().MTU))
		}
		addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		for _, a := range addrs {
			out = append(out, fmt.Sprintf("address %s on %d", a.IPNet, a.LinkIndex))
		}
		for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
			if err != nil {
				return err
			}
			for _, r := range routes {
				out = append(out, "route "+r.String())
			}
			rules, err := netlink.RuleList(family)
			if err != nil {
				return err
			}
			for _, r := range rules {
				out = append(out, "rule "+r.String())
			}
		}
		for _, dir := range []string{"net", "fs/inotify", "vm", "kernel"} {
			err := filepath.WalkDir(filepath.Join("/proc/sys", dir), func(path string, d fs.DirEntry, err error) error {
				name := strings.TrimPrefix(path, "/proc/sys/")
				if err != nil || d.IsDir() || slices.Contains(byItself, d.Name()) || dir != "net" && Settings[name] == "" {
					return nil
				}
				if value, err := os.ReadFile(path); err == nil {
					out = append(out, "sysctl "+name+" "+strings.TrimSpace(string(value)))
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	ruleset, err := nftOutput(h.t, m.netns, "list ruleset\n")
	for line := range strings.Lines(ruleset) {
		out = append(out, "nft "+strings.TrimSpace(line))
	}
	return out, err
}

func (h *Host) listCgroups(*machine) ([]string, error) {
	all, err := hierarchies()
	if err != nil {
		return nil, err
	}
	var out []string
	for _, c := range all {
		top := filepath.Join(c.Own, mark+"-"+h.id)
		err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				out = append(out, "cgroup "+c.Mount+" "+strings.TrimPrefix(path, top))
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Nftables gives the host packet filters, as nft reads them.
func (h *Host) Nftables(text string) {
	h.t.Helper()
	if err := nft(h.t, h.on().netns, text); err != nil {
		h.t.Fatalf("set packet filters of %s: %v", h.name, err)
	}
}

// ShareSettings gives the machine's kernel the settings that every skiff wants,
// so that one host that takes its own back takes them from no other.
func ShareSettings() error {
	for name, value := range Settings {
		file := filepath.Join("/proc/sys", name)
		have, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		// The first two are least values.
		if n, err := strconv.Atoi(strings.TrimSpace(string(have))); err == nil && strings.HasPrefix(name, "fs/") {
			if want, err := strconv.Atoi(value); err == nil && n >= want {
				continue
			}
		}
		if strings.TrimSpace(string(have)) == value {
			continue
		}
		if err := os.WriteFile(file, []byte(value), 0); err != nil {
			return err
		}
	}
	return nil
}
