package halt

import (
	"bytes"
	"context"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"skiff/internal/backoff"
	"skiff/pkg/hostchange"
)

// Kill ends at once whatever containers and what looks after them still run. It
// is called when skiff itself has been stopped. What containerd says of them is
// not asked for, since it need not run: the directories in which it keeps what
// its shims must know say enough.
func (h *Halt) Kill(ctx context.Context) error {
	all, err := h.bundles()
	if err != nil {
		return err
	}
	// First those who would do something about what is killed next.
	errs := []error{h.killHelpers(ctx)}
	if len(all) > 0 {
		h.Say("ending %d containers", len(all))
	}
	for _, b := range all {
		if path := b.cgroup(); path != "" {
			errs = append(errs, hostchange.EndCgroup(ctx, path))
		}
		errs = append(errs, removeShaper(b.id))
	}
	return errors.Join(errs...)
}

// bundle is a container as its shim knows it.
type bundle struct {
	id     string
	config struct {
		Linux struct {
			CgroupsPath string `json:"cgroupsPath"`
		} `json:"linux"`
	}
}

func (h *Halt) bundles() ([]bundle, error) {
	dirs, err := filepath.Glob(filepath.Join(h.Layout.ContainerdRun(), "io.containerd.runtime.v2.task", "*", "*"))
	if err != nil {
		return nil, fmt.Errorf("find containers: %w", err)
	}
	var out []bundle
	for _, dir := range dirs {
		b := bundle{id: filepath.Base(dir)}
		data, err := os.ReadFile(filepath.Join(dir, "config.json"))
		if err == nil {
			err = json.Unmarshal(data, &b.config)
		}
		if err != nil {
			continue // It is being made, or removed: its shim is found below.
		}
		out = append(out, b)
	}
	return out, nil
}

// cgroup is the path of the container's control group. systemd's way of naming
// it, "slice:prefix:name", has the slice removed as a whole.
func (b bundle) cgroup() string {
	if path := b.config.Linux.CgroupsPath; strings.HasPrefix(path, "/") && filepath.Clean(path) != "/" {
		return filepath.Clean(path)
	}
	return ""
}

// killHelpers kills containerd and its shims, and waits until they are gone.
func (h *Halt) killHelpers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, killLimit)
	defer cancel()
	again := backoff.Sequence{Min: time.Millisecond, Max: 50 * time.Millisecond}
	for {
		var alive []string
		for _, pid := range h.helpers() {
			if err := unix.Kill(pid, unix.SIGKILL); err == nil {
				alive = append(alive, strconv.Itoa(pid))
			}
		}
		if len(alive) == 0 {
			return nil
		}
		if again.Wait(ctx) != nil {
			return fmt.Errorf("processes %s of containerd have been killed and are not gone after %s", strings.Join(alive, ", "), killLimit)
		}
	}
}

// helpers are the processes of containerd and its shims, by their arguments: the
// paths in these are nobody else's.
func (h *Halt) helpers() []int {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil
	}
	var out []int
	for _, file := range files {
		data, err := os.ReadFile(file)
		pid, numberErr := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil || numberErr != nil || pid == os.Getpid() {
			continue
		}
		if h.isHelper(strings.Split(string(bytes.TrimRight(data, "\x00")), "\x00")) {
			out = append(out, pid)
		}
	}
	return out
}

func (h *Halt) isHelper(args []string) bool {
	name := filepath.Base(args[0])
	follows := func(flag, value string) bool {
		i := slices.Index(args, flag)
		return i >= 0 && i+1 < len(args) && args[i+1] == value
	}
	return strings.HasPrefix(name, "containerd-shim") && follows("-address", h.Layout.ContainerdSocket()) ||
		name == "containerd" && follows("-c", h.Layout.ContainerdConfig())
}

// network is the name of the pod network in its CNI configuration.
const network = "cbr0"

// removeShaper removes the interface by which the bandwidth plug-in limits what
// a pod sends. It alone is not in the pod, and does not go with it.
//
// Source: github.com/containernetworking/plugins, plugins/meta/bandwidth/main.go
// (getIfbDeviceName) and pkg/utils/utils.go.
func removeShaper(id string) error {
	sum := sha512.Sum512([]byte(network + id))
	name := ("bwp" + hex.EncodeToString(sum[:]))[:15]
	link, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove interface %s: %w", name, err)
	}
	return nil
}
