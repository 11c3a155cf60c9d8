package e2e

import (
	"net"
	"slices"
	"strings"

	"skiff/test/hosts"
)

// third adds another agent: what goes from agent to agent passes no server.
func (p *pair) third() {
	p.t.Helper()
	gamma := newHost(p.t, hosts.Named("gamma"), hosts.On(p.server.Network()))
	gamma.StartAgent(p.server)
	gamma.WaitReady()
	p.apply(strings.ReplaceAll(pairPods, "NODE", "gamma"))
	p.apply(`
apiVersion: v1
kind: Service
metadata: {name: third}
spec: {selector: {app: web-gamma}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: third}
spec:
  rules:
  - {host: third.test, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: third, port: {number: 80}}}}]}}
`)
	p.ready("app=web-gamma", 1)
	beta, third := p.podIPs("web-beta")[0], p.podIPs("web-gamma")[0]
	p.gets("web-gamma", url(beta, "8080"), `"host":"web-beta"`, `"client":"`+third+":")
	p.gets("web-beta", url(third, "8080"), `"host":"web-gamma"`, `"client":"`+beta+":")
	p.gets("web-beta", "http://third.far/", `"host":"web-gamma"`)
	p.gets("web-gamma", "http://near.far.svc.cluster.local:8101/", `"host":"web-beta"`)
	p.eventually("the NodePort of the third machine", func() error {
		return answersOK(p.server.Network(), url(gamma.Addr(), "30100"))
	})
	to := []string{net.JoinHostPort(beta, "8080")}
	p.apply(policyYAML("only", `{podSelector: {matchLabels: {app: web-beta}}, ingress: [{from: [{podSelector: {matchLabels: {app: web-alpha}}}]}]}`))
	p.reaches("web-gamma", to)
	p.apply(policyYAML("only", `{podSelector: {matchLabels: {app: web-beta}}, ingress: [{from: [{podSelector: {matchLabels: {app: web-gamma}}}]}]}`))
	p.reaches("web-gamma", to, to...)
	p.reaches("web-alpha", to)
	p.kubectl("delete", "networkpolicy", "only")
	(&visitor{p.space, p.server.Addr()}).answers("http", "third.test", "/", `"host":"web-gamma"`)
}

// otherBackend starts the server with another flannel back end, which the agent
// takes over by itself; the pods stay and reach each other.
func (p *pair) otherBackend(backend string) {
	p.t.Helper()
	before := p.containerIDs()
	args := slices.Clone(p.args)
	if i := slices.Index(args, "--flannel-backend"); i >= 0 {
		args = slices.Delete(args, i, i+2)
	}
	p.server.Stop()
	p.server.StartServer(append(args, "--flannel-backend", backend)...)
	p.server.WaitReady()
	for _, node := range p.nodes() {
		p.eventually(node.Name()+" to use "+backend, func() error {
			links := node.Run("ls", "/sys/class/net")
			if strings.Contains(links, "flannel") != (backend == "vxlan") {
				return errorf("it has the interfaces %s", links)
			}
			return nil
		})
	}
	for _, way := range [][2]string{{"alpha", "beta"}, {"beta", "alpha"}} {
		for _, ip := range p.podIPs("web-" + way[1]) {
			p.gets("web-"+way[0], url(ip, "8080"), `"host":"web-`+way[1]+`"`)
		}
	}
	p.gets("web-beta", "http://both.far:8100/")
	p.sameContainers("another back end", before)
}
