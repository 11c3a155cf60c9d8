package e2e

import (
	"net"
	"strings"
	"testing"

	"skiff/test/hosts"
)

// thereApp is a pod on the node that is upgraded.
const thereApp = `
apiVersion: v1
kind: Pod
metadata: {name: there, labels: {app: there}}
spec:
  nodeName: hand
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: IMAGE, imagePullPolicy: Never, command: [/tool, serve]}]
`

// TestUpgradeAgent upgrades a node that is no server: never beyond its server,
// and back again while that is out of reach. Its pod runs all the time.
func TestUpgradeAgent(t *testing.T) {
	t.Parallel()
	head := newHost(t, hosts.Named("head"))
	head.StartServer()
	head.WaitReady()
	hand := hosts.New(t, hosts.Named("hand"), hosts.On(head.Network()))
	copyImage(t, hand, toolArchive, "tool.tar")
	u := supervised(t, hand, "agent", "--server", "https://"+net.JoinHostPort(head.Addr(), "6443"),
		"--token", strings.TrimSpace(head.ReadFile("/var/lib/skiff/server/agent-token")))
	s := newSpace(t, head, "kept")
	s.apply(thereApp)
	s.ready("", 1)
	before := s.containerIDs()

	newer := u.Manifest(2)
	toKubernetes("v1.37.0")(&newer)
	oneError(t, u.upgrade(u.content(newer, "x")), "a node must not be newer than its server")
	u.runs(u.Version)

	r := u.upgrade(u.skiff(2))
	if r.Code != 0 {
		t.Fatalf("skiff upgrade: %s", r)
	}
	u.runs(u.Later(2))
	u.over("done")
	contains(t, "kubectl get node", head.Kubectl("get", "node", "hand", "--no-headers"), " Ready ", u.Later(2))
	s.sameContainers("an upgrade", before)

	head.Stop()
	oneError(t, u.upgrade(u.content(newer, "x")), "no server can be asked")
	contains(t, "skiff upgrade rollback", hand.Run("skiff", "upgrade", "rollback", "--yes"), "was rolled back")
	u.runs(u.Version)
	u.over("rolled back")
	head.Start()
	head.WaitReady()
	s.sameContainers("a way back without the server", before)
}
