package e2e

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"skiff/test/hosts"
)

// Where a server and a node keep what joining is about.
const (
	serverTokenFile = "/var/lib/skiff/server/token"
	agentTokenFile  = "/var/lib/skiff/server/agent-token"
	passwordFile    = "/etc/skiff/node/password"
)

// TestJoin tells how machines come into a cluster: two of them with tokens of
// several kinds, and a stranger that is refused in each way there is.
func TestJoin(t *testing.T) {
	t.Parallel()
	network := hosts.NewNetwork(t)
	server := newHost(t, hosts.Named("server"), hosts.On(network))
	first := newHost(t, hosts.Named("first"), hosts.On(network))
	second := newHost(t, hosts.Named("second"), hosts.On(network))
	server.StartServer()
	first.StartAgent(server)
	first.WaitReady()
	server.WaitReady()

	t.Run("token files", func(t *testing.T) { tokenFiles(t, server.For(t)) })
	t.Run("refusals", func(t *testing.T) { refusals(t, server.For(t), second.For(t)) })
	t.Run("bootstrap token", func(t *testing.T) { bootstrapToken(t, server.For(t), second.For(t)) })
	t.Run("endpoints", func(t *testing.T) { endpoints(t, server.For(t), first.For(t)) })
	t.Run("rogue node", func(t *testing.T) { rogueNode(t, server.For(t), first.For(t)) })
	t.Run("re-installed", func(t *testing.T) { reinstalled(t, server.For(t), second.For(t)) })
	t.Run("rotation", func(t *testing.T) { rotation(t, server.For(t), first.For(t), second.For(t)) })
	t.Run("deleted node", func(t *testing.T) {
		second.For(t).Stop()
		server.For(t).Kubectl("delete", "node", "second")
		hosts.Eventually(t, patience, "the name to be free", func() error {
			if r := server.For(t).Exec("skiff", "node", "forget", "second"); r.Code == 0 || !strings.Contains(r.Stderr, "no machine has the node name") {
				return errorf("node forget: %s", r)
			}
			return nil
		})
	})
}

func tokenFiles(t *testing.T, server *hosts.Host) {
	agent := strings.TrimSpace(server.ReadFile(agentTokenFile))
	if !strings.Contains(agent, "::node:") || agent != strings.TrimSpace(server.ReadFile("/var/lib/skiff/server/node-token")) {
		t.Errorf("agent-token is %q, and node-token another", agent)
	}
	if whole := server.ReadFile(serverTokenFile); !strings.Contains(whole, "::server:") || secretOf(whole) == secretOf(agent) {
		t.Errorf("token %q", whole)
	}
	if mode := server.Run("stat", "-c", "%a %a", serverTokenFile, agentTokenFile); strings.Contains(mode, "4") {
		t.Errorf("modes %s", mode)
	}
	for _, node := range []string{"server", "first"} { // Each machine has a password, and the cluster only its hash.
		s := server.Kubectl("-n", "kube-system", "get", "secret", node+".node-password.skiff", "-o", "jsonpath={.type} {.immutable} {.data.hash}")
		contains(t, "the Secret of "+node, s, "skiff.dev/node-password true ")
	}
}

func secretOf(token string) string {
	token = strings.TrimSpace(token)
	return token[strings.LastIndex(token, ":")+1:]
}

// refusals has a stranger try what does not work, and read why.
func refusals(t *testing.T, server, stranger *hosts.Host) {
	whole := strings.TrimSpace(server.ReadFile(serverTokenFile))
	pin, _, _ := strings.Cut(whole, "::")
	expired := strings.TrimSpace(server.Run("skiff", "token", "create", "--ttl", "1s"))
	time.Sleep(1100 * time.Millisecond) // The token has to expire.
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"wrong token", []string{"--token", pin + "::node:wrong"}, "the token is not one of this cluster"},
		{"wrong authority", []string{"--token", "K10" + strings.Repeat("ab", 32) + "::node:" + secretOf(whole)}, "the server's authority is not the one in the token"},
		{"expired bootstrap token", []string{"--token", expired}, "bootstrap token"},
		{"name of a node", []string{"--node-name", "first"}, "skiff node forget first"},
		{"name of the server", []string{"--node-name", "server"}, "is one of the server's own"},
		{"address of the server", []string{"--node-ip", server.Addr()}, "belongs to the server"},
		{"nobody listens", []string{"--server", "https://" + server.Addr() + ":6999"}, "nothing listens there"},
		{"no such host", []string{"--server", "https://server.invalid:6443"}, "cannot be resolved"},
		{"not a skiff server", []string{"--server", "https://" + server.Addr() + ":10250"}, "is no skiff server"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := stranger.For(t)
			before := len(h.Log())
			h.StartAgent(server.For(t), tt.args...)
			hosts.Eventually(t, patience, "the reason in the log", func() error {
				if log := h.Log()[before:]; !strings.Contains(log, tt.want) {
					return errorf("log: %s", log)
				}
				return nil
			})
			if r := h.Status(); r.Code != 4 {
				t.Errorf("status of a node that has not joined: %s", r)
			}
			h.Stop()
			if log := h.Log()[before:]; strings.Contains(log, secretOf(whole)) {
				t.Error("the log has the token")
			}
		})
	}
	contains(t, "the server's log", server.Log(), "caller was refused", "code=token", "code=bootstrap-token", "code=name-taken", "code=address")
}

