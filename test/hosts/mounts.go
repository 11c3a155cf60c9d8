package hosts

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// lookPath finds an executable on the host's PATH.
func lookPath(name string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, dir := range filepath.SplitList(hostPath) {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode()&0o111 != 0 && !info.IsDir() {
			return path, nil
		}
	}
	return "", fmt.Errorf("find %s: not in %s", name, hostPath)
}

// mountAll turns the copy of the machine's mounts into the host's own.
func mountAll(s spec) error {
	// Nothing mounted here may reach the machine.
	if err := mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := openSources(&s); err != nil {
		return err
	}
	const quiet = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	steps := []func() error{
		func() error { return mount("proc", "/proc", "proc", quiet, "") },
		func() error { return mount("sysfs", "/sys", "sysfs", quiet, "") },
		func() error { return mountCgroups(s.Cgroups) },
		func() error { return bind(s) },
		func() error { return mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755") },
		func() error { return mount("tmpfs", "/dev/shm", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "") },
		func() error {
			return mount("devpts", "/dev/pts", "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620")
		},
		func() error { return mountExtras(s) },
		// A write outside the private directories is a bug: the root is read-only.
		func() error { return mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "") },
		// As systemd leaves it; volumes with mount propagation need it.
		func() error { return mount("", "/", "", unix.MS_REC|unix.MS_SHARED, "") },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// openSources names the sources of bind mounts by file descriptor, so that they
// are found even after something was mounted over the way to them.
func openSources(s *spec) error {
	paths := []*string{&s.Dir, &s.Binary}
	for i := range s.Binds {
		paths = append(paths, &s.Binds[i].From)
	}
	for _, path := range paths {
		fd, err := unix.Open(*path, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open %s: %w", *path, err)
		}
		*path = fmt.Sprintf("/proc/self/fd/%d", fd)
	}
	return nil
}

// bind mounts the host's directories and the binary under test.
func bind(s spec) error {
	target := filepath.Join(s.Dir, "bin", "skiff")
	if err := touch(target); err != nil {
		return err
	}
	if err := mount(s.Binary, target, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	if err := mount(filepath.Join(s.Dir, "bin"), "/usr/local/bin", "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	for to, sub := range privateDirs {
		if err := mount(filepath.Join(s.Dir, sub), to, "", unix.MS_BIND, ""); err != nil {
			return err
		}
	}
	return nil
}

// mountExtras mounts what the test has asked for.
func mountExtras(s spec) error {
	for _, b := range s.Binds {
		info, err := os.Stat(b.From)
		if err != nil {
			return err
		}
		if info.IsDir() {
			err = os.MkdirAll(b.To, 0o755)
		} else if err = os.MkdirAll(filepath.Dir(b.To), 0o755); err == nil {
			err = touch(b.To)
		}
		if err != nil {
			return err
		}
		if err := mount(b.From, b.To, "", unix.MS_BIND, ""); err != nil {
			return err
		}
		if b.ReadOnly {
			if err := mount("", b.To, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
				return err
			}
		}
	}
	for _, m := range s.Tmpfs {
		if err := os.MkdirAll(m.Path, 0o755); err != nil {
			return err
		}
		if err := mount("tmpfs", m.Path, "tmpfs", 0, "mode=755,size="+m.Size); err != nil {
			return err
		}
	}
	return nil
}

// mountCgroups mounts each hierarchy of the machine again: in the host's cgroup
// namespace, its own cgroup is the root that shows.
func mountCgroups(all []hierarchy) error {
	unified := len(all) == 1 && all[0].Type == "cgroup2"
	if !unified {
		if err := mount("tmpfs", "/sys/fs/cgroup", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
			return err
		}
	}
	for _, h := range all {
		if err := os.MkdirAll(h.Mount, 0o755); err != nil {
			return err
		}
		if err := mount(h.Type, h.Mount, h.Type, unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, h.Options); err != nil {
			return err
		}
	}
	if unified {
		return leaveRootCgroup(all[0].Mount)
	}
	return nil
}

// leaveRootCgroup does what a container's init has to do on cgroup v2, where
// only leaves may hold processes once controllers are handed down.
func leaveRootCgroup(root string) error {
	leaf := filepath.Join(root, "init")
	if err := os.Mkdir(leaf, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := os.WriteFile(filepath.Join(leaf, "cgroup.procs"), []byte("0"), 0o644); err != nil {
		return fmt.Errorf("leave the root cgroup: %w", err)
	}
	return handDown(root)
}

// handDown enables in a v2 cgroup's children all controllers it has itself.
func handDown(dir string) error {
	have, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return err
	}
	for controller := range strings.FieldsSeq(string(have)) {
		// One by one: a controller that cannot be handed down (rdma, misc) is no loss.
		_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+controller), 0o644)
	}
	return nil
}

func mount(source, target, kind string, flags uintptr, data string) error {
	if err := unix.Mount(source, target, kind, flags, data); err != nil {
		return fmt.Errorf("mount %s (%s %s) on %s: %w", source, kind, data, target, err)
	}
	return nil
}

func touch(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}
