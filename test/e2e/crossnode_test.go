package e2e

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"skiff/test/hosts"
)

// TestCrossNode is a cluster of two machines as most are: IPv4, VXLAN.
func TestCrossNode(t *testing.T) {
	t.Parallel()
	p := newPair(t, hosts.NewNetwork(t))
	p.reachability(1)
	p.outside()
	p.datagrams()
	p.policies()
	p.ingress()
	p.volume()
	p.trouble()
	p.third()
}

// TestCrossNodeDualStack is one with both IP families, over routes, and then
// over VXLAN.
func TestCrossNodeDualStack(t *testing.T) {
	t.Parallel()
	p := newPair(t, hosts.NewNetwork(t, hosts.DualStack()), "--cluster-cidr", "10.42.0.0/16,fd00:42::/56", "--flannel-backend", "host-gw")
	p.reachability(2)
	p.outside()
	for _, name := range []string{"both.far", "kube-dns.kube-system"} {
		if got := strings.Fields(p.in("web-beta", "/tool", "lookup", name+".svc.cluster.local")); len(got) != 2 {
			t.Errorf("%s has the addresses %v, want one of each family", name, got)
		}
	}
	p.policies()
	p.ingress()
	if links := p.agent.Run("ls", "/sys/class/net"); strings.Contains(links, "flannel") {
		t.Errorf("there is a tunnel in host-gw: %s", links)
	}
	p.otherBackend("vxlan")
}

// TestCrossNodeIPv6 is one without any IPv4, over VXLAN, and then over routes.
func TestCrossNodeIPv6(t *testing.T) {
	t.Parallel()
	p := newPair(t, hosts.NewNetwork(t, hosts.IPv6Only()), "--cluster-cidr", "fd00:42::/56")
	p.reachability(1)
	p.outside()
	p.policies()
	p.ingress()
	contains(t, "the API's Service", p.Kubectl("get", "service", "kubernetes", "-o", "jsonpath={.spec.clusterIP}"), "fd00:43::1")
	p.gets("web-beta", "https://kubernetes.default.svc.cluster.local/version", "gitVersion")
	p.otherBackend("host-gw")
}

// datagrams asks a name server on the other node by a Service: UDP through
// kube-proxy's address translation and the tunnel, where wrong checksums are
// made.
func (p *pair) datagrams() {
	p.t.Helper()
	p.apply(`
apiVersion: v1
kind: Pod
metadata: {name: names, labels: {app: names}}
spec:
  nodeName: beta
  terminationGracePeriodSeconds: 0
  containers:
  - {name: c, image: IMAGE, imagePullPolicy: Never, command: [/tool, dns, 192.0.2.53]}
---
apiVersion: v1
kind: Service
metadata: {name: names}
spec: {selector: {app: names}, ports: [{port: 53, protocol: UDP}]}
`)
	p.ready("app=names", 1)
	p.apply(strings.ReplaceAll(`
apiVersion: v1
kind: Pod
metadata: {name: asker, labels: {app: asker}}
spec:
  nodeName: alpha
  dnsPolicy: None
  dnsConfig: {nameservers: [SERVER], options: [{name: attempts, value: "1"}]}
  terminationGracePeriodSeconds: 0
  containers:
  - {name: c, image: IMAGE, imagePullPolicy: Never, command: [sleep, "86400"]}
`, "SERVER", p.clusterIPs("names")[0]))
	p.ready("app=asker", 1)
	p.eventually("an answer by UDP from the other node", func() error {
		out, err := p.tryIn("asker", "/tool", "lookup", "anything.example.")
		if err == nil && !strings.Contains(out, "192.0.2.53") {
			err = fmt.Errorf("got %q", out)
		}
		return err
	})
	p.kubectl("delete", "pod", "names", "asker", "--wait=false")
}

// policies closes the pod on the agent for all but one on the server, which is
// told by its labels, and then by its address.
func (p *pair) policies() {
	p.t.Helper()
	p.client("stranger")
	ips := p.podIPs("web-beta")
	var all []string
	for _, ip := range append(slices.Clone(ips), p.clusterIPs("near")...) {
		port := "8080"
		if !slices.Contains(ips, ip) {
			port = "8101"
		}
		all = append(all, net.JoinHostPort(ip, port))
	}
	p.reaches("stranger", all, all...)
	var blocks []string
	for _, ip := range p.podIPs("web-alpha") {
		bits := "/32"
		if strings.Contains(ip, ":") {
			bits = "/128"
		}
		blocks = append(blocks, `{ipBlock: {cidr: "`+ip+bits+`"}}`)
	}
	for _, from := range []string{`{podSelector: {matchLabels: {app: web-alpha}}}`, strings.Join(blocks, ", ")} {
		p.apply(policyYAML("only", `{podSelector: {matchLabels: {app: web-beta}}, ingress: [{from: [`+from+`]}]}`))
		p.reaches("stranger", all)
		p.reaches("web-alpha", all, all...)
	}
	p.kubectl("delete", "networkpolicy", "only")
	p.reaches("stranger", all, all...)
}

