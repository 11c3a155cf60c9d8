// Package hosts runs the built skiff binary on hosts of its own: each Host is
// a set of network, mount, UTS, PID, IPC and cgroup namespaces with a private
// /etc, /run, /tmp, /var/lib and /var/log on an otherwise read-only root, so
// that several hosts fit on one machine and nothing a test does outlives it.
//
// It knows how to start processes, cut power and wire networks; it knows
// nothing of what a scenario checks. Start reading at New, then boot.go for
// what happens outside the namespaces and inside.go for what happens within.
package hosts

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
)

// T is the part of testing.TB that the harness needs. Programs that are not
// tests (bench, conformance) bring their own.
type T interface {
	Helper()
	Name() string
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Failed() bool
	Cleanup(func())
}

// Option changes how a Host is made.
type Option func(*settings)

// settings is what the options of New fill in.
type settings struct {
	name     string
	network  *Network
	loopback bool
	binds    []Bind
	tmpfs    []Tmpfs
	binary   string
}

// Bind shows a directory or file of the machine inside the host.
type Bind struct {
	From, To string
	ReadOnly bool
}

// Tmpfs is a small file system of its own inside the host.
type Tmpfs struct {
	Path string
	Size string // as in the size= mount option: "64m"
}

// Named sets the host name; the default is made from a counter.
func Named(name string) Option { return func(s *settings) { s.name = name } }

// On puts the host on an existing network instead of one of its own.
func On(n *Network) Option { return func(s *settings) { s.network = n } }

// LoopbackOnly gives the host no network interface but lo.
func LoopbackOnly() Option { return func(s *settings) { s.loopback = true } }

// WithBind shows a path of the machine inside the host.
func WithBind(b Bind) Option { return func(s *settings) { s.binds = append(s.binds, b) } }

// WithTmpfs mounts a small file system inside the host, to be filled up.
func WithTmpfs(m Tmpfs) Option { return func(s *settings) { s.tmpfs = append(s.tmpfs, m) } }

// WithBinary runs another executable than Binary as skiff.
func WithBinary(path string) Option { return func(s *settings) { s.binary = path } }

// Host is one machine. A Host handed to a subtest must be bound to it with For,
// so that a failure ends the subtest and not its parent.
type Host struct {
	t T
	*host
}

// host is what all bindings of a Host share.
type host struct {
	name     string
	id       string
	dir      string // what of the host lives on the machine's disk
	lock     *os.File
	settings settings
	network  *Network

	mu      sync.Mutex
	machine *machine // nil while the power is cut
	// All below is guarded by mu.
	skiff   *Process
	args    []string
	addrs   []netip.Addr     // of the NIC, IPv4 first; none while there is no NIC
	mac     net.HardwareAddr // of the NIC; does not change once it is set
	trouble trouble
}

// counter numbers the hosts and networks of one test process.
var counter atomic.Int64

// New makes a host and switches it on; the host is removed when the test ends.
// Nothing of skiff runs on it yet: see StartServer.
func New(t T, opts ...Option) *Host {
	t.Helper()
	var s settings
	for _, o := range opts {
		o(&s)
	}
	n := counter.Add(1)
	if s.name == "" {
		s.name = fmt.Sprintf("host%d", n)
	}
	if s.binary == "" {
		s.binary = Binary(t)
	}
	st := &host{name: s.name, id: fmt.Sprintf("%d-%d-%s", os.Getpid(), n, s.name), settings: s}
	if err := st.makeDir(); err != nil {
		t.Fatalf("make host %s: %v", s.name, err)
	}
	h := &Host{t: t, host: st}
	t.Cleanup(func() { h.remove() })
	if !s.loopback {
		st.network = s.network
		if st.network == nil {
			st.network = NewNetwork(t)
		}
	}
	h.boot()
	return h
}

// For binds the host to another (sub)test.
func (h *Host) For(t T) *Host { return &Host{t: t, host: h.host} }

// Name is the host's name, which is also its node's name.
func (h *Host) Name() string { return h.name }

// Addr is the address of the host's network interface, "" without one; of IPv4,
// if it has both.
func (h *Host) Addr() string {
	if addrs := h.addresses(); len(addrs) > 0 {
		return addrs[0].String()
	}
	return ""
}

// Addrs are the addresses of the host's network interface, one for each family,
// IPv4 first.
func (h *Host) Addrs() []string { return texts(h.addresses()) }

func (h *host) addresses() []netip.Addr {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.addrs
}

// Network is what the host is plugged into, nil while it has loopback only.
func (h *Host) Network() *Network { return h.network }

// Path turns a path below one of the host's private directories (/etc,
// /var/lib, /var/log, /tmp) into the path on the machine, where a test may
// read and write files without entering the host.
func (h *Host) Path(inside string) string {
	for prefix, dir := range privateDirs {
		if inside == prefix || strings.HasPrefix(inside, prefix+"/") {
			return filepath.Join(h.dir, dir, strings.TrimPrefix(inside, prefix))
		}
	}
	h.t.Fatalf("path %s is not in a private directory of the host", inside)
	return ""
}

// ReadFile reads a file of the host by the path it has there.
func (h *Host) ReadFile(inside string) string {
	h.t.Helper()
	b, err := os.ReadFile(h.Path(inside))
	if err != nil {
		h.t.Fatalf("read %s of %s: %v", inside, h.name, err)
	}
	return string(b)
}

// WriteFile writes a file of the host by the path it has there, by rename, and
// makes missing directories.
func (h *Host) WriteFile(inside, content string) {
	h.t.Helper()
	p := h.Path(inside)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		h.t.Fatalf("write %s of %s: %v", inside, h.name, err)
	}
	tmp := filepath.Join(h.dir, "tmp-write")
	if err := os.WriteFile(tmp, []byte(content), 0o644); err != nil {
		h.t.Fatalf("write %s of %s: %v", inside, h.name, err)
	}
	if err := os.Rename(tmp, p); err != nil {
		h.t.Fatalf("write %s of %s: %v", inside, h.name, err)
	}
}

// Binary is the skiff under test: $SKIFF_BIN, else bin/skiff at the top of the
// repository.
func Binary(t T) string {
	t.Helper()
	path := os.Getenv("SKIFF_BIN")
	if path == "" {
		path = filepath.Join(Root(t), "bin", "skiff")
	}
	abs, err := filepath.Abs(path)
	if err == nil {
		_, err = os.Stat(abs)
	}
	if err != nil {
		t.Fatalf("find the skiff to test: %v (run `make`, or set SKIFF_BIN)", err)
	}
	return abs
}

// Root is the top of the repository: the nearest directory upward with go.mod.
func Root(t T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatalf("find the repository: %v", err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		if filepath.Dir(dir) == dir {
			t.Fatalf("find the repository: no go.mod in or above the working directory")
		}
		dir = filepath.Dir(dir)
	}
}
