package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"skiff/test/hosts"
)

// belongings are one of each that a node runs. The first pod takes its time to
// end, and says so on its volume.
const belongings = `
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: polite, labels: {app: polite}}
spec:
  terminationGracePeriodSeconds: 20
  containers:
  - name: c
    image: IMAGE
    imagePullPolicy: Never
    command: [sh, -c, "trap 'sleep 1; echo bye >>/data/said; exit 0' TERM; while :; do sleep 0.1; done"]
    lifecycle: {preStop: {exec: {command: [sh, -c, "echo hook >>/data/said"]}}}
    volumeMounts: [{name: data, mountPath: /data}, {name: memory, mountPath: /memory}, {name: file, mountPath: /file, subPath: kube-root-ca.crt}]
  volumes:
  - {name: data, persistentVolumeClaim: {claimName: data}}
  - {name: memory, emptyDir: {medium: Memory}}
  - {name: file, configMap: {name: kube-root-ca.crt}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: c, image: IMAGE, imagePullPolicy: Never, command: [/tool, serve], ports: [{containerPort: 8080}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: port, labels: {app: port}}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: IMAGE, imagePullPolicy: Never, command: [/tool, serve], ports: [{containerPort: 8080, hostPort: 8081}]}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: balanced}
spec: {type: LoadBalancer, selector: {app: web}, ports: [{port: 8082, targetPort: 8080}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web}
spec: {rules: [{host: web.example, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web}
spec: {podSelector: {matchLabels: {app: web}}, ingress: [{}]}
`

// installed is where the installer puts the executable on these hosts.
const installed = "/tmp/bin/skiff"

// TestUninstall uses a machine for all that a node does, stops skiff in all
// ways, and takes it off again: nothing is left, whatever moment it is killed at.
func TestUninstall(t *testing.T) {
	t.Parallel()
	if err := hosts.ShareSettings(); err != nil {
		t.Fatal(err)
	}
	network := hosts.NewNetwork(t)
	u := &machine{Host: hosts.New(t, hosts.Named("gone"), hosts.On(network)), t: t}
	u.belongsToSomebody()
	before := u.Listing()
	u.install()
	u.StartWith(installed, "server")
	u.WaitReady()
	copyImage(t, u.Host, toolArchive, "tool.tar")
	s := newSpace(t, u.Host, "goods")
	s.apply(belongings)
	s.ready("", 4)
	t.Run("agent", func(t *testing.T) { uninstallAgent(t, u.For(t), network) })
	s.stops(before)

	out := u.Run(installed, "uninstall", "--yes", "--keep-data")
	contains(t, "uninstall --keep-data", out, "all but its data")
	if _, err := os.Stat(u.Path(installed)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the executable is there: %v", err)
	}
	u.Forget()
	u.install()
	u.StartWith(installed, "server")
	u.WaitReady()
	s.says("bye\n")

	u.killed()
	u.same(before)
}

// machine is a host that skiff is put on and taken off.
type machine struct {
	*hosts.Host
	t *testing.T
}

// belongsToSomebody makes what is on a machine that was used before.
func (m *machine) belongsToSomebody() {
	m.t.Helper()
	m.WriteFile("/etc/skiff/config.yaml", "node-label: [site=harbour]\n")
	m.WriteFile("/tmp/bin/tool", "of somebody")
	m.WriteFile("/var/lib/kubelet/old/file", "of another Kubernetes")
	m.WriteFile("/var/lib/cni/results/podman-1-eth0", "of another network")
	m.WriteFile("/var/log/pods/collected/file", "a log")
	m.Nftables("table inet mine {\nchain in {\ntype filter hook input priority 0\ntcp dport 2222 drop\n}\n}\n")
}

