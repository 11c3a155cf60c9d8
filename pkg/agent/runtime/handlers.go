package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// handler is a runtime that pods may ask for by a RuntimeClass.
type handler struct {
	Name   string // of the handler, and of the RuntimeClass
	Type   string // which shim runs it
	Binary string // for the shim of runc: the program that makes containers
	Asked  bool   // whether the program must know the command features
}

// runcShim runs every program with runc's command line.
const runcShim = "io.containerd.runc.v2"

// likeRunc are programs with runc's command line, by the handler's name. Those
// that are runtimes themselves can be asked what they are able to do.
var likeRunc = []struct {
	name, program string
	asked         bool
}{
	{"crun", "crun", true},
	{"youki", "youki", true},
	{"nvidia", "nvidia-container-runtime", false},
	{"nvidia-cdi", "nvidia-container-runtime.cdi", false},
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
				found[k.name] = handler{k.name, runcShim, filepath.Join(dir, k.program), k.asked}
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

// usableRuntimes are those found in PATH that understand containerd. Debian 12
// has a crun, for one, that refuses every container.
func (r *Runtime) usableRuntimes(ctx context.Context) []handler {
	return slices.DeleteFunc(findRuntimes(r.Layout.Bin(), r.Path), func(h handler) bool {
		note := "runtime/" + h.Name
		err := checkFeatures(ctx, h)
		if err == nil {
			r.Notes.Clear(note)
			return false
		}
		if ctx.Err() == nil {
			r.Logger.Warn("runtime not used", "runtime", h.Name, "file", h.Binary, "error", err)
			r.Notes.Set(note, fmt.Sprintf("%s is not used as a runtime: %v; install a newer one and restart skiff", h.Binary, err))
		}
		return true
	})
}

// featuresTimeout is how long a runtime gets to say what it is able to do.
const featuresTimeout = 10 * time.Second

// checkFeatures asks for the runtime's features: the command is younger than
// the version of the specification that containerd writes into every container.
//
// Source: github.com/opencontainers/runtime-spec, features.md.
func checkFeatures(ctx context.Context, h handler) error {
	if !h.Asked {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, featuresTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, h.Binary, "features").Output()
	if err != nil {
		return fmt.Errorf("it is too old for containerd 2: it has no command features (%w)", err)
	}
	var f struct{ OCIVersionMax string }
	if err := json.Unmarshal(out, &f); err != nil {
		return fmt.Errorf("its command features prints no JSON: %w", err)
	}
	if f.OCIVersionMax == "" {
		return errors.New("its command features names no version of the OCI specification")
	}
	return nil
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
