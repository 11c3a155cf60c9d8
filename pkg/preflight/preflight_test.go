package preflight

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// root makes the files of a pretended host and returns its root.
func root(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestCgroups(t *testing.T) {
	const line = "1 0 0:1 / POINT rw - TYPE source rw,OPTIONS\n"
	m := func(point, typ, options string) string {
		return strings.NewReplacer("POINT", point, "TYPE", typ, "OPTIONS", options).Replace(line)
	}
	tests := []struct {
		name  string
		files map[string]string
		want  string // part of the error; empty for none
	}{
		{
			name: "version 2",
			files: map[string]string{
				"proc/self/mountinfo":              m("/sys/fs/cgroup", "cgroup2", "nsdelegate"),
				"sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory pids\n",
			},
		},
		{
			name: "version 1",
			files: map[string]string{"proc/self/mountinfo": m("/sys/fs/cgroup/cpu", "cgroup", "cpu,cpuacct") +
				m("/sys/fs/cgroup/memory", "cgroup", "memory") + m("/sys/fs/cgroup/pids", "cgroup", "pids")},
		},
		{
			name: "hybrid: version 2 is mounted but offers nothing",
			files: map[string]string{
				"proc/self/mountinfo": m("/sys/fs/cgroup/cpu", "cgroup", "cpu") + m("/sys/fs/cgroup/memory", "cgroup", "memory") +
					m("/sys/fs/cgroup/pids", "cgroup", "pids") + m("/sys/fs/cgroup/unified", "cgroup2", "nsdelegate"),
				"sys/fs/cgroup/unified/cgroup.controllers": "\n",
			},
		},
		{
			name: "memory switched off",
			files: map[string]string{
				"proc/self/mountinfo":              m("/sys/fs/cgroup", "cgroup2", "nsdelegate"),
				"sys/fs/cgroup/cgroup.controllers": "cpuset cpu io pids\n",
			},
			want: "the cgroup controllers memory are missing; on small boards add \"cgroup_enable=memory\"",
		},
		{name: "none", files: map[string]string{"proc/self/mountinfo": ""}, want: "no cgroup file system is mounted"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := &host{Options: Options{Root: root(t, tt.files)}}
			h.checkCgroups()
			check(t, errors.Join(h.errs...), tt.want)
		})
	}
}

func TestKernelAndOverlay(t *testing.T) {
	tests := []struct {
		name      string
		files     map[string]string
		overlayfs bool
		want      string
		warnings  int
	}{
		{name: "good", files: map[string]string{"proc/sys/kernel/osrelease": "6.18.2-generic\n", "proc/filesystems": "nodev\toverlay\n"}},
		{
			name: "old", want: "the kernel is 5.10.0-33-amd64, and services need nftables as of 5.13",
			files: map[string]string{"proc/sys/kernel/osrelease": "5.10.0-33-amd64\n", "proc/filesystems": "nodev\toverlay\n"},
		},
		{
			name:  "overlay is a module",
			files: map[string]string{"proc/sys/kernel/osrelease": "6.1.0\n", "lib/modules/6.1.0/modules.dep": "kernel/fs/overlayfs/overlay.ko.xz:\n"},
		},
		{name: "no overlay", files: map[string]string{"proc/sys/kernel/osrelease": "6.1.0\n"}, warnings: 1},
		{
			name: "no overlay, asked for", overlayfs: true, want: "use --snapshotter native",
			files: map[string]string{"proc/sys/kernel/osrelease": "6.1.0\n"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := &host{Options: Options{Root: root(t, tt.files), Overlayfs: tt.overlayfs}}
			h.checkKernel()
			h.checkOverlay()
			check(t, errors.Join(h.errs...), tt.want)
			if len(h.warnings) != tt.warnings {
				t.Errorf("warnings: %q, want %d", h.warnings, tt.warnings)
			}
		})
	}
}

func check(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("unexpected error: %v", err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
		t.Errorf("error %v does not contain %q", err, want)
	}
}

func TestMountOf(t *testing.T) {
	mounts := parseMounts(`21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
22 21 0:5 / /dev rw - devtmpfs udev rw
23 21 8:2 / /var/lib rw - xfs /dev/sdb rw
24 23 8:3 / /var/lib/my\040data ro - ext4 /dev/sdc ro
`)
	got := map[string]string{}
	for _, path := range []string{"/", "/var/lib", "/var/library", "/var/lib/my data/x"} {
		got[path] = mountOf(mounts, path).Source
	}
	want := map[string]string{"/": "/dev/sda1", "/var/lib": "/dev/sdb", "/var/library": "/dev/sda1", "/var/lib/my data/x": "/dev/sdc"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestExistingParent(t *testing.T) {
	dir := root(t, map[string]string{"file": ""})
	if err := os.Symlink(filepath.Join(dir, "gone"), filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if got, err := ExistingParent(filepath.Join(dir, "a", "b")); got != dir || err != nil {
		t.Errorf("new directory: %q, %v; want %q", got, err, dir)
	}
	for _, bad := range []string{"file", "file/a", "link", "link/a"} {
		if got, err := ExistingParent(filepath.Join(dir, bad)); err == nil {
			t.Errorf("%s: no error but %q", bad, got)
		}
	}
}

func TestPorts(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	comm, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	name := strings.TrimSpace(string(comm))
	addr := netip.MustParseAddrPort(l.Addr().String())
	port := Port{Address: addr, For: "the API, see --https-listen-port"}
	check(t, Ports([]Port{port}), "(the API, see --https-listen-port) is in use by "+name)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	check(t, Ports([]Port{port}), "")
}
