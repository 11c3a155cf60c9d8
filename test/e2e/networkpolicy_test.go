package e2e

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"skiff/test/hosts"
)

// party is a pod that serves on a few ports and may act as a client.
func party(name string) string {
	yaml := `
apiVersion: v1
kind: Pod
metadata: {name: NAME, labels: {app: NAME}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
`
	for _, port := range []string{"8080", "9001", "9100"} {
		yaml += `
  - name: p` + port + `
    image: IMAGE
    imagePullPolicy: Never
    command: [/tool, serve, ":` + port + `"]
    ports: [{name: n` + port + `, containerPort: ` + port + `}]
    readinessProbe: {tcpSocket: {port: ` + port + `}, periodSeconds: 1}
`
	}
	return strings.ReplaceAll(yaml, "NAME", name)
}

func policyYAML(name, spec string) string {
	return fmt.Sprintf(`
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: %s}
spec: %s
`, name, spec)
}

// TestNetworkPolicy isolates pods in all ways that a policy can, and looks for
// a moment in which they are not.
func TestNetworkPolicy(t *testing.T) {
	t.Parallel()
	h := newHost(t, hosts.Named("gate"))
	h.StartServer()
	h.WaitReady()
	s, other := newSpace(t, h, "town"), newSpace(t, h, "abroad")
	h.Kubectl("label", "namespace", "abroad", "team=abroad")
	other.apply(party("guest"))
	s.apply(party("web") + "---" + party("friend") + "---" + party("stranger") + `---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: n8080}]}
`)
	g := startGap(t, h)
	s.ready("", 3)
	other.ready("", 1)
	web := s.pod("web").Status.PodIP
	service := s.kubectl("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
	all := []string{web + ":8080", web + ":9001", web + ":9100", service + ":80"}
	s.reaches("stranger", all, all...)

	s.apply(policyYAML("deny", "{podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress]}"))
	s.reaches("friend", all)
	other.reaches("guest", all)
	s.reaches("web", all, all...) // itself, also by the Service
	if conn, err := h.DialContext(t.Context(), "tcp", all[0]); err != nil {
		t.Errorf("the node does not reach its own pod: %v", err)
	} else {
		_ = conn.Close()
	}
	s.apply(policyYAML("allow", `{podSelector: {matchLabels: {app: web}}, ingress: [
  {from: [{podSelector: {matchLabels: {app: friend}}}], ports: [{port: n8080}, {port: 9000, endPort: 9010}]},
  {from: [{namespaceSelector: {matchLabels: {team: abroad}}}], ports: [{port: 9100}]}]}`))
	check := func() {
		t.Helper()
		s.reaches("friend", all, all[0], all[1], all[3])
		s.reaches("stranger", all)
		other.reaches("guest", all, all[2])
	}
	check()
	g.during("kill -9", func() {
		h.Kill9()
		h.StartServer()
		h.WaitReady()
	})
	check()
	g.during("new pods", func() { g.kubectl("delete", "pod", "-l", "app=isolated", "--wait=false") })
	egressPolicies(s, web)

	g.finish()
	h.Run(nft, "delete", "table", "inet", "skiff-netpol") // as a firewall does that is loaded again
	check()

	h.Stop()
	h.StartServer("--disable", "network-policy")
	h.WaitReady()
	s.reaches("stranger", all, all...)
	if tables := h.Run(nft, "list", "tables"); strings.Contains(tables, "skiff-netpol") {
		t.Errorf("disabled, but there is a table:\n%s", tables)
	}
	h.Stop()
	h.StartServer()
	h.WaitReady()
	s.reaches("stranger", all)
	s.kubectl("delete", "networkpolicy", "--all")
	g.kubectl("delete", "networkpolicy", "--all")
	s.reaches("stranger", all, all...)
	s.eventually("nothing to be left of the policies", func() error {
		table := h.Run(nft, "list", "table", "inet", "skiff-netpol")
		if n := strings.Count(table, "\tchain "); n != 3 || strings.Contains(table, "elements") {
			return fmt.Errorf("there are %d chains:\n%s", n, table)
		}
		return nil
	})
}

// nft is as the payload of skiff carries it.
const nft = "/var/lib/skiff/bin/nft"

// egressPolicies shuts the friend in, but for some addresses.
func egressPolicies(s *space, web string) {
	s.t.Helper()
	node, stranger := s.Addr()+":10250", s.pod("stranger").Status.PodIP+":8080"
	targets := []string{web + ":8080", web + ":9001", stranger, node}
	s.reaches("friend", targets, targets[0], targets[1], stranger, node)
	egress := func(to string) {
		s.apply(policyYAML("out", "{podSelector: {matchLabels: {app: friend}}, policyTypes: [Egress], egress: ["+to+"]}"))
	}
	egress("")
	s.reaches("friend", targets)
	if out, err := s.tryIn("friend", "timeout", "2", "/tool", "lookup", "web.town.svc.cluster.local."); err == nil {
		s.t.Errorf("an isolated pod asks for names: %s", out)
	}
	egress("{to: [{ipBlock: {cidr: " + web + "/32}}], ports: [{port: 8080}]}, {to: [{namespaceSelector: {}, podSelector: {matchLabels: {k8s-app: kube-dns}}}], ports: [{port: 53, protocol: UDP}]}")
	s.reaches("friend", targets, targets[0])
	s.eventually("DNS for the isolated pod", func() error {
		_, err := s.tryIn("friend", "timeout", "2", "/tool", "lookup", "web.town.svc.cluster.local.")
		return err
	})
	egress("{to: [{ipBlock: {cidr: 10.42.0.0/16, except: [" + web + "/32]}}]}")
	s.reaches("friend", targets, stranger)
	s.kubectl("delete", "networkpolicy", "out")
	s.reaches("friend", targets, targets[0], targets[1], stranger, node)
}

// reaches waits until a pod reaches exactly the given ones of some addresses.
func (s *space) reaches(pod string, of []string, want ...string) {
	s.t.Helper()
	s.eventually(fmt.Sprintf("%s to reach only %v", pod, want), func() error {
		out, err := s.tryIn(pod, "/tool", "reach", strings.Join(of, ","))
		if err != nil {
			return err
		}
		var got []string
		for line := range strings.Lines(out) {
			if addr, ok := strings.CutPrefix(strings.TrimSpace(line), "yes "); ok {
				got = append(got, addr)
			}
		}
		if !slices.Equal(got, want) {
			return fmt.Errorf("it reaches %v of %v", got, of)
		}
		return nil
	})
}

// gap looks for a moment in which isolated pods can be reached: a prober runs
// before they start and asks every address of the node all the time.
type gap struct {
	*space
	addresses map[string]bool // that isolated pods have had
}

const isolated = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: isolated}
spec:
  replicas: 5
  selector: {matchLabels: {app: isolated}}
  template:
    metadata: {labels: {app: isolated}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: c
        image: IMAGE
        imagePullPolicy: Never
        command: [/tool, serve]
        readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
`

func startGap(t *testing.T, h *hosts.Host) *gap {
	t.Helper()
	g := &gap{space: newSpace(t, h, "gap"), addresses: map[string]bool{}}
	g.apply(`
apiVersion: v1
kind: Pod
metadata: {name: prober, labels: {app: prober}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: c, image: IMAGE, imagePullPolicy: Never, command: [/tool, probe, "10.42.0.0/26:8080"]}
---
` + policyYAML("isolated", "{podSelector: {matchLabels: {app: isolated}}}"))
	g.ready("app=prober", 1)
	g.during("the first start", func() {
		g.apply(isolated + `
---
apiVersion: v1
kind: Pod
metadata: {name: open, labels: {app: open}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: c, image: IMAGE, imagePullPolicy: Never, command: [/tool, serve]}
`)
	})
	return g
}

// during does something after which the isolated pods are to be ready again,
// and remembers their addresses.
func (g *gap) during(what string, fn func()) {
	g.t.Helper()
	fn()
	g.eventually("the isolated pods after "+what, func() error {
		ready := 0
		for _, p := range g.pods("app=isolated") {
			if p.Status.PodIP != "" {
				g.addresses[p.Status.PodIP] = true
			}
			for _, c := range p.Status.Conditions {
				if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue && p.DeletionTimestamp == nil {
					ready++
				}
			}
		}
		if ready != 5 {
			return fmt.Errorf("%d of 5 are ready", ready)
		}
		return nil
	})
}

// finish checks what the prober has seen.
func (g *gap) finish() {
	g.t.Helper()
	out := g.kubectl("logs", "prober")
	g.kubectl("delete", "pod/prober", "deployment/isolated", "--wait=false")
	seen := map[string]time.Time{}
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) == 4 && net.ParseIP(f[2]) != nil {
			at, err := time.Parse(time.RFC3339Nano, f[3])
			if err != nil {
				g.t.Fatal(err)
			}
			seen[f[2]] = at
		}
	}
	if open := g.pod("open").Status.PodIP; seen[open].IsZero() {
		g.t.Errorf("the prober has not found the pod that is not isolated, %s; it has seen:\n%s", open, out)
	}
	if len(g.addresses) < 10 {
		g.t.Errorf("isolated pods have had only the addresses %v", slices.Sorted(maps.Keys(g.addresses)))
	}
	for ip := range g.addresses {
		if at, ok := seen[ip]; ok {
			g.t.Errorf("the prober got an answer from the isolated pod at %s, %s", ip, at)
		}
	}
}
