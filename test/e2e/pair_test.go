package e2e

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"skiff/test/hosts"
)

// pair is a cluster of two machines with the same pods on each: web-NODE serves
// and acts as a client, host-NODE does so in the node's network.
type pair struct {
	*space
	server, agent *hosts.Host
	args          []string // the server's
}

// newPair starts the machines on the network and the pods on them.
func newPair(t *testing.T, n *hosts.Network, args ...string) *pair {
	t.Helper()
	p := &pair{server: newHost(t, hosts.Named("alpha"), hosts.On(n)), agent: newHost(t, hosts.Named("beta"), hosts.On(n)), args: args}
	p.server.StartServer(args...)
	p.agent.StartAgent(p.server)
	p.server.WaitReady()
	p.agent.WaitReady()
	p.space = newSpace(t, p.server, "far")
	for _, node := range p.nodes() {
		p.apply(strings.ReplaceAll(pairPods, "NODE", node.Name()))
	}
	p.apply(pairServices)
	p.ready("far=web", 2)
	p.ready("far=host", 2)
	return p
}

func (p *pair) nodes() []*hosts.Host { return []*hosts.Host{p.server, p.agent} }

const pairPods = `
apiVersion: v1
kind: Pod
metadata: {name: web-NODE, labels: {far: web, app: web-NODE}}
spec:
  nodeName: NODE
  terminationGracePeriodSeconds: 0
  containers:
  - {name: c, image: IMAGE, imagePullPolicy: Never, command: [/tool, serve], readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}}
---
apiVersion: v1
kind: Pod
metadata: {name: host-NODE, labels: {far: host}}
spec:
  nodeName: NODE
  hostNetwork: true
  dnsPolicy: ClusterFirstWithHostNet
  terminationGracePeriodSeconds: 0
  containers:
  - {name: c, image: IMAGE, imagePullPolicy: Never, command: [/tool, serve, ":18080"], readinessProbe: {tcpSocket: {port: 18080}, periodSeconds: 1}}
`

const pairServices = `
apiVersion: v1
kind: Service
metadata: {name: both}
spec:
  type: LoadBalancer
  ipFamilyPolicy: PreferDualStack
  selector: {far: web}
  ports: [{port: 8100, targetPort: 8080, nodePort: 30100}]
---
apiVersion: v1
kind: Service
metadata: {name: near}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  ipFamilyPolicy: PreferDualStack
  selector: {app: web-beta}
  ports: [{port: 8101, targetPort: 8080}]
`

func url(ip, port string) string { return "http://" + net.JoinHostPort(ip, port) + "/" }

// podIPs are a pod's addresses.
func (p *pair) podIPs(pod string) []string {
	p.t.Helper()
	var out []string
	for _, ip := range p.pod(pod).Status.PodIPs {
		out = append(out, ip.IP)
	}
	return out
}

func (p *pair) clusterIPs(service string) []string {
	return strings.Fields(p.kubectl("get", "service", service, "-o", `jsonpath={range .spec.clusterIPs[*]}{@}{" "}{end}`))
}

// gets waits until the pod gets an answer with all of this in it.
func (p *pair) gets(pod, url string, want ...string) {
	p.t.Helper()
	p.eventually(pod+" to get "+url, func() error {
		out, err := p.tryIn(pod, "/tool", "get", url)
		for _, w := range want {
			if err == nil && !strings.Contains(out, w) {
				err = fmt.Errorf("got %s, want %s in it", out, w)
			}
		}
		return err
	})
}

// getsFromAll waits until the answers have come from each of the pods.
func (p *pair) getsFromAll(pod, url string) {
	p.t.Helper()
	missing := []string{"web-alpha", "web-beta"}
	p.eventually(pod+" to be answered by all pods of "+url, func() error {
		out, err := p.tryIn(pod, "/tool", "get", url)
		if err != nil {
			return err
		}
		missing = slices.DeleteFunc(missing, func(m string) bool { return strings.Contains(out, `"host":"`+m+`"`) })
		if len(missing) > 0 {
			return fmt.Errorf("%v have not answered", missing)
		}
		return nil
	})
}

// reachability goes from every pod to every other, by all ways there are.
func (p *pair) reachability(families int) {
	p.t.Helper()
	for _, node := range p.nodes() {
		if got := len(node.Addrs()); got != families {
			p.t.Fatalf("node %s has %d addresses, want %d", node.Name(), got, families)
		}
	}
	both := p.clusterIPs("both")
	if len(both) != families || len(p.podIPs("web-beta")) != families {
		p.t.Fatalf("Service %v, pod %v: want %d families", both, p.podIPs("web-beta"), families)
	}
	for _, way := range [][2]string{{"alpha", "beta"}, {"beta", "alpha"}} {
		from, to := way[0], way[1]
		for i, ip := range p.podIPs("web-" + to) {
			// The one who is asked sees who asks.
			client := `"client":"` + strings.TrimSuffix(net.JoinHostPort(p.podIPs("web-" + from)[i], "0"), "0")
			p.gets("web-"+from, url(ip, "8080"), `"host":"web-`+to+`"`, client)
			p.gets("host-"+from, url(ip, "8080"), `"host":"web-`+to+`"`)
		}
		for _, h := range p.nodes() {
			if h.Name() != to {
				continue
			}
			for _, ip := range h.Addrs() {
				p.gets("web-"+from, url(ip, "18080"), `"host":"`+to+`"`)
			}
		}
		for _, ip := range both {
			p.getsFromAll("web-"+from, url(ip, "8100"))
			p.getsFromAll("host-"+from, url(ip, "8100"))
		}
		p.gets("web-"+from, "http://both.far:8100/")
		p.gets("host-"+from, "http://both.far.svc.cluster.local:8100/")
	}
}

// outside comes from outside of the cluster: NodePorts on each node, load
// balancers on those that serve.
func (p *pair) outside() {
	p.t.Helper()
	network := p.server.Network()
	all := append(p.server.Addrs(), p.agent.Addrs()...)
	for _, service := range []struct {
		name string
		want []string
	}{{"both", all}, {"near", p.agent.Addrs()}} {
		want := slices.Sorted(slices.Values(service.want))
		p.eventually("Service "+service.name+" to be served on "+fmt.Sprint(want), func() error {
			got := strings.Fields(p.kubectl("get", "service", service.name, "-o", `jsonpath={range .status.loadBalancer.ingress[*]}{.ip}{" "}{end}`))
			if slices.Sort(got); !slices.Equal(got, want) {
				return fmt.Errorf("it is served on %v", got)
			}
			return nil
		})
	}
	for _, ip := range all {
		for _, port := range []string{"8100", "30100"} {
			p.eventually("port "+port+" of "+ip, func() error { return answersOK(network, url(ip, port)) })
		}
	}
	for i, ip := range p.agent.Addrs() {
		client := `"client":"` + strings.TrimSuffix(net.JoinHostPort(network.Gateways()[i], "0"), "0")
		p.eventually("the pod on the agent to know who calls", func() error {
			_, body, err := hosts.Get(network, url(ip, "8101"))
			if err == nil && !strings.Contains(body, client) {
				err = fmt.Errorf("it says %s, want %s", body, client)
			}
			return err
		})
	}
}
