package e2e

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

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
	t.Run("no server there", func(t *testing.T) { noServerThere(t, server.For(t), agent.For(t)) })
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
		{"a silent network", func(t *testing.T) { silence(t, server.For(t), agent.For(t)) }},
		{"the server moves", func(t *testing.T) { serverMoves(t, server.For(t), agent.For(t)) }},
		{"no load balancer", func(t *testing.T) {
			a := agent.For(t)
			a.Stop()
			a.StartAgent(server, "--disable-apiserver-lb")
			a.WaitReady()
			a.Stop()
			a.StartAgent(server)
			a.WaitReady()
		}},
		{"other settings", func(t *testing.T) { otherSettings(t, server.For(t), agent.For(t)) }},
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
	t.Run("a server of another cluster", func(t *testing.T) { another(t, server.For(t), agent.For(t)) })
}

// another puts a server of another cluster in the place of the old one, as
// somebody does who installs it anew. The agent says what it is.
func another(t *testing.T, server, agent *hosts.Host) {
	server.Stop()
	server.Run("sh", "-c", "rm -rf /var/lib/skiff/server")
	server.StartServer()
	hosts.Eventually(t, patience, "a status that names the other authority", func() error {
		r := agent.Status()
		if strings.Count(r.Stdout, "a certificate of another authority (CN=skiff-server-ca") < 2 {
			return fmt.Errorf("skiff status: %s", r)
		}
		return nil
	})
}

// noServerThere starts an agent with the address of a server that is not there:
// it says so, and goes on trying.
func noServerThere(t *testing.T, server, agent *hosts.Host) {
	agent.StartAgent(server, "--server", "https://"+agent.Network().Gateway()+":6443")
	hosts.Eventually(t, patience, "a status that says what is missing", func() error {
		r := agent.Status()
		if r.Code != 4 || !strings.Contains(r.Stdout, "connection refused") || !strings.Contains(r.Stdout, "not ready") {
			return fmt.Errorf("skiff status: %s", r)
		}
		return nil
	})
	agent.Stop()
	r := agent.Exec("skiff", "agent")
	if r.Code != 2 || !strings.Contains(r.Stderr, "--server and --token are needed") {
		t.Errorf("an agent that knows no server: %s", r)
	}
}

// silence cuts the wire between the machines without a word to either: the
// agent finds out within ten seconds, and works again when it is mended.
func silence(t *testing.T, server, agent *hosts.Host) {
	conn, err := agent.DialContext(t.Context(), "tcp", "127.0.0.1:6444")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	hello := tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
	if err := hello.HandshakeContext(t.Context()); err != nil {
		t.Fatalf("reach the server through the agent's port: %v", err)
	}
	agent.Cut(server)
	begin := time.Now()
	_ = conn.SetReadDeadline(begin.Add(30 * time.Second))
	if _, err := io.Copy(io.Discard, hello); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("a connection that leads nowhere is still open after 30s")
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("it took %s to find out that the server does not answer", took.Round(time.Millisecond))
	}
	hosts.Eventually(t, patience, "a note about the server", func() error {
		if r := agent.Status(); !strings.Contains(r.Stdout, "no server can be reached") {
			return fmt.Errorf("skiff status: %s", r)
		}
		return nil
	})
	agent.Heal(server)
	hosts.Eventually(t, 10*time.Second, "the server's answer", func() error {
		r := agent.Exec("skiff", "kubectl", "--kubeconfig", "/var/lib/skiff/agent/cred/kubelet.kubeconfig", "get", "node", agent.Name())
		if r.Code != 0 || strings.Contains(agent.Status().Stdout, "no server can be reached") {
			return fmt.Errorf("%s", r)
		}
		return nil
	})
}

// serverMoves gives the server another address, which the agent can learn from
// nobody but the person who starts it.
func serverMoves(t *testing.T, server, agent *hosts.Host) {
	old := server.Addr()
	server.Readdress()
	if server.Addr() == old {
		t.Fatal("the server has not moved")
	}
	server.WaitReady()
	agent.Stop()
	agent.StartAgent(server)
	agent.WaitReady()
	hosts.Eventually(t, patience, "the agent to forget the old address", func() error {
		kept := agent.ReadFile("/var/lib/skiff/agent/etc/servers.json")
		if !strings.Contains(kept, server.Addr()+":6443") || strings.Contains(kept, old+":") {
			return fmt.Errorf("it remembers %s", kept)
		}
		return nil
	})
}

// otherSettings restarts the server with another setting of the cluster, which
// the agent takes over by itself.
func otherSettings(t *testing.T, server, agent *hosts.Host) {
	pid := agent.Skiff().PID()
	server.Stop()
	server.StartServer("--disable", "network-policy")
	server.WaitReady()
	hosts.Eventually(t, patience, "the agent to take the setting over", func() error {
		if !strings.Contains(agent.Log(), "the cluster's settings have changed") {
			return errors.New("it has not noticed")
		}
		if r := agent.Status(); r.Code != 0 {
			return fmt.Errorf("skiff status: %s", r)
		}
		if cni := agent.Run("sh", "-c", "cat /var/lib/skiff/agent/etc/cni/net.d/*"); strings.Contains(cni, "network-policy.sock") {
			return fmt.Errorf("pods still wait for their policies: %s", cni)
		}
		return nil
	})
	if now := agent.Skiff().PID(); now != pid {
		t.Errorf("process %d has become %d, the service manager would not know it", pid, now)
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
		// kube-proxy may hear of one pod before the other.
		one.eventually("answers of both pods to "+from, func() error {
			answers, err := one.tryIn(from, "sh", "-c", "for i in $(seq 30); do /tool get http://across.across.svc.cluster.local/hello; done")
			if err == nil && (!strings.Contains(answers, `"host":"on-agent"`) || !strings.Contains(answers, `"host":"on-server"`)) {
				err = fmt.Errorf("one of them is missing in\n%s", answers)
			}
			return err
		})
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
