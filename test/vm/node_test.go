package vm

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"skiff/test/images"
)

// web serves, with a limit of memory.
const web = `
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: web
    image: ` + images.Tool + `
    resources: {limits: {memory: 64Mi, cpu: 500m}, requests: {cpu: 50m}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080, nodePort: 30080}]
`

// hog wants more memory than it may have.
const hog = `
apiVersion: v1
kind: Pod
metadata: {name: hog}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers:
  - name: hog
    image: ` + images.Tool + `
    command: [/tool, hog, "200"]
    resources: {limits: {memory: 32Mi}}
`

// A machine without a network card, as it stands on a factory floor.
func TestLoopbackOnly(t *testing.T) {
	m := newMachine(t, false)
	install(m)
	checkHost(m)
	checkReady(m)
	checkPods(m)
	checkCgroups(m)
	checkRestart(m)
	checkStop(m)
	checkReboot(m)
	checkJournal(m)
}

// The same with a card that gets its address by DHCP.
func TestNetworkCard(t *testing.T) {
	m := newMachine(t, true)
	m.Eventually(bootLimit, "an address from DHCP", "ip -4 -o addr show scope global | grep -q 10.0.2")
	install(m)
	checkReady(m)
	if got := m.kubectl(`get nodes -o jsonpath='{.items[0].status.addresses[?(@.type=="InternalIP")].address}'`); got != "10.0.2.15" {
		t.Errorf("the node's address is %q, want that of its card, 10.0.2.15", got)
	}
	checkPods(m)
	checkJournal(m)
}

func (m *Machine) kubectl(arguments string) string {
	m.t.Helper()
	return strings.TrimSpace(m.Run("skiff kubectl " + arguments))
}

func (m *Machine) apply(yaml string) {
	m.t.Helper()
	m.Run("skiff kubectl apply -f - <<'EOF'" + yaml + "EOF")
}

// checkHost makes sure that this is the kind of machine the test is about.
func checkHost(m *Machine) {
	m.t.Helper()
	m.t.Log(strings.TrimSpace(m.Run(`uname -r; cat /etc/debian_version; systemctl --version | head -n 1; stat -f -c %T /sys/fs/cgroup`)))
	if got := strings.TrimSpace(m.Run("cat /proc/1/comm; stat -f -c %T /sys/fs/cgroup")); got != "systemd\ncgroup2fs" {
		m.t.Fatalf("first process and control groups are %q", got)
	}
	if got := strings.TrimSpace(m.Run(`ip -o link | awk '{print $2}' | grep -v -e '^lo:' -e '^cni0' -e '^veth' -e '^flannel' || true`)); got != "" {
		m.t.Fatalf("the machine has network interfaces: %s", got)
	}
}

// checkReady looks at skiff at the very moment at which systemd calls it
// active.
func checkReady(m *Machine) {
	m.t.Helper()
	if r := m.Try("systemctl is-active skiff && skiff status"); r.Code != 0 {
		m.t.Fatalf("skiff.service has been started, but skiff is not ready: %s", r)
	}
	if got := m.kubectl(`get nodes -o jsonpath='{range .items[*]}{.status.conditions[?(@.type=="Ready")].status}{end}'`); got != "True" {
		m.t.Fatalf("skiff.service has been started, but the nodes' Ready is %q", got)
	}
	m.t.Log(m.kubectl("get nodes -o wide"))
	m.t.Log(strings.TrimSpace(m.Run("systemctl show skiff -p StatusText -p MemoryCurrent -p TasksCurrent; systemd-analyze | head -n 1")))
}

func checkPods(m *Machine) {
	m.t.Helper()
	m.apply(web)
	m.apply(hog)
	m.kubectl("wait --for=condition=Ready --timeout=300s pod/web")
	if got := m.kubectl("exec web -- /tool lookup kubernetes.default"); got != "10.43.0.1" {
		m.t.Errorf("in the pod kubernetes.default is %q, want 10.43.0.1", got)
	}
	m.kubectl("exec web -- /tool get https://kubernetes.default/version")
	m.Eventually(time.Minute, "the Service by its name", "skiff kubectl exec web -- /tool get http://web.default/")
	m.Eventually(time.Minute, "the NodePort", "exec 3<>/dev/tcp/127.0.0.1/30080 && printf 'GET / HTTP/1.0\r\n\r\n' >&3 && grep -q '200 OK' <&3")
	m.kubectl(`wait --for=jsonpath='{.status.phase}'=Failed --timeout=300s pod/hog`)
	if got := m.kubectl("get pod hog -o jsonpath='{.status.containerStatuses[0].state.terminated.reason}'"); got != "OOMKilled" {
		m.t.Errorf("the pod that takes 200 MiB of 32 ended with %q, want OOMKilled", got)
	}
}

