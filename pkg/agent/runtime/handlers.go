package runtime

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// handler is a runtime that pods may ask for by a RuntimeClass.
type handler struct {
	Name   string // of the handler, and of the RuntimeClass
	Type   string // which shim runs it
	Binary string // for the shim of runc: the program that makes containers
}

// runcShim runs every program with runc's command line.
const runcShim = "io.containerd.runc.v2"

// likeRunc are programs with runc's command line, by the handler's name.
var likeRunc = []struct{ name, program string }{
	{"crun", "crun"},
	{"youki", "youki"},
	{"nvidia", "nvidia-container-runtime"},
	{"nvidia-cdi", "nvidia-container-runtime.cdi"},
}

// shimName takes the name of a shim apart: "containerd-shim-spin-v2" is
// "io.containerd.spin.v2" to containerd, which looks for it in PATH.
var shimName = regexp.MustCompile(`^containerd-shim-([a-z0-9]+)-v(\d+)$`)

// findRuntimes looks for further runtimes in PATH; own is where skiff's
// programs are. They are sorted by name, and none is called runc.
func findRuntimes(own, path string) []handler {
	found := map[string]handler{}
	for _, dir := range filepath.SplitList(path) {
		if dir == "" || filepath.Clean(dir) == filepath.Clean(own) {
			continue
		}
		for _, k := range likeRunc {
			if _, ok := found[k.name]; !ok && executable(filepath.Join(dir, k.program)) {
				found[k.name] = handler{k.name, runcShim, filepath.Join(dir, k.program)}
			}
		}
		shims, err := filepath.Glob(filepath.Join(dir, "containerd-shim-*-v*"))
		if err != nil {
			continue // The pattern is broken by a strange name of dir.
		}
		for _, file := range shims {
			m := shimName.FindStringSubmatch(filepath.Base(file))
			if m == nil || m[1] == "runc" || !executable(file) {
				continue
			}
			if _, ok := found[m[1]]; !ok {
				found[m[1]] = handler{Name: m[1], Type: "io.containerd." + m[1] + ".v" + m[2]}
			}
		}
	}
	var out []handler
	for _, h := range found {
		out = append(out, h)
	}
	slices.SortFunc(out, func(a, b handler) int { return strings.Compare(a.Name, b.Name) })
	return out
}

func executable(file string) bool {
	info, err := os.Stat(file)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// chooseRuntime checks what the user wants to be the default.
func chooseRuntime(asked string, found []handler) (string, error) {
	names := []string{"runc"}
	for _, h := range found {
		names = append(names, h.Name)
	}
	switch {
	case asked == "":
		return "runc", nil
	case slices.Contains(names, asked):
		return asked, nil
	}
	return "", fmt.Errorf("invalid --default-runtime %q: not found in PATH; there are: %s", asked, strings.Join(names, ", "))
}
