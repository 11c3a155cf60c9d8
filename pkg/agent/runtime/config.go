package runtime

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	goruntime "runtime"

	"github.com/pelletier/go-toml/v2"

	"skiff/pkg/paths"
)

// config is what skiff decides about containerd; marshal turns it into
// config.toml. Everything else is containerd's default.
//
// Source: github.com/containerd/containerd/v2, internal/cri/config/config.go
// and docs/cri/config.md.
type config struct {
	Layout        paths.Layout
	Snapshotter   string
	PauseImage    string
	SystemdCgroup bool
	RestrictOOM   bool // no CAP_SYS_RESOURCE: containers cannot be better protected from the OOM killer than we are
	SystemCNI     bool
	Debug         bool
	Tokens        map[string]string // identity tokens by registry host
	Runtimes      []handler         // besides runc
	// DefaultRuntime is one of Runtimes, or runc.
	DefaultRuntime string
	DropIns        []string // files to merge
}

// table is a TOML table; go-toml writes its keys in order.
type table = map[string]any

// disabledPlugins are compiled in for other uses of containerd, or by another
// build of skiff, and would cost memory, start-up time or disk access.
func disabledPlugins() []string {
	return []string{
		"io.containerd.image-verifier.v1.bindir",
		"io.containerd.internal.v1.restart",
		"io.containerd.internal.v1.tracing",
		"io.containerd.monitor.container.v1.restart",
		// Collects Prometheus metrics per container that nobody scrapes.
		"io.containerd.monitor.task.v1.cgroups",
		"io.containerd.nri.v1.nri",
		"io.containerd.snapshotter.v1.blockfile",
		"io.containerd.snapshotter.v1.btrfs",
		"io.containerd.snapshotter.v1.devmapper",
		"io.containerd.snapshotter.v1.erofs",
		"io.containerd.snapshotter.v1.zfs",
		"io.containerd.tracing.processor.v1.otlp",
	}
}

// marshal renders config.toml in format version 3, which is what drop-ins are
// written in too.
func (c config) marshal() ([]byte, error) {
	level := "info"
	if c.Debug {
		level = "debug"
	}
	root := table{
		"version":          3,
		"root":             c.Layout.Containerd(),
		"state":            c.Layout.ContainerdRun(),
		"temp":             filepath.Join(c.Layout.Containerd(), "tmp"),
		"disabled_plugins": disabledPlugins(),
		"imports":          append([]string{}, c.DropIns...),
		"grpc":             table{"address": c.Layout.ContainerdSocket()},
		"ttrpc":            table{"address": c.Layout.ContainerdSocket() + ".ttrpc"},
		"debug":            table{"level": level, "format": "text"},
		"plugins": table{
			"io.containerd.cri.v1.images":     c.images(),
			"io.containerd.cri.v1.runtime":    c.runtime(),
			"io.containerd.grpc.v1.cri":       c.server(),
			"io.containerd.transfer.v1.local": c.transfer(),
			"io.containerd.shim.v1.manager":   c.shims(),
		},
	}
	if !c.RestrictOOM {
		root["oom_score"] = -999
	}
	data, err := toml.Marshal(root)
	if err != nil {
		return nil, fmt.Errorf("render containerd configuration: %w", err)
	}
	const head = "# Written by skiff at every start. Put changes into *.toml files in\n# %s\n\n"
	return append(fmt.Appendf(nil, head, c.Layout.ContainerdDropIns()), data...), nil
}

