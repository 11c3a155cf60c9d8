package e2e

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"

	"skiff/test/hosts"
)

// TestWays has two machines that are connected twice use the second connection
// for their pods, as they are told: by interface, then by external address.
// Servers reach the agent without a tunnel, and then its pods by nothing else.
func TestWays(t *testing.T) {
	t.Parallel()
	network := hosts.NewNetwork(t)
	w := &ways{server: newHost(t, hosts.Named("server"), hosts.On(network)), agent: newHost(t, hosts.Named("agent"), hosts.On(network))}
	for h, address := range map[*hosts.Host]string{w.server: serverSide, w.agent: agentSide} {
		// A card with an address of its own behind the same cable.
		h.Run("ip", "link", "add", "eth1", "link", "eth0", "type", "macvlan", "mode", "bridge")
		h.Run("ip", "address", "add", address+"/24", "dev", "eth1")
		h.Run("ip", "link", "set", "eth1", "up")
		h.Run("sh", "-c", "echo 1 >/proc/sys/net/ipv4/conf/all/arp_ignore") // eth0 does not answer for eth1
	}
	w.server.StartServer("--flannel-iface", "eth1", "--egress-selector-mode", "disabled")
	w.agent.StartAgent(w.server, "--flannel-iface", "eth1", "--node-external-ip", agentSide)
	w.agent.WaitReady()
	w.server.WaitReady()
	w.space = newSpace(t, w.server, "ways")
	w.apply(waysApp)
	w.ready("app=way", 2)
	t.Run("by interface", func(t *testing.T) {
		w := w.of(t)
		w.pods2()
		contains(t, "the agent's VXLAN device", w.agent.For(t).Run("ip", "-d", "link", "show", "flannel.1"), "local "+agentSide, "dev eth1")
	})
	t.Run("external address", func(t *testing.T) { w.of(t).external() })
	t.Run("no tunnel", func(t *testing.T) {
		w := w.of(t)
		called(t, w.space, "disabled")
		if strings.Contains(w.agent.Log(), "tunnel is open") {
			t.Error("there is a tunnel")
		}
	})
	if t.Failed() {
		return
	}
	w.server.Stop()
	w.server.StartServer("--flannel-external-ip", "--node-external-ip", serverSide, "--egress-selector-mode", "pod")
	w.server.WaitReady()
	w.agent.Stop()
	w.agent.StartAgent(w.server, "--node-external-ip", agentSide)
	w.agent.WaitReady()
	w.space = &space{Host: w.server.For(t), t: t, kube: w.server.Kube(), ns: w.ns}
	t.Run("by external address", func(t *testing.T) {
		w := w.of(t)
		w.pods2()
		contains(t, "the address for pods", w.Kubectl("get", "node", "agent", "-o", "jsonpath={.metadata.annotations}"), `public-ip":"`+agentSide)
	})
	t.Run("tunnel to pods", func(t *testing.T) {
		w := w.of(t)
		w.agent.Run("ip", "link", "set", "eth1", "down") // and with it the pod network
		called(t, w.space, "pod")
		if err := answersOK(w.server, url(w.pod("far").Status.PodIP, "8080")); err == nil {
			t.Error("the pod can be reached without the tunnel")
		}
	})
}

// The machines' addresses on their second connection.
const (
	serverSide = "192.168.77.1"
	agentSide  = "192.168.77.2"
)

type ways struct {
	*space
	server, agent *hosts.Host
}

func (w *ways) of(t *testing.T) *ways {
	return &ways{space: w.space.of(t), server: w.server.For(t), agent: w.agent.For(t)}
}

// pods2 has the pods reach each other, and sees to it that they do so by the
// second connection.
func (w *ways) pods2() {
	w.t.Helper()
	for from, to := range map[string]string{"near": "far", "far": "near"} {
		w.eventually(from+" to reach "+to, func() error {
			_, err := w.tryIn(from, "/tool", "get", url(w.pod(to).Status.PodIP, "8080"))
			return err
		})
	}
	before := w.received()
	const times = 20
	w.in("near", "sh", "-c", fmt.Sprintf("for i in $(seq %d); do /tool get %s; done", times, url(w.pod("far").Status.PodIP, "8080")))
	if got := w.received() - before; got < 3*times { // to connect, to ask, to close
		w.t.Errorf("%d packets have come by the second connection, want %d at least", got, 3*times)
	}
}

func (w *ways) received() int {
	n, err := strconv.Atoi(strings.TrimSpace(w.agent.Run("cat", "/sys/class/net/eth1/statistics/rx_packets")))
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

// external reaches a Service by the agent's external address, which is the one
// that is published.
func (w *ways) external() {
	contains(w.t, "the Node's addresses", w.Kubectl("get", "node", "agent", "-o", "jsonpath={.status.addresses}"), `{"address":"`+agentSide+`","type":"ExternalIP"}`)
	w.eventually("the Service to be published there", func() error {
		return is(w.kubectl("get", "service", "way", "-o", "jsonpath={.status.loadBalancer.ingress[*].ip}"), agentSide)
	})
	w.eventually("an answer from there", func() error {
		return answersOK(w.server, "http://"+net.JoinHostPort(agentSide, "8110")+"/")
	})
}

const waysApp = `
apiVersion: v1
kind: Pod
metadata: {name: far, labels: {app: way, side: agent}}
spec:
  nodeName: agent
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: IMAGE, imagePullPolicy: Never, command: [/tool, serve], readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}}]
---
apiVersion: v1
kind: Pod
metadata: {name: near, labels: {app: way, side: server}}
spec:
  nodeName: server
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: IMAGE, imagePullPolicy: Never, command: [/tool, serve], readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}}]
---
apiVersion: v1
kind: Service
metadata: {name: way}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  selector: {side: agent}
  ports: [{port: 8110, targetPort: 8080}]
`