// install does what the installer does: the journal first, then the changes.
func (m *machine) install() {
	m.t.Helper()
	const unit = "/etc/systemd/system/skiff.service"
	link := filepath.Join(filepath.Dir(unit), "multi-user.target.wants/skiff.service")
	lines := ""
	for _, line := range [][2]string{
		{"file", installed}, {"link", "/tmp/bin/kubectl"},
		{"dir", "/etc/systemd"}, {"dir", "/etc/systemd/system"}, {"dir", filepath.Dir(link)}, {"unit", unit},
	} {
		lines += line[0] + "\t" + line[1] + "\n"
	}
	have, _ := os.ReadFile(m.Path("/etc/skiff/host-changes"))
	m.WriteFile("/etc/skiff/host-changes", string(have)+lines)
	program, err := os.ReadFile(hosts.Binary(m.t))
	if err != nil {
		m.t.Fatal(err)
	}
	m.WriteFile(installed, string(program))
	m.WriteFile(unit, "[Service]\nExecStart="+installed+" server\n")
	for path, target := range map[string]string{"/tmp/bin/kubectl": "skiff", link: unit} {
		if err := os.MkdirAll(filepath.Dir(m.Path(path)), 0o755); err != nil {
			m.t.Fatal(err)
		}
		if err := os.Symlink(target, m.Path(path)); err != nil {
			m.t.Fatal(err)
		}
	}
	if err := os.Chmod(m.Path(installed), 0o755); err != nil {
		m.t.Fatal(err)
	}
}

// same compares the machine with how it was.
func (m *machine) same(before []string) {
	m.t.Helper()
	m.Run("rm", "-rf", "/tmp/.kube") // what kubectl remembers for the person who calls it
	if diff := hosts.Difference(before, m.Listing()); len(diff) > 0 {
		m.t.Errorf("the machine is not as it was:\n%s", strings.Join(diff, "\n"))
	}
}

// stops stops skiff in each way, and starts it again.
func (s *space) stops(before []string) {
	s.t.Helper()
	contains(s.t, "skiff stop", s.Run("skiff", "stop"), "Its pods do")
	contains(s.t, "skiff stop, when it is", s.Run("skiff", "stop"), "Its pods do")
	s.Forget()
	if !slices.ContainsFunc(s.Processes(), func(p hosts.ProcessInfo) bool { return slices.Contains(p.Args, "/tool") }) {
		s.t.Error("the pods have ended with skiff")
	}
	// Ending pods decently takes no skiff that runs.
	out := s.Run("skiff", "stop", "--drain")
	contains(s.t, "skiff stop --drain", out, "pod goods/polite has ended", "The data is untouched")
	s.nothingRuns("skiff stop --drain")
	s.Start()
	s.WaitReady()
	s.says("hook\nbye\n")

	// A skiff that is dead already, and no time for pods.
	s.Kill9()
	contains(s.t, "skiff stop --kill", s.Run("skiff", "stop", "--kill"), "The data is untouched")
	s.nothingRuns("skiff stop --kill")
	after := slices.DeleteFunc(s.Listing(), func(line string) bool { return strings.HasPrefix(line, "file ") })
	want := slices.DeleteFunc(slices.Clone(before), func(line string) bool { return strings.HasPrefix(line, "file ") })
	if diff := hosts.Difference(want, after); len(diff) > 0 {
		s.t.Errorf("skiff stop --kill leaves:\n%s", strings.Join(diff, "\n"))
	}
	s.Start()
	s.WaitReady()
	s.says("hook\nbye\n")
}

// says waits until the polite pod runs again, and has its volume with what it
// has said when it was asked to end. The API goes on calling it ready for a while
// after it has ended with skiff.
func (s *space) says(what string) {
	s.t.Helper()
	s.eventually("the polite pod with "+strconv.Quote(what)+" on its volume", func() error {
		out, err := s.tryIn("polite", "cat", "/data/said")
		if err == nil && !strings.Contains(out, what) {
			err = fmt.Errorf("there is %q", out)
		}
		return err
	})
	s.ready("", 4)
}

func (s *space) nothingRuns(after string) {
	s.t.Helper()
	for _, p := range s.Processes() {
		s.t.Errorf("after %s there is the process %v", after, p.Args)
	}
}