func (c config) images() table {
	registry := table{"config_path": c.Layout.Certs()}
	if len(c.Tokens) > 0 {
		// hosts.toml cannot carry identity tokens, so they are in the one
		// place the CRI looks for them.
		configs := table{}
		for host, token := range c.Tokens {
			configs[host] = table{"auth": table{"identitytoken": token}}
		}
		registry["configs"] = configs
	}
	return table{
		"snapshotter": c.Snapshotter,
		// Never needed by the overlay and native snapshotters, and its
		// default would switch the CRI to the old way of pulling.
		"disable_snapshot_annotations": true,
		"pinned_images":                table{"sandbox": c.PauseImage},
		"registry":                     registry,
		"image_pull_progress_timeout":  "5m0s",
		// Seconds between walks over all snapshots; the default of 10 keeps
		// an SD card awake.
		"stats_collect_period": 60,
	}
}

func (c config) runtime() table {
	bin, conf := []string{c.Layout.Bin()}, c.Layout.CNIConf()
	if c.SystemCNI {
		bin, conf = []string{paths.SystemCNIBin, c.Layout.Bin()}, paths.SystemCNIConf
	}
	return table{
		"restrict_oom_score_adj":                 c.RestrictOOM,
		"device_ownership_from_security_context": true,
		// Everything of ours below one directory, not in places that another
		// containerd or a person with ip(8) uses.
		"netns_mounts_under_state_dir": true,
		// The kubelet asks for CPU use every 10 s.
		"stats_collect_period": "10s",
		"cni":                  table{"bin_dirs": bin, "conf_dir": conf},
		"containerd": table{
			"default_runtime_name": c.DefaultRuntime,
			"runtimes":             c.runtimes(),
		},
	}
}

func (c config) runtimes() table {
	all := append([]handler{{Name: "runc", Type: runcShim, Binary: filepath.Join(c.Layout.Bin(), "runc")}}, c.Runtimes...)
	out := table{}
	for _, h := range all {
		t := table{"runtime_type": h.Type}
		if h.Type == runcShim {
			t["options"] = table{"BinaryName": h.Binary, "SystemdCgroup": c.SystemdCgroup, "Root": c.Layout.Runc()}
		}
		out[h.Name] = t
	}
	return out
}

// longestShims is the longest name of a directory that containerd takes for its
// shims' sockets, whose own names are long.
const longestShims = 38

// shims is about the processes that look after containers.
func (c config) shims() table {
	if dir := c.Layout.Shims(); len(dir) <= longestShims {
		return table{"socket_dir": dir}
	}
	return table{}
}

// server is about streaming (exec, attach, port-forward), which the kubelet
// proxies: it stays on the loopback interface, on a port of the kernel's choice.
func (c config) server() table {
	return table{
		"disable_tcp_service":   true,
		"stream_server_address": "127.0.0.1",
		"stream_server_port":    "0",
		"stream_idle_timeout":   "4h0m0s",
	}
}

func (c config) transfer() table {
	t := table{
		"max_concurrent_downloads": 3,
		"config_path":              c.Layout.Certs(),
	}
	if c.Snapshotter != "overlayfs" {
		t["unpack_config"] = []table{{
			"platform":    "linux/" + goruntime.GOARCH,
			"snapshotter": c.Snapshotter,
			"differ":      "walking",
		}}
	}
	return t
}

// ConfiguredSnapshotter is the snapshotter that the containerd of this host
// was last started with.
func ConfiguredSnapshotter(layout paths.Layout) (string, error) {
	data, err := os.ReadFile(layout.ContainerdConfig())
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("there is no %s: skiff has not run here as a node", layout.ContainerdConfig())
	}
	if err != nil {
		return "", fmt.Errorf("read containerd configuration: %w", err)
	}
	var c struct {
		Plugins map[string]struct {
			Snapshotter string `toml:"snapshotter"`
		} `toml:"plugins"`
	}
	if err := toml.Unmarshal(data, &c); err != nil {
		return "", fmt.Errorf("read containerd configuration %s: %w", layout.ContainerdConfig(), err)
	}
	if s := c.Plugins["io.containerd.cri.v1.images"].Snapshotter; s != "" {
		return s, nil
	}
	return "", fmt.Errorf("containerd configuration %s names no snapshotter", layout.ContainerdConfig())
}