// bootstrapToken has a machine join by the command that `skiff token create`
// prints.
func bootstrapToken(t *testing.T, server, agent *hosts.Host) {
	line := strings.Fields(server.Run("skiff", "token", "create", "--description", "for a test", "--print-join-command"))
	if len(line) != 6 || line[3] != "https://"+server.Addr()+":6443" {
		t.Fatalf("join command %q", line)
	}
	var list []struct{ Token, Description string }
	if err := json.Unmarshal([]byte(server.Run("skiff", "token", "list", "-o", "json")), &list); err != nil {
		t.Fatal(err)
	}
	found := ""
	for _, one := range list {
		if strings.HasSuffix(line[5], "::"+one.Token) && one.Description == "for a test" {
			found = one.Token
		}
	}
	if found == "" {
		t.Fatalf("%q is not in the list %v", line[5], list)
	}
	agent.StartAgent(server, "--token", line[5])
	agent.WaitReady()
	server.Run("skiff", "token", "delete", found)
	if r := server.Exec("skiff", "token", "delete", found); r.Code != 1 || !strings.Contains(r.Stderr, "skiff token list") {
		t.Errorf("delete it again: %s", r)
	}
	agent.Restart() // It has joined: no token is needed any more.
	hosts.Eventually(t, patience, "three nodes", func() error { return nodesReady(server, 3) })
}

// reinstalled takes a node's disk away, and with it its password.
func reinstalled(t *testing.T, server, agent *hosts.Host) {
	agent.Stop()
	agent.Run("rm", "-rf", "/var/lib/skiff/agent/tls", "/var/lib/skiff/agent/cred")
	agent.StartAgent(server) // Its password has survived in /etc.
	agent.WaitReady()
	agent.Stop()
	agent.Run("rm", "-rf", "/var/lib/skiff/agent/tls", "/var/lib/skiff/agent/cred", passwordFile)
	before := len(agent.Log())
	agent.StartAgent(server)
	hosts.Eventually(t, patience, "the refusal", func() error {
		if log := agent.Log()[before:]; !strings.Contains(log, "skiff node forget second") {
			return errorf("log: %s", log)
		}
		return nil
	})
	contains(t, "node forget", server.Run("skiff", "node", "forget", "second"), "second")
	agent.WaitReady()
}

// rotation changes both tokens while all nodes run, and goes on.
func rotation(t *testing.T, server, first, second *hosts.Host) {
	old := strings.TrimSpace(server.ReadFile(agentTokenFile))
	fresh := strings.TrimSpace(server.ExecWith(hosts.Command{Args: []string{"skiff", "token", "rotate", "--agent"}}).Stdout)
	if fresh == old || fresh != strings.TrimSpace(server.ReadFile(agentTokenFile)) {
		t.Fatalf("agent token %q became %q, the file has %q", old, fresh, server.ReadFile(agentTokenFile))
	}
	if r := second.Exec("skiff", "token", "rotate", "--server", "https://"+server.Addr()+":6443", "--token", fresh); r.Code != 1 || !strings.Contains(r.Stderr, "take the server token") {
		t.Errorf("rotate with an agent token: %s", r)
	}
	whole := strings.TrimSpace(server.ReadFile(serverTokenFile))
	r := second.Exec("skiff", "token", "rotate", "--server", "https://"+server.Addr()+":6443", "--token", whole, "--new-token", "a-long-enough-secret")
	if r.Code != 0 || secretOf(r.Stdout) != "a-long-enough-secret" {
		t.Fatalf("rotate from another machine: %s", r)
	}
	if status := ask(t, server, "POST", "/v1-skiff/node", credential{user: "node", secret: secretOf(old)}); status != 401 {
		t.Errorf("the old agent token: %d", status)
	}
	first.Restart() // With the old server token on its command line.
	server.Restart()
	if got := secretOf(server.ReadFile(serverTokenFile)); got != "a-long-enough-secret" {
		t.Errorf("after a restart the token is %q", got)
	}
	hosts.Eventually(t, patience, "three nodes", func() error { return nodesReady(server, 3) })
}