// uninstallAgent makes another machine a node, and takes skiff off that.
func uninstallAgent(t *testing.T, server *hosts.Host, network *hosts.Network) {
	m := &machine{Host: hosts.New(t, hosts.Named("worker"), hosts.On(network)), t: t}
	before := m.Listing()
	refused := m.Exec("skiff", "uninstall")
	contains(t, "uninstall where nothing is", refused.Stdout, "not installed")
	m.StartAgent(server)
	m.WaitReady()
	copyImage(t, m.Host, toolArchive, "tool.tar")
	s := newSpace(t, server, "away")
	s.apply(fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: there, labels: {app: there}}
spec:
  nodeName: worker
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: IMAGE, imagePullPolicy: Never, command: [/tool, serve], volumeMounts: [{name: m, mountPath: /m}]}]
  volumes: [{name: m, emptyDir: {medium: Memory}}]
`))
	s.ready("", 1)
	if r := m.Exec("skiff", "uninstall"); r.Code != 2 || !strings.Contains(r.Stderr, "--yes") {
		t.Errorf("uninstall without a person to ask: %s", r)
	}
	// Somebody's disk among the data.
	m.Run("mkdir", "/var/lib/skiff/storage")
	m.Run("mount", "-t", "tmpfs", "disk", "/var/lib/skiff/storage")
	m.Run("touch", "/var/lib/skiff/storage/precious")
	if r := m.Exec("skiff", "uninstall", "--yes"); r.Code != 1 || !strings.Contains(r.Stderr, "/var/lib/skiff/storage (tmpfs of disk)") {
		t.Errorf("uninstall with a disk among the data: %s", r)
	}
	m.Run("ls", "/var/lib/skiff/storage/precious")
	m.Run("umount", "/var/lib/skiff/storage")
	out := m.Run("skiff", "uninstall", "--yes")
	contains(t, "skiff uninstall", out, "skiff has been removed", "skiff kubectl delete node worker")
	m.Forget()
	m.same(before)
	server.Kubectl("delete", "node", "worker")
	s.kubectl("delete", "pod", "there", "--force", "--grace-period=0")
}

// killed takes skiff off, killing that at each step. What it prints goes through
// a pipe in which there is room for one line, so that it does not get much
// further than to the first line that was not there the time before.
func (m *machine) killed() {
	m.t.Helper()
	seen := map[string]bool{}
	for rounds := 0; ; rounds++ {
		if _, err := os.Stat(m.Path(installed)); errors.Is(err, fs.ErrNotExist) {
			break
		}
		if rounds > 100 {
			m.t.Fatalf("skiff is still there after %d rounds", rounds)
		}
		out, in := m.narrow()
		p := m.Spawn(hosts.Command{Args: []string{installed, "uninstall", "--yes"}, Stdout: in, Stderr: in})
		_ = in.Close()
		line := make([]byte, 4096)
		for {
			n, err := out.Read(line)
			text := string(line[:n])
			if n == 0 || err != nil {
				break
			}
			if !seen[text] {
				seen[text] = true
				break
			}
		}
		p.Signal(syscall.SIGKILL)
		p.Wait()
		_ = out.Close()
	}
	m.Forget()
	if len(seen) < 25 {
		m.t.Errorf("it has been killed at only %d steps: %q", len(seen), slices.Sorted(maps.Keys(seen)))
	}
}

// narrow makes a pipe with room for what is written at once.
func (m *machine) narrow() (out, in *os.File) {
	m.t.Helper()
	fds := make([]int, 2)
	if err := unix.Pipe2(fds, unix.O_CLOEXEC|unix.O_DIRECT); err != nil {
		m.t.Fatal(err)
	}
	if _, err := unix.FcntlInt(uintptr(fds[1]), unix.F_SETPIPE_SZ, os.Getpagesize()); err != nil {
		m.t.Fatal(err)
	}
	return os.NewFile(uintptr(fds[0]), "out"), os.NewFile(uintptr(fds[1]), "in")
}
