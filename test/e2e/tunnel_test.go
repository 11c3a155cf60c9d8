package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"skiff/test/hosts"
)

// recovery is how long a connection to an agent may take once the way to it is
// sound again.
const recovery = 10 * time.Second

// TestTunnel lets an agent accept no connection at all, as behind a router that
// translates addresses, and then uses it as if it did.
func TestTunnel(t *testing.T) {
	t.Parallel()
	s, server, agent := closedAgent(t)
	t.Run("nothing gets in", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		if c, err := server.DialContext(ctx, "tcp", agent.Addr()+":10250"); err == nil {
			_ = c.Close()
			t.Fatal("the kubelet of the agent can be reached without the tunnel")
		}
	})
	for _, step := range []struct {
		name string
		do   func(*testing.T, *space, *hosts.Host)
	}{
		{"exec and logs", execAndLogs},
		{"port-forward", forwards},
		{"cp there and back", copies},
		{"top", top},
	} {
		t.Run(step.name, func(t *testing.T) { step.do(t, s.of(t), agent.For(t)) })
	}
	t.Run("the network is cut", func(t *testing.T) { cut(t, s.of(t), agent.For(t), blackhole()) })
	t.Run("a router forgets", func(t *testing.T) { strand(t, s.of(t), agent.For(t)) })
	t.Run("half-open connections", func(t *testing.T) { halfOpen(t, s.of(t), agent.For(t)) })
	t.Run("the server moves", func(t *testing.T) { elsewhere(t, s.of(t), agent.For(t)) })
	if t.Failed() {
		return
	}
	// The mode is a setting of the cluster: the agent learns it from the server.
	server.Stop()
	server.StartServer("--tls-san", serverName, "--egress-selector-mode", "cluster")
	server.WaitReady()
	s = &space{Host: server.For(t), t: t, kube: server.Kube(), ns: s.ns}
	t.Run("webhook and aggregated API", func(t *testing.T) { called(t, s.of(t), "cluster") })
}

// serverName is by what the agent knows its server; the address is in its hosts
// file.
const serverName = "api.skiff.test"

// closedAgent starts a server and an agent, with a pod on it, that drops
// whatever it has not asked for.
func closedAgent(t *testing.T) (s *space, server, agent *hosts.Host) {
	network := hosts.NewNetwork(t)
	server = newHost(t, hosts.Named("server"), hosts.On(network))
	agent = newHost(t, hosts.Named("agent"), hosts.On(network))
	agent.DropInbound()
	nameServer(server, agent)
	server.StartServer("--tls-san", serverName)
	agent.StartAgent(server, "--server", "https://"+serverName+":6443")
	agent.WaitReady()
	server.WaitReady()
	s = newSpace(t, server, "tunnel")
	s.apply(tunnelApp)
	s.ready("app=far", 1)
	return s, server, agent
}

func nameServer(server, agent *hosts.Host) {
	agent.WriteFile("/etc/hosts", "127.0.0.1 localhost\n"+server.Addr()+" "+serverName+"\n")
}

const tunnelApp = `
apiVersion: v1
kind: Pod
metadata: {name: far, labels: {app: far}}
spec:
  nodeName: agent
  terminationGracePeriodSeconds: 1
  containers:
  - {name: c, image: IMAGE, imagePullPolicy: Never, command: [/tool, serve], readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}}
`

// of binds the space to a subtest.
func (s *space) of(t *testing.T) *space { return &space{Host: s.For(t), t: t, kube: s.kube, ns: s.ns} }

func execAndLogs(t *testing.T, s *space, _ *hosts.Host) {
	contains(t, "exec", s.in("far", "hostname"), "far")
	contains(t, "logs", s.kubectl("logs", "far"), "listening on")
	p := follow(s, "/followed", func() { s.in("far", "wget", "-q", "-O", "-", "http://127.0.0.1:8080/followed") })
	p.Signal(9)
}

// follow runs logs -f of the pod and waits until it shows a text, which is
// written by provoke if that is not nil.
func follow(s *space, text string, provoke func()) *hosts.Process {
	s.t.Helper()
	r, w := io.Pipe()
	p := s.Spawn(hosts.Command{Args: []string{"skiff", "kubectl", "-n", s.ns, "logs", "-f", "far"}, Stdout: w})
	seen := make(chan struct{})
	go func() {
		buf := make([]byte, 64<<10)
		var all strings.Builder
		for !strings.Contains(all.String(), text) {
			n, err := r.Read(buf)
			if err != nil {
				return
			}
			all.Write(buf[:n])
		}
		close(seen)
		_, _ = io.Copy(io.Discard, r)
	}()
	if provoke != nil {
		provoke()
	}
	select {
	case <-seen:
	case <-time.After(20 * time.Second):
		s.t.Errorf("logs -f does not show %q after 20 s", text)
	}
	return p
}

