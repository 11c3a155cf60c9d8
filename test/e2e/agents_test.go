package e2e

import (
	"fmt"
	"strings"
	"testing"

	"skiff/test/hosts"
)

// TestAgents tells the life of a cluster of two machines: a server, and an
// agent that joins it over the network.
func TestAgents(t *testing.T) {
	t.Parallel()
	network := hosts.NewNetwork(t)
	server := newHost(t, hosts.Named("server"), hosts.On(network))
	agent := newHost(t, hosts.Named("agent"), hosts.On(network))
	server.StartServer()
	agent.StartAgent(server)
	agent.WaitReady()
	server.WaitReady()

	t.Run("two nodes", func(t *testing.T) { twoNodes(t, server.For(t), agent.For(t)) })
	s := newSpace(t, server, "across")
	s.apply(acrossApp)
	s.ready("app=across", 2)
	t.Run("across nodes", func(t *testing.T) { across(t, s, server.For(t), agent.For(t)) })
	if t.Failed() {
		return
	}
	before := s.containerIDs()
	for _, step := range []struct {
		name string
		do   func(t *testing.T)
	}{
		{"the server restarts", func(t *testing.T) { server.For(t).Restart() }},
		{"the agent restarts", func(t *testing.T) { agent.For(t).Restart() }},
		{"kill -9 of the agent", func(t *testing.T) {
			a := agent.For(t)
			a.Kill9()
			a.Start()
			a.WaitReady()
		}},
	} {
		t.Run(step.name, func(t *testing.T) {
			step.do(t)
			one := &space{Host: server.For(t), t: t, kube: s.kube, ns: s.ns}
			one.eventually("both nodes ready", func() error { return nodesReady(server.For(t), 2) })
			one.sameContainers(step.name, before)
			one.eventually("the Service from the agent's pod", func() error {
				_, err := one.tryIn("on-agent", "/tool", "get", "http://across/")
				return err
			})
		})
	}
}

// twoNodes checks what a person sees who has just added a machine.
func twoNodes(t *testing.T, server, agent *hosts.Host) {
	hosts.Eventually(t, patience, "two ready nodes", func() error { return nodesReady(server, 2) })
	roles := server.Kubectl("get", "nodes", "-o", `jsonpath={range .items[*]}{.metadata.name}={.metadata.labels.node-role\.kubernetes\.io/control-plane}{"\n"}{end}`)
	contains(t, "roles", roles, "server=true\n", "agent=\n")
	addresses := server.Kubectl("get", "node", agent.Name(), "-o", "jsonpath={.status.addresses}{.spec.taints}")
	contains(t, "the agent's addresses", addresses, agent.Addr())
	if strings.Contains(addresses, "uninitialized") {
		t.Errorf("the agent's node has not been initialised: %s", addresses)
	}
	contains(t, "status of the agent", agent.Status().Stdout, "load-balancer", "kubelet", "ready")
	contains(t, "servers the agent remembers", agent.ReadFile("/var/lib/skiff/agent/etc/servers.json"), server.Addr()+":6443")
	if r := agent.Exec("test", "-e", "/var/lib/skiff/server"); r.Code == 0 {
		t.Error("an agent has the directory of a server")
	}
}

func nodesReady(server *hosts.Host, want int) error {
	r := server.Exec("skiff", "kubectl", "get", "nodes", "--no-headers")
	if n := strings.Count(r.Stdout, " Ready "); r.Code != 0 || n != want {
		return fmt.Errorf("%d nodes are ready: %s", n, r)
	}
	return nil
}

// across checks that pods of both nodes reach each other, Services and names,
// and that a person gets into the pods of both.
func across(t *testing.T, s *space, server, agent *hosts.Host) {
	one := &space{Host: server, t: t, kube: s.kube, ns: s.ns}
	pods := map[string]string{} // node → address
	for _, p := range one.pods("app=across") {
		pods[p.Spec.NodeName] = p.Status.PodIP
	}
	if len(pods) != 2 {
		t.Fatalf("pods are on %v, want one on each node", pods)
	}
	for from, to := range map[string]string{"on-agent": server.Name(), "on-server": agent.Name()} {
		one.eventually(from+" reaches the pod of the other node", func() error {
			_, err := one.tryIn(from, "/tool", "get", "http://"+pods[to]+":8080/")
			return err
		})
		answers := one.in(from, "sh", "-c", "for i in $(seq 30); do /tool get http://across.across.svc.cluster.local/hello; done")
		contains(t, "answers of the Service to "+from, answers, `"host":"on-agent"`, `"host":"on-server"`)
		contains(t, "logs of "+from, one.kubectl("logs", from), "listening on")
	}
	for _, h := range []*hosts.Host{server, agent} {
		url := "http://" + h.Addr() + ":30070/"
		one.eventually("the NodePort of "+h.Name(), func() error { return answersOK(h.Network(), url) })
	}
}

const acrossApp = `
apiVersion: v1
kind: Pod
metadata: {name: on-agent, labels: {app: across}}
spec:
  nodeName: agent
  terminationGracePeriodSeconds: 1
  containers:
  - {name: c, image: IMAGE, imagePullPolicy: Never, command: [/tool, serve], readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}}
---
apiVersion: v1
kind: Pod
metadata: {name: on-server, labels: {app: across}}
spec:
  nodeName: server
  terminationGracePeriodSeconds: 1
  containers:
  - {name: c, image: IMAGE, imagePullPolicy: Never, command: [/tool, serve], readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {name: across}
spec:
  type: NodePort
  selector: {app: across}
  ports: [{port: 80, targetPort: 8080, nodePort: 30070}]
`
