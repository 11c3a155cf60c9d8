package archtest

// layers are the import layers, lowest first: a package may import packages of
// its own layer and below. The first entry that matches counts, and a package
// that matches none fails the test, so that a new one gets its place.
var layers = []struct {
	name  string
	level int
	pkgs  []string
}{
	{"ground", 0, []string{"pkg/paths", "pkg/log", "pkg/version", "internal", "manifests"}},
	{"parts", 1, []string{
		"pkg/component", "pkg/process", "pkg/payload", "pkg/applet", "pkg/pki", "pkg/token", "pkg/config",
		"pkg/tunnel", "pkg/preflight", "pkg/status", "pkg/notify", "pkg/clock", "pkg/address",
		"pkg/release", "pkg/upgrade", "pkg/support", "pkg/doctor", "pkg/inventory",
		"pkg/hostchange", "pkg/halt", "pkg/removal",
	}},
	{"cluster", 2, []string{"pkg/kube", "pkg/leader", "pkg/join", "pkg/deploy", "pkg/datastore", "pkg/snapshot", "pkg/k3s"}},
	{"components", 3, []string{"pkg/server/...", "pkg/agent/..."}},
	{"composition", 4, []string{"pkg/server", "pkg/agent"}},
	{"management", 5, []string{"pkg/manage"}},
	{"command", 6, []string{"pkg/cli", "cmd"}},
	{"outside", 7, []string{"test", "payload", "scripts", "tools", "web"}},
}

// leaves are imported by nobody but those named.
var leaves = map[string][]string{
	"pkg/cli":    {"cmd"},
	"pkg/manage": {"cmd"},
	"test":       {"test"},
	// Test code never comes from product code.
	"internal/testkit": {"test"},
}

// foreign says which packages may import a library, or what is below it, with
// the reason that a failure shows. A library that is named twice is restricted
// by the longest entry.
var foreign = []struct {
	library string
	by      []string
	why     string
}{
	{"github.com/urfave/cli", []string{"pkg/cli", "test"}, "the command line is a leaf: options belong in pkg/config"},
	{"os/exec", []string{"pkg/process", "pkg/agent/runtime", "test", "payload"}, "children are supervised: use pkg/process"},
	{"k8s.io/kubernetes", []string{"pkg/kube", "pkg/server", "pkg/agent", "pkg/cli", "test"}, "Kubernetes itself stays above layer 1"},
	{"k8s.io/kubernetes/cmd", []string{"pkg/server/...", "pkg/agent/...", "pkg/kube"}, "upstream's commands belong in one component each"},
	{"k8s.io/client-go", []string{"pkg/kube", "pkg/leader", "pkg/join", "pkg/deploy", "pkg/server", "pkg/agent", "pkg/manage", "pkg/cli", "pkg/applet", "test"}, "API clients start at layer 2"},
	{"github.com/k3s-io/kine", []string{"pkg/datastore", "test"}, "the datastore is behind pkg/datastore"},
	{"github.com/mattn/go-sqlite3", []string{"pkg/datastore", "test"}, "the datastore is behind pkg/datastore"},
	{"github.com/containerd/containerd", []string{"pkg/agent", "pkg/cli", "pkg/applet", "cmd", "test"}, "containerd is the agent's"},
	{"github.com/containerd/containerd/v2/client", []string{"pkg/agent/runtime", "pkg/agent/images", "pkg/cli", "test"}, "containers are managed in pkg/agent/runtime and pkg/agent/images"},
	{"github.com/coredns", []string{"pkg/agent/dns"}, "cluster DNS is pkg/agent/dns"},
	{"helm.sh/helm", []string{"pkg/server/helm"}, "Helm is pkg/server/helm, with its globals and its memory"},
	{"oras.land/oras-go", []string{"pkg/server/helm"}, "registries of charts are pkg/server/helm"},
	{"sigs.k8s.io/gateway-api", []string{"pkg/agent/ingress/gateway", "test"}, "the Gateway API is pkg/agent/ingress/gateway"},
	{"aead.dev/minisign", []string{"pkg/release"}, "signatures are pkg/release"},
	{"sigs.k8s.io/knftables", []string{"pkg/agent/flannel", "pkg/agent/netpol/kernel"}, "tables are written in one place each"},
	{"github.com/flannel-io", []string{"pkg/agent/flannel"}, "flannel is pkg/agent/flannel"},
}

// calls are functions that may be called in the given packages only.
var calls = []struct {
	pkg, name string
	by        []string
	why       string
}{
	{"time", "Sleep", []string{"test"}, "wait on a condition that can say what it waits for"},
	{"os", "Exit", []string{"cmd", "test", "payload", "scripts"}, "return an error; cmd/skiff ends the process"},
	{"os", "Setenv", []string{"test"}, "the environment is global: pass a value"},
	{"os", "Unsetenv", []string{"test"}, "the environment is global: pass a value"},
	{"os", "Chdir", []string{"test"}, "the working directory is global: use whole paths"},
	{"log", "Fatal", []string{"cmd", "test", "payload"}, "return an error"},
	{"log", "Fatalf", []string{"cmd", "test", "payload"}, "return an error"},
	{"log", "Fatalln", []string{"cmd", "test", "payload"}, "return an error"},
	// http.ErrAbortHandler is net/http's only way to cut an answer short.
	{"", "panic", []string{"cmd", "test", "payload", "pkg/agent/ingress/edge"}, "return an error"},
	{"", "init", []string{}, "parts are listed, not self-registering"},
}

// roots of the file system that only pkg/paths spells. /proc, /sys and /dev
// are the kernel's, the same on every host, and not listed.
var roots = []string{
	"/bin/", "/boot/", "/etc/", "/home/", "/lib/", "/opt/", "/root/", "/run/", "/sbin/", "/tmp/", "/usr/", "/var/",
}

const maxLines = 400

// exceptions allow one file one thing. The key is "rule file", the value says
// why. An exception that is not needed any more fails the test.
var exceptions = map[string]string{
	"Setenv pkg/cli/environment.go":   "kube-proxy finds nft through PATH only; set once before any goroutine starts",
	"Unsetenv pkg/cli/environment.go": "the kubelet would tell systemd READY too early",
	"path pkg/agent/dns/corefile.go":  "a Corefile names its imports below /etc/coredns, as users know it; nothing is read there",
}

// pathExempt are packages whose string literals are not looked at, since they
// run elsewhere than in skiff.
var pathExempt = []string{"pkg/paths", "test", "payload", "scripts", "tools"}
