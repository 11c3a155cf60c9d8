// Package runtime runs containerd as a child process and keeps its
// configuration: config.toml, written at every start, and the per-registry
// hosts.toml files made from registries.yaml. It knows nothing about
// Kubernetes beyond the CRI. Start reading at Runtime; config.go renders.
package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"skiff/internal/atomicfile"
	"skiff/internal/filewatch"
	"skiff/internal/signal"
	"skiff/pkg/component"
	"skiff/pkg/paths"
	"skiff/pkg/process"
)

// stopTimeout is how long containerd gets to end by itself. Pods are not
// touched: their shims are processes of their own.
const stopTimeout = 5 * time.Second

// Notes is where the reader of `skiff status` is told what was left out.
type Notes interface {
	Set(key, message string)
	Clear(key string)
}

// Runtime is containerd. Its exported fields must not change once Run has been
// called.
type Runtime struct {
	Layout        paths.Layout
	Snapshotter   string // "auto", "overlayfs" or "native"
	PauseImage    string // name of the sandbox image
	SystemdCgroup bool   // containers' cgroups are made by systemd
	RestrictOOM   bool   // this process may not lower anybody's oom_score_adj
	SystemCNI     bool   // the network is the user's business: look where plug-ins install themselves
	Registries    string // path of registries.yaml; it may not exist
	Debug         bool
	Path          string // value of PATH for containerd, without Layout.Bin; runtimes are looked for there
	// NoDefaultEndpoint keeps registries that have mirrors from being asked
	// themselves.
	NoDefaultEndpoint bool
	// DefaultRuntime is what runs pods that name no RuntimeClass; "" is runc.
	DefaultRuntime string
	Notes          Notes
	Logger         *slog.Logger
	// Command makes the process; nil means process.Self.
	Command func(name string, args ...string) *process.Process

	snapshotter atomic.Pointer[string] // what "auto" came to

	// Of Run's goroutine: the file as it was when it last made sense, the
	// drop-ins of containerd's configuration that do, and the runtimes in PATH.
	good     *registries
	dropIns  []string
	runtimes []handler

	mu   sync.Mutex
	conn *grpc.ClientConn // guarded by mu; nil until it is needed, and after each Run
}

var (
	_ component.Component = (*Runtime)(nil)
	_ component.Readier   = (*Runtime)(nil)
)

// Name implements component.Component.
func (r *Runtime) Name() string { return "containerd" }

// Run implements component.Component. It restarts containerd when
// registries.yaml changes in a way that containerd reads only at its start.
func (r *Runtime) Run(ctx context.Context) error {
	if err := r.prepare(); err != nil {
		return err
	}
	defer r.close()
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	changes := signal.New()
	if r.Registries != "" {
		wg.Go(func() { filewatch.Run(ctx, []string{r.Registries}, r.Logger, changes.Send) })
	}
	r.dropIns, r.runtimes = r.usableDropIns(ctx), r.usableRuntimes(ctx)
	for {
		cfg, err := r.writeConfig()
		if err != nil {
			return err
		}
		again, err := r.serve(ctx, cfg, changes)
		if !again {
			return err
		}
		r.Logger.Info("restarting containerd: an identity token in the registry configuration changed; pods keep running")
	}
}

// serve runs one containerd until ctx ends, it fails, or its configuration is
// no longer what cfg says; then again is true.
func (r *Runtime) serve(ctx context.Context, cfg []byte, changes <-chan struct{}) (again bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	child := r.process()
	go func() { done <- child.Run(ctx) }()
	for {
		select {
		case err := <-done:
			return false, err
		case <-changes:
		}
		next, err := r.render()
		if err != nil {
			// The old configuration stays in force.
			r.Logger.Error("registry configuration not applied", "file", r.Registries, "error", err)
			continue
		}
		if string(next) == string(cfg) {
			continue
		}
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			return false, err
		}
		return true, nil
	}
}

func (r *Runtime) process() *process.Process {
	command := r.Command
	if command == nil {
		command = process.Self
	}
	p := command("containerd", "-c", r.Layout.ContainerdConfig())
	p.Env = r.environ(os.Environ())
	p.Logger = r.Logger
	p.LogParse = parseLog
	p.StopTimeout = stopTimeout
	return p
}

// environ is skiff's environment with the staged executables first in PATH,
// where containerd finds its shim. The heap is collected early: what lives on
// containerd's heap is some 10 MiB, and the default would let it double for
// nothing. CONTAINERD_NAME=value in skiff's environment is NAME=value in
// containerd's, and wins, as in K3s.
func (r *Runtime) environ(skiffs []string) []string {
	path := r.Layout.Bin()
	if r.Path != "" {
		path += string(os.PathListSeparator) + r.Path
	}
	env := map[string]string{}
	for _, kv := range skiffs {
		name, value, _ := strings.Cut(kv, "=")
		env[name] = value
	}
	env["PATH"], env["GOGC"] = path, "50"
	for name, value := range env {
		if short, ok := strings.CutPrefix(name, "CONTAINERD_"); ok && short != "" && short != "PATH" {
			env[short] = value
		}
	}
	// READY is skiff's to say, not containerd's.
	delete(env, "NOTIFY_SOCKET")
	list := make([]string, 0, len(env))
	for name, value := range env {
		list = append(list, name+"="+value)
	}
	slices.Sort(list)
	return list
}