// ingress serves a pod of the agent on the server's node, which is the only
// one that is published. To policies on the agent it is a peer with a name.
func (p *pair) ingress() {
	p.t.Helper()
	closed := func(peer string) {
		p.apply(policyYAML("closed", `{podSelector: {matchLabels: {app: web-beta}}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}, podSelector: {matchLabels: {app.kubernetes.io/name: `+peer+`}}}]}]}`))
	}
	closed("nobody")
	p.reaches("stranger", []string{net.JoinHostPort(p.podIPs("web-beta")[0], "8080")})
	p.apply(`
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: shop}
spec:
  rules:
  - {host: shop.test, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: near, port: {number: 8101}}}}]}}
`)
	want := slices.Sorted(slices.Values(p.server.Addrs()))
	p.eventually("the Ingress to be on the server's node only", func() error {
		got := strings.Fields(p.kubectl("get", "ingress", "shop", "-o", `jsonpath={range .status.loadBalancer.ingress[*]}{.ip}{" "}{end}`))
		if slices.Sort(got); !slices.Equal(got, want) {
			return fmt.Errorf("it is on %v, want %v", got, want)
		}
		return nil
	})
	m := &visitor{p.space, want[0]}
	p.eventually("the ingress to answer", func() error {
		got, err := m.get("http", "nobody.test", "/")
		if err == nil && got.status != 404 {
			err = fmt.Errorf("got %d %s", got.status, got.body)
		}
		return err
	})
	if got, err := m.get("http", "shop.test", "/"); err == nil && got.status < 500 {
		p.t.Errorf("the ingress gets past a policy: %d %s", got.status, got.body)
	}
	closed("skiff-ingress")
	for _, ip := range want {
		(&visitor{p.space, ip}).answers("http", "shop.test", "/", `"host":"web-beta"`)
	}
	p.kubectl("delete", "networkpolicy", "closed")
}

// volume puts data on the agent's own disk.
func (p *pair) volume() {
	p.t.Helper()
	p.apply(`
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {storageClassName: local-path, accessModes: [ReadWriteOnce], resources: {requests: {storage: 8Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: keeper, labels: {app: keeper}}
spec:
  nodeSelector: {kubernetes.io/hostname: beta}
  terminationGracePeriodSeconds: 0
  volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]
  containers:
  - name: c
    image: IMAGE
    imagePullPolicy: Never
    command: [sh, -c, "echo kept >/data/word; sleep 86400"]
    volumeMounts: [{name: data, mountPath: /data}]
`)
	p.ready("app=keeper", 1)
	if got := p.agent.Run("sh", "-c", "cat /var/lib/skiff/storage/*/word"); got != "kept\n" {
		p.t.Errorf("the volume on the agent's disk has %q", got)
	}
}

// trouble loses packets between the nodes, and then gives the agent another
// address: pods go on.
func (p *pair) trouble() {
	p.t.Helper()
	// The kubelet never changes the address of a pod on the host's network, and
	// probes it there (generateAPIPodStatus): see docs/clock.md.
	p.kubectl("delete", "pod", "host-beta", "--now")
	before := p.containerIDs()
	p.agent.For(p.t).Loss(5)
	for range 10 {
		p.gets("web-alpha", url(p.podIPs("web-beta")[0], "8080"))
		p.gets("web-beta", "http://both.far:8100/")
	}
	p.agent.For(p.t).Loss(0)
	if r := p.agent.Status(); r.Code != 0 {
		p.t.Errorf("after the loss: %s", r)
	}
	p.agent.For(p.t).Readdress()
	p.gets("web-alpha", url(p.podIPs("web-beta")[0], "8080"), `"host":"web-beta"`)
	p.gets("web-beta", url(p.podIPs("web-alpha")[0], "8080"), `"host":"web-alpha"`)
	p.eventually("the load balancer on the new address", func() error {
		return answersOK(p.server.Network(), url(p.agent.Addr(), "8101"))
	})
	p.sameContainers("another address", before)
}
