package e2e

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"skiff/test/hosts"
)

// Certificates that live for half a minute instead of a year.
const (
	briefly  = 30 * time.Second
	lifetime = "SKIFF_CERT_LIFETIME_DAYS=0.00035"
)

// TestExpiry has certificates run out: while server and agent run, which nobody
// may notice, and while both are switched off, after which both come back with
// nothing but what is on their disks.
func TestExpiry(t *testing.T) {
	// Not beside others: on a machine that is too busy to renew them in half a
	// minute certificates do run out.
	network := hosts.NewNetwork(t)
	server := newHost(t, hosts.Named("mayfly"), hosts.On(network))
	agent := newHost(t, hosts.Named("dayfly"), hosts.On(network))
	server.StartWith("env", lifetime, "skiff", "server")
	agent.StartAgent(server)
	agent.WaitReady()
	server.WaitReady()
	s := newSpace(t, server, "flies")
	for _, h := range []*hosts.Host{server, agent} {
		s.apply(fmt.Sprintf(onNode, h.Name(), h.Name()))
	}
	s.ready("app=fly", 2)
	before, servers, agents := s.containerIDs(), certificates(server, "server"), certificates(agent, "agent")

	for end := time.Now().Add(briefly + 10*time.Second); time.Now().Before(end); {
		now := &space{Host: s.Host, t: t, kube: server.Kube(), ns: s.ns} // by the kubeconfig of this moment
		if err := nodesReady(server, 2); err != nil {
			t.Errorf("while certificates were renewed: %v", err)
		}
		now.pods("")
		<-time.After(time.Second)
	}
	for name, old := range servers {
		if now := certificates(server, "server")[name]; now.NotAfter.Equal(old.NotAfter) || time.Until(now.NotAfter) < 0 {
			t.Errorf("%s of the server was not renewed: it ended at %s, now at %s", name, old.NotAfter, now.NotAfter)
		}
	}
	for name, old := range agents {
		if now := certificates(agent, "agent")[name]; now.NotAfter.Equal(old.NotAfter) || time.Until(now.NotAfter) < 0 {
			t.Errorf("%s of the agent was not renewed: it ended at %s, now at %s", name, old.NotAfter, now.NotAfter)
		}
	}
	s = &space{Host: s.Host, t: t, kube: server.Kube(), ns: s.ns}
	everywhere := func(after string) {
		t.Helper()
		for _, h := range []*hosts.Host{server, agent} {
			s.eventually("exec on "+h.Name()+" after "+after, func() error {
				out, err := s.tryIn("on-"+h.Name(), "hostname")
				if err == nil && strings.TrimSpace(out) != "on-"+h.Name() {
					err = errors.New(out)
				}
				return err
			})
		}
		s.sameContainers(after, before)
	}
	everywhere("renewals")
	contains(t, "the server's log", server.Log(), "the certificate that it was opened with has expired")

	server.Kill9()
	agent.Kill9()
	<-time.After(time.Until(latestEnd(certificates(agent, "agent"))) + time.Second)
	agent.StartWith("skiff", "agent", "--server", "https://"+net.JoinHostPort(server.Addr(), "6443")) // no token
	<-time.After(3 * time.Second)
	for name, c := range certificates(agent, "agent") {
		if time.Now().Before(c.NotAfter) {
			t.Errorf("%s of the agent is good until %s without any server", name, c.NotAfter)
		}
	}
	server.Start()
	server.WaitReady()
	agent.WaitReady()
	s = &space{Host: s.Host, t: t, kube: server.Kube(), ns: s.ns}
	s.eventually("both nodes ready", func() error { return nodesReady(server, 2) })
	everywhere("a time in a box")
}

const onNode = `
apiVersion: v1
kind: Pod
metadata: {name: on-%s, labels: {app: fly}}
spec:
  nodeName: %s
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: IMAGE, imagePullPolicy: Never, command: [/tool, serve]}]
`

// certificates reads those of a server or of a node, without the authorities.
func certificates(h *hosts.Host, of string) map[string]*x509.Certificate {
	dir := "/var/lib/skiff/" + of + "/tls"
	all := map[string]*x509.Certificate{}
	files, _ := filepath.Glob(filepath.Join(h.Path(dir), "*.crt"))
	for _, f := range files {
		name := filepath.Base(f)
		block, _ := pem.Decode([]byte(h.ReadFile(filepath.Join(dir, name))))
		if block == nil {
			continue
		}
		if c, err := x509.ParseCertificate(block.Bytes); err == nil && !c.IsCA {
			all[name] = c
		}
	}
	return all
}

func latestEnd(all map[string]*x509.Certificate) time.Time {
	var end time.Time
	for _, c := range all {
		if c.NotAfter.After(end) {
			end = c.NotAfter
		}
	}
	return end
}