// prepare makes the directories that containerd and its shims need.
func (r *Runtime) prepare() error {
	for _, dir := range []string{
		r.Layout.Containerd(), r.Layout.ContainerdRun(), r.Layout.Certs(),
		r.Layout.ContainerdDropIns(), r.Layout.CNIConf(),
	} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("prepare containerd: %w", err)
		}
	}
	return nil
}

func (r *Runtime) writeConfig() ([]byte, error) {
	data, err := r.render()
	if err != nil {
		return nil, err
	}
	if err := atomicfile.Write(r.Layout.ContainerdConfig(), data, 0o600); err != nil {
		return nil, fmt.Errorf("write containerd configuration: %w", err)
	}
	return data, nil
}

// render writes the hosts.toml files and returns the text of config.toml.
func (r *Runtime) render() ([]byte, error) {
	reg, err := r.registries()
	if err != nil {
		return nil, err
	}
	if err := reg.writeHosts(r.Layout.Certs()); err != nil {
		return nil, err
	}
	snapshotter, err := chooseSnapshotter(r.Snapshotter, r.Layout.Containerd(), r.Logger)
	if err != nil {
		return nil, err
	}
	r.snapshotter.Store(&snapshotter)
	def, err := chooseRuntime(r.DefaultRuntime, r.runtimes)
	if err != nil {
		return nil, err
	}
	return config{
		Layout:         r.Layout,
		Snapshotter:    snapshotter,
		PauseImage:     r.PauseImage,
		SystemdCgroup:  r.SystemdCgroup,
		RestrictOOM:    r.RestrictOOM,
		SystemCNI:      r.SystemCNI,
		Debug:          r.Debug,
		Tokens:         reg.tokens(),
		Runtimes:       r.runtimes,
		DefaultRuntime: def,
		DropIns:        r.dropIns,
	}.marshal()
}

// noteRegistries is the key of the note on registries.yaml.
const noteRegistries = "registries"

// registries is what registries.yaml says, or said when it last made sense, in
// an earlier process perhaps.
func (r *Runtime) registries() (*registries, error) {
	reg, err := loadRegistries(r.Registries)
	if err == nil {
		reg.NoDefault = r.NoDefaultEndpoint
		if r.good == nil || !reflect.DeepEqual(r.good, reg) {
			r.Logger.Info("registry configuration applied", "file", r.Registries)
		}
		r.Notes.Clear(noteRegistries)
		r.good = reg
		return reg, r.keepRegistries()
	}
	r.Logger.Error("registry configuration not applied; the last good one stays in force", "error", err)
	r.Notes.Set(noteRegistries, err.Error()+"; the last good one stays in force")
	if r.good != nil {
		return r.good, nil
	}
	if r.good, err = loadRegistries(r.Layout.GoodRegistries()); err != nil {
		r.Logger.Error("the last good registry configuration cannot be used either; there is none", "error", err)
		r.good = &registries{}
	}
	r.good.NoDefault = r.NoDefaultEndpoint
	return r.good, nil
}

// keepRegistries remembers a file that makes sense for a start when it does not.
func (r *Runtime) keepRegistries() error {
	kept := r.Layout.GoodRegistries()
	data, err := os.ReadFile(r.Registries)
	if r.Registries == "" || errors.Is(err, fs.ErrNotExist) {
		if err := os.Remove(kept); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("forget registry configuration: %w", err)
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("keep registry configuration: %w", err)
	}
	if old, err := os.ReadFile(kept); err == nil && string(old) == string(data) {
		return nil
	}
	if err := atomicfile.Write(kept, data, 0o600); err != nil {
		return fmt.Errorf("keep registry configuration: %w", err)
	}
	return nil
}

// Ready implements component.Readier: the CRI answers, and says that the
// runtime itself is ready. The pod network is not asked for here: it comes
// later, and pods on the host network do without.
func (r *Runtime) Ready(ctx context.Context) error {
	if _, err := os.Stat(r.Layout.ContainerdSocket()); err != nil {
		return fmt.Errorf("socket %s is not there yet", r.Layout.ContainerdSocket())
	}
	conn, err := r.dial()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	status, err := cri.NewRuntimeServiceClient(conn).Status(ctx, &cri.StatusRequest{})
	if err != nil {
		return fmt.Errorf("ask the CRI for its status: %w", err)
	}
	for _, c := range status.GetStatus().GetConditions() {
		if c.Type == cri.RuntimeReady && !c.Status {
			return fmt.Errorf("the runtime is not ready: %s: %s", c.Reason, c.Message)
		}
	}
	return nil
}

// ChosenSnapshotter is the snapshotter that images are unpacked for. It is
// known once containerd has been ready.
func (r *Runtime) ChosenSnapshotter() string {
	if s := r.snapshotter.Load(); s != nil {
		return *s
	}
	return ""
}

// Endpoint is the CRI endpoint for the kubelet.
func (r *Runtime) Endpoint() string { return "unix://" + r.Layout.ContainerdSocket() }

func (r *Runtime) dial() (*grpc.ClientConn, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conn != nil {
		return r.conn, nil
	}
	// gRPC insists on three slashes.
	path, err := filepath.Abs(r.Layout.ContainerdSocket())
	if err != nil {
		return nil, fmt.Errorf("dial containerd: %w", err)
	}
	conn, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, fmt.Errorf("dial containerd: %w", err)
	}
	r.conn = conn
	return conn, nil
}

func (r *Runtime) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conn == nil {
		return
	}
	if err := r.conn.Close(); err != nil {
		r.Logger.Debug("close connection to containerd", "error", err)
	}
	r.conn = nil
}