// checkCgroups proves that systemd manages the pods' control groups and that
// the kernel has the limits.
func checkCgroups(m *Machine) {
	m.t.Helper()
	id := strings.TrimPrefix(m.containers()["web"].ID, "containerd://")
	uid := strings.ReplaceAll(m.kubectl("get pod web -o jsonpath='{.metadata.uid}'"), "-", "_")
	scope := "cri-containerd-" + id + ".scope"
	slice := "kubepods-burstable-pod" + uid + ".slice"
	if got := strings.TrimSpace(m.Run("systemctl show -P ActiveState " + scope + "; systemctl show -P Slice " + scope)); got != "active\n"+slice {
		m.t.Errorf("systemd knows the container's scope as %q, want active in %s", got, slice)
	}
	path := m.Run("systemctl show -P ControlGroup " + scope)
	m.t.Logf("the container's control group is %s", strings.TrimSpace(path))
	dir := "/sys/fs/cgroup" + strings.TrimSpace(path)
	if got := strings.TrimSpace(m.Run(fmt.Sprintf("cat %[1]s/memory.max %[1]s/cpu.max", dir))); got != fmt.Sprintf("%d\n50000 100000", 64<<20) {
		m.t.Errorf("the container's memory.max and cpu.max are %q, want 64Mi and half of each 100 ms", got)
	}
	if got := strings.TrimSpace(m.Run("ls -d /sys/fs/cgroup/kubepods* /sys/fs/cgroup/system.slice/skiff.service")); got != "/sys/fs/cgroup/kubepods.slice\n/sys/fs/cgroup/system.slice/skiff.service" {
		m.t.Errorf("control groups are\n%s\nwant kubepods.slice and skiff.service only", got)
	}
}

type container struct {
	ID       string
	Restarts int
}

// containers are those of the pods that run, by pod.
func (m *Machine) containers() map[string]container {
	m.t.Helper()
	var list struct {
		Items []struct {
			Metadata struct{ Name string }
			Status   struct {
				Phase             string
				ContainerStatuses []struct {
					ContainerID  string
					RestartCount int
				}
			}
		}
	}
	if err := json.Unmarshal([]byte(m.kubectl("get pods -o json")), &list); err != nil {
		m.t.Fatal(err)
	}
	found := map[string]container{}
	for _, p := range list.Items {
		for _, c := range p.Status.ContainerStatuses {
			if p.Status.Phase == "Running" {
				found[p.Metadata.Name] = container{ID: c.ContainerID, Restarts: c.RestartCount}
			}
		}
	}
	if len(found) == 0 {
		m.t.Fatal("no pod runs")
	}
	return found
}

func checkRestart(m *Machine) {
	m.t.Helper()
	before := m.containers()
	begin := time.Now()
	m.Run("systemctl restart skiff")
	m.t.Logf("systemctl restart skiff took %s", time.Since(begin).Round(time.Second))
	checkReady(m)
	if after := m.containers(); !maps.Equal(before, after) {
		m.t.Errorf("a restart of skiff has changed containers: before %v, after %v", before, after)
	}
}

// checkStop stops skiff: the pod has to serve on without it.
func checkStop(m *Machine) {
	m.t.Helper()
	before := m.containers()
	ip := m.kubectl("get pod web -o jsonpath='{.status.podIP}'")
	begin := time.Now()
	m.Run("systemctl stop skiff")
	m.t.Logf("systemctl stop skiff took %s", time.Since(begin).Round(time.Second))
	if got := strings.TrimSpace(m.Run("systemctl show -P Result -P ExecMainStatus skiff")); got != "success\n0" {
		m.t.Errorf("the stopped skiff.service has result and exit code %q", got)
	}
	get := "exec 3<>/dev/tcp/%s && printf 'GET / HTTP/1.0\r\n\r\n' >&3 && grep -q '200 OK' <&3"
	m.Run(fmt.Sprintf(get, ip+"/8080"))
	m.Run(fmt.Sprintf(get, "127.0.0.1/30080"))
	m.Run("systemctl start skiff")
	checkReady(m)
	if after := m.containers(); !maps.Equal(before, after) {
		m.t.Errorf("a stop and start of skiff has changed containers: before %v, after %v", before, after)
	}
}

// checkReboot starts the machine anew in order: skiff comes up by itself, and
// the pod in a new container.
func checkReboot(m *Machine) {
	m.t.Helper()
	before := m.containers()
	m.Shutdown()
	m.Boot()
	m.waitActive()
	checkReady(m)
	m.waitNewContainers(before)
}

// waitActive waits until systemd has started skiff by itself.
func (m *Machine) waitActive() {
	m.t.Helper()
	m.Eventually(commandLimit, "skiff.service to be active", "systemctl is-active skiff")
	m.t.Logf("boot %d: skiff is ready after %s", m.starts, time.Since(m.started).Round(time.Second))
}

// waitNewContainers waits until every pod runs again.
func (m *Machine) waitNewContainers(before map[string]container) {
	m.t.Helper()
	deadline := time.Now().Add(5 * time.Minute)
	for name, old := range before {
		for {
			now, ok := m.containers()[name]
			if ok && now.ID != old.ID {
				break
			}
			if time.Now().After(deadline) {
				m.t.Fatalf("pod %s has not come back:\n%s", name, m.kubectl("describe pod "+name))
			}
			time.Sleep(time.Second)
		}
		m.kubectl("wait --for=condition=Ready --timeout=300s pod/" + name)
	}
}

// checkJournal fails for what must never be in a log, and shows what a person
// would wonder about.
func checkJournal(m *Machine) {
	m.t.Helper()
	if r := m.Try("journalctl -u skiff --no-pager -o cat | grep -e 'panic:' -e 'DATA RACE'"); r.Code == 0 {
		m.t.Errorf("the journal has: %s", r.Stdout)
	}
	m.t.Logf("warnings and errors in the journal:\n%s", m.Try(`journalctl -u skiff --no-pager -o cat | grep -E ' (WARN|ERROR) ' | cut -c -240 | tail -n 60`).Stdout)
}
