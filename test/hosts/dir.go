package hosts

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// mark is in the name of everything the harness leaves on the machine: the
// reaper touches nothing else.
const mark = "skiff-test"

// privateDirs maps a host's own directories to their place below its dir. They
// survive a power cut, as a disk does; /run does not.
var privateDirs = map[string]string{
	"/etc":     "etc",
	"/var/lib": "lib",
	"/var/log": "log",
	"/tmp":     "tmp",
}

// baseDir holds the directories of all hosts. It is on the disk and not on a
// tmpfs, or durability tests would test nothing. SKIFF_TEST_DIR moves it.
func baseDir() string {
	if dir := os.Getenv("SKIFF_TEST_DIR"); dir != "" {
		return dir
	}
	return filepath.Join("/var/tmp", mark)
}

// makeDir makes the host's directory, locked for as long as this process lives.
func (h *host) makeDir() error {
	h.dir = filepath.Join(baseDir(), h.id)
	for _, sub := range []string{"lib", "log", "tmp", "etc", "bin"} {
		if err := os.MkdirAll(filepath.Join(h.dir, sub), 0o755); err != nil {
			return err
		}
	}
	if err := os.Chmod(filepath.Join(h.dir, "tmp"), 0o1777); err != nil {
		return err
	}
	lock, err := os.Create(filepath.Join(h.dir, "lock"))
	if err != nil {
		return err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	h.lock = lock
	return h.makeEtc()
}

// makeEtc writes a small /etc: what libc and a node need, and nothing of the
// machine's own configuration.
func (h *host) makeEtc() error {
	etc := filepath.Join(h.dir, "etc")
	files := map[string]string{
		"hostname":    h.name + "\n",
		"hosts":       "127.0.0.1 localhost\n::1 localhost\n127.0.1.1 " + h.name + "\n",
		"machine-id":  fmt.Sprintf("%032x\n", time.Now().UnixNano()+counter.Add(1)),
		"resolv.conf": "# no resolver\n",
		"mtab":        "",
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(etc, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	for _, name := range []string{"passwd", "group", "nsswitch.conf", "protocols", "services", "ld.so.cache", "os-release"} {
		b, err := os.ReadFile(filepath.Join("/etc", name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(etc, name), b, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// removeDir removes a host's directory. Mounts of dead namespaces may hold it
// for a moment.
func removeDir(dir string) error {
	var err error
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if err = os.RemoveAll(dir); err == nil {
			return nil
		}
	}
	return err
}

// Reap removes what test processes that died without cleaning up have left:
// directories that nobody holds locked any more, and the cgroups of the same
// name. Hosts of living test processes are not touched.
func Reap() error {
	entries, err := os.ReadDir(baseDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		dir := filepath.Join(baseDir(), e.Name())
		lock, err := os.Open(filepath.Join(dir, "lock"))
		if err != nil || strings.HasPrefix(e.Name(), "keep-") {
			continue // not a host's directory, or kept on purpose
		}
		if syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			errs = append(errs, removeCgroups(e.Name()), removeDir(dir))
		}
		_ = lock.Close()
	}
	return errors.Join(errs...)
}