func forwards(t *testing.T, s *space, _ *hosts.Host) {
	p := s.Spawn(hosts.Command{Args: []string{"skiff", "kubectl", "-n", s.ns, "port-forward", "pod/far", "18080:8080"}})
	defer p.Signal(15)
	s.eventually("an answer through port-forward", func() error {
		status, body, err := hosts.Get(s.Host, "http://127.0.0.1:18080/forwarded")
		if err != nil {
			return err
		}
		if status != http.StatusOK || !strings.Contains(body, "/forwarded") {
			return fmt.Errorf("%d %s", status, body)
		}
		return nil
	})
}

// copies takes a large file to the pod and back, and compares.
func copies(t *testing.T, s *space, _ *hosts.Host) {
	const mib = 64
	s.Run("dd", "if=/dev/urandom", "of=/tmp/there", "bs=1M", fmt.Sprintf("count=%d", mib))
	began := time.Now()
	s.kubectl("cp", "/tmp/there", "far:/tmp/big")
	there := time.Since(began)
	began = time.Now()
	s.kubectl("cp", "far:/tmp/big", "/tmp/back")
	back := time.Since(began)
	want := strings.Fields(s.Run("sha256sum", "/tmp/there"))[0]
	for where, got := range map[string]string{"the pod": s.in("far", "sha256sum", "/tmp/big"), "the way back": s.Run("sha256sum", "/tmp/back")} {
		if got = strings.Fields(got)[0]; got != want {
			t.Errorf("%s has other content: %s, want %s", where, got, want)
		}
	}
	t.Logf("kubectl cp of %d MiB: %.0f MB/s there, %.0f MB/s back", mib, mib*1.048/there.Seconds(), mib*1.048/back.Seconds())
}

func top(t *testing.T, s *space, agent *hosts.Host) {
	s.eventually("figures of the agent and its pod", func() error {
		nodes := s.Exec("skiff", "kubectl", "top", "node")
		pods := s.Exec("skiff", "kubectl", "-n", s.ns, "top", "pod")
		if !strings.Contains(nodes.Stdout, agent.Name()+" ") || !strings.Contains(pods.Stdout, "far ") {
			return fmt.Errorf("top says\n%s\n%s", nodes, pods)
		}
		return nil
	})
}

// blackhole is how long packets vanish: in CI until both sides have noticed.
func blackhole() time.Duration {
	if os.Getenv("SKIFF_SOAK") == "1" {
		return time.Minute
	}
	return 16 * time.Second
}

// cut lets all packets vanish for a while.
func cut(t *testing.T, s *space, agent *hosts.Host, long time.Duration) {
	follower := follow(s, "listening on", nil)
	s.Cut(agent)
	time.Sleep(long)
	select {
	case <-follower.Exited():
	default:
		t.Error("logs -f still waits for a node that cannot be reached")
		follower.Signal(9)
	}
	began := time.Now()
	r := s.Exec("skiff", "kubectl", "-n", s.ns, "exec", "far", "--", "true")
	// kubectl tries twice: WebSocket, then SPDY.
	if took := time.Since(began); r.Code == 0 || took > 15*time.Second || !strings.Contains(r.Stderr, "disconnected from this server") {
		t.Errorf("exec after %s without a tunnel: %s", took, r)
	}
	contains(t, "status of the agent", agent.Status().Stdout, "no tunnel to server")
	s.Heal(agent)
	recovers(t, s, fmt.Sprintf("after %s without a packet", long))
}

// recovers measures how long it takes until a person gets into the pod again.
func recovers(t *testing.T, s *space, what string) {
	t.Helper()
	began := time.Now()
	err := hosts.Poll(patience, func() error {
		_, err := s.tryIn("far", "true")
		return err
	})
	took := time.Since(began).Round(10 * time.Millisecond)
	if err != nil || took > recovery {
		t.Errorf("%s: exec worked again after %s, want at most %s: %v", what, took, recovery, err)
	}
	t.Logf("%s exec worked again after %s", what, took)
}

// strand has a router forget all connections of the agent: neither end is told.
func strand(t *testing.T, s *space, agent *hosts.Host) {
	for range 2 { // with the connection of a while ago, and with a new one
		agent.Strand()
		recovers(t, s, "with connections that a router has forgotten")
	}
}

// halfOpen starts the server anew without the agent's noticing.
func halfOpen(t *testing.T, s *space, agent *hosts.Host) {
	s.Cut(agent)
	s.Kill9()
	s.Start()
	s.WaitReady()
	s.Heal(agent)
	recovers(t, s, "with the agent's end of a connection that the server knows nothing of")
	s.Restart()
	recovers(t, s, "after a restart of the server")
}

// elsewhere gives the server another address, which the agent finds by name.
// It was away for long enough to be missed.
func elsewhere(t *testing.T, s *space, agent *hosts.Host) {
	old := s.Addr()
	s.Cut(agent)
	time.Sleep(blackhole())
	s.Readdress()
	nameServer(s.Host, agent)
	s.Heal(agent)
	recovers(t, s, fmt.Sprintf("with the server at %s instead of %s", s.Addr(), old))
}
